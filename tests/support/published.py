"""Checkpoints as their makers published them, without their numbers.

``tests/golden/published`` has the files that stand beside the weights, of each the keys that anybody reads, and in
``*.jinja`` what the chat templates write, in our words.

``seen`` lists what of a file was read in a public copy; the rest is as we know it. The weights are a file of the true
names and shapes whose numbers are a hole: it takes no room on a disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from pocketvlm.models.checkpoint import shapes_only

PUBLISHED = Path(__file__).parents[1] / "golden" / "published"
Shapes = dict[str, tuple[int, ...]]
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Published:
    """One checkpoint."""

    name: str

    @cached_property
    def said(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((PUBLISHED / f"{self.name}.json").read_text())
        return said

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = self.said["files"]
        return files

    @property
    def config(self) -> dict[str, Any]:
        return self.files["config.json"]

    @property
    def template(self) -> str | None:
        """None where the model's code writes what stands around messages."""
        return None if self.said["template"] is None else (PUBLISHED / f"{self.said['template']}.jinja").read_text()

    def write(self, directory: Path, weights: Shapes) -> Path:
        """All that a download would have."""
        directory.mkdir()
        tokenizer = dict(self.files["tokenizer_config.json"])
        place = self.said.get("template_in", "chat_template.json")
        if place == "tokenizer_config.json":
            tokenizer["chat_template"] = self.template
        elif self.template is not None:
            said = self.template if place.endswith(".jinja") else json.dumps({"chat_template": self.template})
            (directory / place).write_text(said)
        flags = {**dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False), "special": True}
        tokens: dict[str, int] = self.said["tokens"]
        tokenizer["added_tokens_decoder"] = {str(id_): {"content": token, **flags} for token, id_ in tokens.items()}
        for file, values in {**self.files, "tokenizer_config.json": tokenizer}.items():
            (directory / file).write_text(json.dumps(values))
        self._write_tokenizer(directory)
        write_hole(directory / "model.safetensors", weights)
        return directory

    def _write_tokenizer(self, directory: Path) -> None:
        """Bytes, and the published tokens at their ids, in the files that the checkpoint has."""
        tokens: dict[str, int] = self.said["tokens"]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: 1000 + at for at, letter in enumerate(alphabet)}
        of_vocabulary = self.said.get("tokenizer_files", ["tokenizer.json"])
        if of_vocabulary == ["tokenizer.json"]:
            tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, **tokens}, merges=[]))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
            if "begins" in self.said:
                first = self.said["begins"]
                tokenizer.post_processor = processors.TemplateProcessing(
                    single=f"{first} $A", special_tokens=[(first, tokens[first])]
                )
            tokenizer.save(str(directory / "tokenizer.json"))
        elif "vocab.json" in of_vocabulary:
            (directory / "vocab.json").write_text(json.dumps({**vocabulary, **tokens}))
            (directory / "merges.txt").write_text("#version: 0.2\n")
        else:
            free = [f"[UNUSED_TOKEN_{number}]" for number in range(FIRST_FREE, INTERNLM2_PIECES)]
            bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
            pieces = ["<unk>", "<s>", "</s>", *bytes_, *free]
            (directory / "tokenizer.model").write_bytes(sentencepiece_model(pieces))


#: Of InternLM2's tokenizer.model, and behind how many those of a test are free.
INTERNLM2_PIECES, FIRST_FREE = 92544, 3 + 256


def sentencepiece_model(pieces: Sequence[str]) -> bytes:
    """A ``tokenizer.model`` of BPE with bytes, a space in front of a text, and no merges: as protobuf has it."""
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(text: str) -> bytes:
        kind = kinds.get(text, 6 if text.startswith("<0x") else 4)
        return field(1, field(1, text.encode()) + b"\x15" + bytes(4) + bytes([3 << 3, kind]))

    trainer = bytes([3 << 3, 2, 0x98, 0x02, 1])  # model_type: BPE; field 35, byte_fallback: true
    normalizer = bytes([4 << 3, 0])  # remove_extra_whitespaces: false
    return b"".join(map(piece, pieces)) + field(2, trainer) + field(3, normalizer)


