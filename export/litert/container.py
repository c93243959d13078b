"""A .litertlm file: a bundle's LiteRT parts as Google's LiteRT-LM takes them, with tokenizer, chat template and stop
tokens.

The same graphs with the same weights: prefill and decode, which take tokens where the model does not see, else
embeddings; then the token embedding, and the vision part as one graph that takes pixels from 0 to 1. What LiteRT-LM
cannot be told is refused, or noted. docs/litert.md says how to ask it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pocketvlm.bundle.chat import ChatLayout
from pocketvlm.errors import ExportError, one_line
from pocketvlm.export.litert.graph import TYPES, LitertGraph
from pocketvlm.export.litert.program import Constant, LitertFile
from pocketvlm.files import check_writable, written_whole
from pocketvlm.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pocketvlm.bundle.chat import Reasoning
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.vision import Vision
    from pocketvlm.export.litert.graph import LitertTensor

#: What begins reasoning in an answer, by what ends it: a channel of LiteRT-LM's has both.
REASONING = {"</think>": "<think>"}


#: Makes an input of a signature, of its name and shape, from other ones; None where it stays as it is.
Change = Callable[[LitertGraph, str, "Sequence[int]"], "LitertTensor | None"]


class WrittenParts:
    """The graphs of a bundle's .tflite file, which was held to what exports write when the bundle was opened."""

    def __init__(self, bundle: Bundle, file: str) -> None:
        self._content, self._file = bundle.mapped(file), file
        self._model = schema.ModelT.InitFromPackedBuf(self._content, 0)
        self._signatures = {one.signatureKey.decode(): one for one in self._model.signatureDefs}

    def copy(self, target: LitertFile, name: str, new_name: str | None = None, change: Change | None = None) -> None:
        """A signature in another file: as it is, or with inputs that ``change`` makes of others."""
        signature, graph = self._signatures[name], LitertGraph(target, new_name or name)
        tensors, taken = self._model.subgraphs[signature.subgraphIndex].tensors, {}
        for one in signature.inputs:
            tensor, key = tensors[one.tensorIndex], one.name.decode()
            dtype = next(kind for kind, number in TYPES.items() if number == tensor.type)
            step = None if tensor.quantization is None else float(tensor.quantization.scale[0])
            changed = None if change is None else change(graph, key, tensor.shape)
            taken[key] = graph.input(key, tensor.shape, dtype, step) if changed is None else changed
        for key, value in self.graft(graph, name, taken).items():
            graph.output(key, value)
        graph.finish()

    def graft(self, graph: LitertGraph, name: str, taken: dict[str, Any]) -> dict[str, Any]:
        """A signature's operators behind ``taken`` in a graph under construction; gives its outputs."""
        signature = self._signatures[name]
        inputs = {one.tensorIndex: taken[one.name.decode()] for one in signature.inputs}
        source = self._model.subgraphs[signature.subgraphIndex]
        values = graph.graft(source, self._model.operatorCodes, lambda at: self._buffer(graph.program, at), inputs)
        return {one.name.decode(): values[one.tensorIndex] for one in signature.outputs}

    def _buffer(self, target: LitertFile, index: int) -> int:
        buffer = self._model.buffers[index]
        if buffer.size:
            content = self._content[buffer.offset : buffer.offset + buffer.size]
            return target.buffer(f"{self._file}/{index}", Constant.of(np.frombuffer(content, np.uint8)))
        if buffer.data is None:
            return 0
        return target.buffer(f"{self._file}/{index}", Constant.of(np.asarray(buffer.data, np.uint8)))