#: Those with one chat template side by side: it is compiled once.
NAMES = sorted(
    (path.stem for path in PUBLISHED.glob("*.json")),
    key=lambda name: (str(Published(name).said["template"]), name),
)


def write_hole(path: Path, weights: Shapes) -> None:
    """A safetensors file in bfloat16 of zeros that no disk holds, but for the first byte of a head, which is no copy of
    the table of embeddings then."""
    header: dict[str, Any] = {}
    at = head = 0
    for name, shape in weights.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        head, at = at if name.endswith(("lm_head.weight", "output.weight")) else head, at + size
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + at)
        stream.seek(8 + len(text) + head)
        stream.write(b"\1")


# --- Names and shapes of weights --------------------------------------------------------------------------------------


def transformers_weights(one: Published) -> list[Shapes]:
    """What transformers' own class of a config stores: in version 5's names, in version 4's as 5 writes them, and as
    LLaVA's were published, with one more part in the names of a tower."""
    from transformers.core_model_loading import revert_weight_conversion

    model = _model_of(one.config)
    stored = dict(model.state_dict())
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", model.config.tie_word_embeddings)
    if one.said.get("head") is None and tied:
        del stored[HEAD]
    former = revert_weight_conversion(model, dict(stored))
    named = [stored, former]
    if model.config.model_type.startswith("llava"):
        named.append({re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name): former[name] for name in former})
    return [{name: tuple(weight.shape) for name, weight in weights.items()} for weights in named]


def _model_of(config: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    return shapes_only(lambda: kind.from_config(AutoConfig.for_model(**json.loads(json.dumps(config)))))


def internvl_chat_weights(one: Published) -> Shapes:
    """The names of modeling_internvl_chat.py's modules, as the published index has them."""
    vision, text = one.config["vision_config"], one.config["llm_config"]
    width, inner, hidden = vision["hidden_size"], vision["intermediate_size"], text["hidden_size"]
    rows = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    stored: Shapes = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, rows, width),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, vision["patch_size"], vision["patch_size"]),
        "vision_model.embeddings.patch_embedding.bias": (width,),
    }
    for layer in range(vision["num_hidden_layers"]):
        prefix = f"vision_model.encoder.layers.{layer}"
        stored |= {f"{prefix}.ls1": (width,), f"{prefix}.ls2": (width,)}
        stored |= _with_bias(prefix, {"attn.qkv": (3 * width, width), "attn.proj": (width, width)})
        stored |= _with_bias(prefix, {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)})
        stored |= _with_bias(prefix, {"norm1": (width,), "norm2": (width,)})
    stored |= _with_bias("mlp1", {"0": (4 * width,), "1": (hidden, 4 * width), "3": (hidden, hidden)})
    if text["architectures"] == ["InternLM2ForCausalLM"]:
        decoder = internlm2_weights(text)
    else:
        decoder = {name: tuple(weight.shape) for name, weight in _model_of(text).state_dict().items()}
    return stored | {f"language_model.{name}": shape for name, shape in decoder.items()}


def internlm2_weights(config: Mapping[str, Any]) -> Shapes:
    """Those of modeling_internlm2.py."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    size = hidden // config["num_attention_heads"]
    stored: Shapes = {"model.tok_embeddings.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "attention.wqkv": (heads * size, hidden),
            "attention.wo": (hidden, hidden),
            "feed_forward.w1": (inner, hidden),
            "feed_forward.w2": (hidden, inner),
            "feed_forward.w3": (inner, hidden),
            "attention_norm": (hidden,),
            "ffn_norm": (hidden,),
        }
        stored |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return {**stored, "output.weight": (vocabulary, hidden)}


def _with_bias(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, tuple[int, ...]]]:
    return [
        (f"{prefix}.{name}.{kind}", shape if kind == "weight" else shape[:1])
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    ]


def published_weights(one: Published) -> list[Shapes]:
    """Each naming that there is."""
    kind = one.config["model_type"]
    if kind == "internvl_chat":
        return [internvl_chat_weights(one)]
    return [internlm2_weights(one.config)] if kind == "internlm2" else transformers_weights(one)