def write_litertlm(
    bundle: Bundle, output: Path, note: Callable[[str], None] = lambda line: None, *, npu: bool = False
) -> None:
    """Write a bundle's LiteRT parts as one file for LiteRT-LM; ``note`` gets what a person should know of it.

    ``npu``: its program for an NPU, for LiteRT-LM's executor of such; of a bundle that has no other parts always.

    :raises ExportError: LiteRT-LM cannot be told something that the bundle says; nothing is left behind
    """
    engines = bundle.manifest.engines
    engine = "litert_npu" if npu or ("litert" not in engines and "litert_npu" in engines) else "litert"
    manifest = bundle.for_engine(engine).manifest
    if engine not in engines:
        raise ExportError(f"{bundle.location} has no LiteRT parts: export it with --backend {engine}")
    metadata = _metadata(manifest, bundle)
    content = metadata.SerializeToString()
    check_writable(output, ExportError)
    import litert_lm_builder

    with scratch(output.resolve().parent, f".{output.name}.parts-") as directory, _failures():
        builder = litert_lm_builder.LitertLmFileBuilder()
        author = litert_lm_builder.Metadata(key="Authors", value="pocketvlm", dtype=litert_lm_builder.DType.STRING)
        builder.add_system_metadata(author)
        (directory / "metadata.pb").write_bytes(content)
        builder.add_llm_metadata(str(directory / "metadata.pb"))
        (directory / "tokenizer.json").write_bytes(bundle.read(manifest.tokenizer))
        builder.add_hf_tokenizer(str(directory / "tokenizer.json"))
        if engine == "litert_npu":
            (directory / "executor.pb").write_bytes(_executor(manifest))
            builder.add_executor_metadata(str(directory / "executor.pb"))
        write = _write_parts if engine == "litert" else _write_program
        for kind, path in write(bundle, manifest, directory).items():
            builder.add_tflite_model(str(path), getattr(litert_lm_builder.TfLiteModelType, kind))
        with written_whole(output) as partial, partial.open("xb") as stream:
            builder.build(stream)
    for line in _limits(manifest, [stop.token_str for stop in metadata.stop_tokens]):
        note(line)


def template_of(chat: ChatLayout, placeholder: str, stops: Sequence[str]) -> str:
    """The chat layout in Jinja: literals, and messages as they are but for an answer's reasoning.

    An image is its ``placeholder`` alone: what stands around each tile is text of whoever cuts them. ``stops`` are the
    texts of tokens that end an answer. LiteRT-LM gives the model what a rendering has beyond the one before, behind the
    token that ended the answer; so what follows that token stands in front of the next message.

    :raises ExportError: the layout does more
    """
    reasoning = chat.reasoning
    for says, what in (
        (reasoning is not None and reasoning.end not in REASONING, "drops white space in front of earlier answers"),
        (chat.images_first, "puts images in front of texts"),
        (chat.text is not None, "puts something around texts"),
        (chat.system_joins, "trims a system message and a question as one"),
        (chat.strip_parts, "trims each text beside an image"),
        (chat.behind_images is not None, "puts something between images and texts"),
        (chat.single_turn, "takes one question"),
        (any(role.prefix_with_image is not None for role in chat.roles.values()), "begins otherwise with an image"),
    ):
        if says:
            raise ExportError(
                f"the chat layout {what}, which a .litertlm's template cannot: ask the model by run or chat"
            )
    lines = [_said(chat.start)]
    if chat.default_system is not None:
        role = chat.roles["system"]
        whole = _said(role.prefix + chat.default_system + role.suffix)
        lines.append(f"{{%- if messages[0]['role'] != 'system' -%}}{whole}{{%- endif -%}}")
    lines.append("{%- for message in messages -%}")
    ended, rest = _split_at_stop(chat, stops)
    if rest:
        lines.append(f"{{%- if loop.previtem and loop.previtem['role'] == 'assistant' -%}}{_said(rest)}{{%- endif -%}}")
    for index, (name, role) in enumerate(chat.roles.items()):
        lines.append(f"{{%- {'elif' if index else 'if'} message['role'] == '{name}' -%}}{_said(role.prefix)}")
        own = reasoning if name == "assistant" else None
        lines += _content(placeholder, strip=role.strip) if own is None else _answer(own, strip=role.strip)
        lines.append(_said(ended if name == "assistant" else role.suffix))
    lines += [
        "{%- endif -%}{%- endfor -%}",
        f"{{%- if add_generation_prompt -%}}{_said(chat.generation_prefix)}{{%- endif -%}}",
    ]
    return "\n".join(line for line in lines if line)


def _split_at_stop(chat: ChatLayout, stops: Sequence[str]) -> tuple[str, str]:
    """What stands behind an answer: the token that ends it, and what follows that; all, and nothing, without one."""
    suffix = chat.roles["assistant"].suffix if "assistant" in chat.roles else ""
    found = next((stop for stop in stops if suffix.startswith(stop)), None)
    return (suffix, "") if found is None else (found, suffix[len(found) :])


def _content(placeholder: str, *, strip: bool) -> list[str]:
    """Jinja of a message's content: texts and images. Of several parts only one that stands alone is trimmed."""
    trim = " | trim" if strip else ""
    alone = "{{- part['text'] | trim if loop.first and loop.last else part['text'] -}}"
    return [
        f"{{%- if message['content'] is string -%}}{{{{- message['content']{trim} -}}}}{{%- else -%}}",
        "{%- for part in message['content'] -%}",
        f"{{%- if part['type'] == 'image' -%}}{_said(placeholder)}{{%- else -%}}",
        alone if trim else "{{- part['text'] -}}",
        "{%- endif -%}{%- endfor -%}{%- endif -%}",
    ]


def _answer(reasoning: Reasoning, *, strip: bool) -> list[str]:
    """Jinja of an answer without its reasoning, which LiteRT-LM may have taken out of it as a channel."""
    assert reasoning.end is not None
    end, texts = _quoted(reasoning.end), "message['content'] | map(attribute='text') | join('')"
    kept = f"text.split({end})[-1].lstrip({_quoted(reasoning.trim)}) if {end} in text or message['channels'] else text"
    return [
        f"{{%- set text = message['content'] if message['content'] is string else {texts} -%}}",
        f"{{{{- {f'({kept}) | trim' if strip else kept} -}}}}",
    ]


def _said(text: str) -> str:
    """Jinja that gives a text."""
    return f"{{{{- {_quoted(text)} -}}}}" if text else ""


def _quoted(text: str) -> str:
    """A string in Jinja."""
    escaped = (
        text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f"'{escaped}'"


def _metadata(manifest: Manifest, bundle: Bundle) -> Any:
    """LiteRT-LM's ``LlmMetadata``: its length, stop tokens, template and, of a model that sees, how images come.

    :raises ExportError: something cannot be told
    """
    if manifest.chat is None:
        raise ExportError("LiteRT-LM asks for a chat template, and the model has none")
    if manifest.vision is not None and manifest.vision.packing is not None:
        raise ExportError("LiteRT-LM has no way to take padding out of a picture's tokens, as this model does")
    try:
        from litert_lm_builder.runtime.proto import llm_metadata_pb2
    except ImportError as error:
        raise ExportError("litert-lm-builder is not installed: pip install 'pocketvlm[litert]'") from error
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(bundle.read(manifest.tokenizer).decode())
    metadata = llm_metadata_pb2.LlmMetadata()
    metadata.max_num_tokens = manifest.kv_cache.length
    stops = [str(tokenizer.id_to_token(token)) for token in manifest.tokens.stop]
    for stop in stops:
        metadata.stop_tokens.add().token_str = stop
    generic, placeholder = metadata.llm_model_type.generic_model, ""
    generic.SetInParent()
    if manifest.vision is not None and manifest.tokens.image is not None:
        placeholder = str(tokenizer.id_to_token(manifest.tokens.image))
        generic.image_enabled = True
        generic.image_token_regex = re.escape(placeholder)
        generic.delimiter_regex = f"({re.escape(placeholder)})"
        generic.image_tensor_height = generic.image_tensor_width = manifest.vision.tile_size
    metadata.jinja_prompt_template = template_of(manifest.chat, placeholder, stops)
    reasoning = manifest.chat.reasoning
    if reasoning is not None and reasoning.end is not None:
        start = REASONING[reasoning.end]
        metadata.channels.add(channel_name="thought", start=start, end=reasoning.end, is_reasoning_channel=True)
    return metadata


def _write_parts(bundle: Bundle, manifest: Manifest, directory: Path) -> dict[str, Path]:
    """The files of the container's sections, by their kinds."""
    parts = manifest.engines["litert"]
    text = WrittenParts(bundle, parts["decode"].file)
    files = {"PREFILL_DECODE": _decoder(text, parts, of_tokens=manifest.vision is None)}
    if manifest.vision is not None:
        vision = WrittenParts(bundle, parts["image_tokens"].file)
        files |= {"VISION_ENCODER": _encoder(vision, manifest.vision), "VISION_ADAPTER": _adapter(manifest)}
        files["EMBEDDER"] = LitertFile()
        text.copy(files["EMBEDDER"], "token_embedding", "embedder")
    written = {}
    for kind, file in files.items():
        written[kind] = directory / f"{kind.lower()}.tflite"
        file.write(written[kind])
    return written


def _write_program(bundle: Bundle, manifest: Manifest, directory: Path) -> dict[str, Path]:
    """The same of a program for an NPU: its files as they are, the decoder compiled where it is."""
    parts, program = manifest.engines["litert_npu"], manifest.litert_npu
    assert program is not None
    decoder = program.programs[0] if program.compiled else parts["decode"].file
    files = {"PREFILL_DECODE": decoder, "AUX": parts["decode_rope"].file, "EMBEDDER": parts["decode_embedder"].file}
    written = {}
    for kind, file in files.items():
        written[kind] = directory / f"{kind.lower()}.tflite"
        with bundle.mapped(file) as content:
            written[kind].write_bytes(content)
    if manifest.vision is not None:
        vision = WrittenParts(bundle, parts["image_tokens"].file)
        made = {"VISION_ENCODER": _encoder(vision, manifest.vision), "VISION_ADAPTER": _adapter(manifest)}
        for kind, graph in made.items():
            written[kind] = directory / f"{kind.lower()}.tflite"
            graph.write(written[kind])
    return written


def _executor(manifest: Manifest) -> bytes:
    """LiteRT-LM's ``ExecutorMetadata``: the KV cache that its NPU executor keeps."""
    from litert_lm_builder.runtime.proto import executor_metadata_pb2

    metadata = executor_metadata_pb2.ExecutorMetadata()
    length = metadata.llm_executor_metadata.max_history_size = manifest.kv_cache.length
    for layer in range(manifest.model.layers):
        for kind, part in enumerate("kv", 1):
            name = f"kv_cache_{part}_{layer}"
            metadata.llm_executor_metadata.state_buffers.add(
                prefill_input_name=name, prefill_output_name=name, decode_input_name=name, decode_output_name=name,
                type=kind, sequence_axis=2, maximum_sequence_length=length,
            )  # fmt: skip
    content: bytes = metadata.SerializeToString()
    return content


def _decoder(text: WrittenParts, parts: Mapping[str, Any], *, of_tokens: bool) -> LitertFile:
    """The signatures prefill_N and decode, of tokens or of embeddings.

    The token that ended an answer comes with the next prefill, as its first. Of a model whose decoder takes embeddings
    LiteRT-LM 0.18 does not look it up: it writes its number into the first four bytes of a row of zeros. Such a row
    becomes the token's embedding here.
    """
    file = LitertFile()
    for name in parts:
        if not (name == "decode" or name.startswith("prefill_")):
            continue

        def change(graph: LitertGraph, key: str, shape: Sequence[int], name: str = name) -> LitertTensor | None:
            if key != "embeddings":
                return None
            rows = int(shape[1])
            if of_tokens:
                tokens = graph.input("tokens", [1, rows], "int32")
                embedding = "token_embedding" if rows == 1 else f"token_embedding_{rows}"
                return text.graft(graph, embedding, {"token_ids": tokens})["embeddings"]
            return None if name == "decode" else _looked_up(text, graph, graph.input(key, shape))

        text.copy(file, name, change=change)
    return file


def _looked_up(text: WrittenParts, graph: LitertGraph, rows: LitertTensor) -> LitertTensor:
    """embeddings float32 [1, tokens, hidden] -> the same, the first row looked up where it has a token's number."""
    _, tokens, width = rows.shape
    first = graph.slice(rows, 1, 0, 1)
    rest = graph.largest(graph.slice(first, 2, 1, width - 1))  # [1, 1, 1]
    number = graph.bits(graph.slice(first, 2, 0, 1))
    bare = graph.equal(rest, graph.scalar(0.0))
    # What are no numbers of tokens count as 0, and what is looked up for them is not taken.
    number = graph.multiply(number, graph.cast(bare, "int32"))
    # [1, 1, 1] -> [1, 1]
    found = text.graft(graph, "token_embedding", {"token_ids": graph.reshape(number, [1, 1])})["embeddings"]
    first = graph.add(first, graph.multiply(found, graph.cast(bare, "float32")))
    return graph.concatenate([first, graph.slice(rows, 1, 1, tokens - 1)], 1)


def _encoder(vision: WrittenParts, how: Vision) -> LitertFile:
    """images float32 [1, tile, tile, 3] from 0 to 1 -> features float32 [1, tokens, hidden]"""
    file, side = LitertFile(), how.tile_size
    graph = LitertGraph(file, f"vision_{side}")
    images = graph.input("images", [1, side, side, 3])
    std = np.array(how.std, np.float64)
    scale, shift = 255 * how.rescale / std, -np.array(how.mean, np.float64) / std
    levels = graph.multiply(images, graph.constant("pixel_scale", scale.astype(np.float32)))
    levels = graph.add(levels, graph.constant("pixel_shift", shift.astype(np.float32)))
    # [1, tile, tile, 3] -> [1, 3, tile, tile]
    pixels = graph.transpose(levels, [0, 3, 1, 2])
    patches = vision.graft(graph, "patch_embedding", {"pixel_values": pixels})["patches"]
    graph.output("features", vision.graft(graph, "image_tokens", {"patches": patches})["image_embeds"])
    graph.finish()
    return file


def _adapter(manifest: Manifest) -> LitertFile:
    """soft_tokens float32 [1, tokens, hidden] -> mm_embedding, the same: the encoder has the projector already."""
    assert manifest.vision is not None
    file = LitertFile()
    graph = LitertGraph(file, "vision_adapter")
    tokens = graph.input("soft_tokens", [1, manifest.vision.tokens_per_tile, manifest.model.hidden_size])
    graph.output("mm_embedding", graph.multiply(tokens, graph.scalar(1.0)))
    graph.finish()
    return file


def _limits(manifest: Manifest, stops: Sequence[str]) -> Iterator[str]:
    """What the file does not say of the model."""
    vision = manifest.vision
    if vision is not None and (len(vision.candidates) > 1 or vision.thumbnail != "none"):
        yield (
            "LiteRT-LM scales each image to one tile: answers are this runtime's where the client cuts a picture's "
            "tiles and puts the markers between them (docs/litert.md)"
        )
    chat = manifest.chat
    if chat is not None and _split_at_stop(chat, stops)[0] not in stops:
        yield "what stands behind an answer begins with no stop token: a second question is not read as this runtime's"
    if chat is not None and chat.reasoning is not None:
        yield (
            "reasoning of earlier answers is dropped where a conversation is made with "
            "filter_channel_content_from_kv_cache=True; else the model reads it again"
        )
    if chat is not None and any(role.strip for role in chat.roles.values()):
        yield "the template trims a message of one text; of one with images it leaves white space at its ends"


@contextmanager
def _failures() -> Iterator[None]:
    """What the builder prints is left out, what it raises comes as one line."""
    try:
        with redirect_stdout(StringIO()):
            yield
    except (OSError, ValueError) as error:
        raise ExportError(f"the .litertlm cannot be written: {one_line(error)}") from error
