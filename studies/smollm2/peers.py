"""llama.cpp's and ONNX Runtime's own quantizers as systems, starting from the same float32 weights.

llama.cpp computes with activations rounded to INT8 in blocks of 32 (Q8_0, for weight types with blocks of 32) or 256
(Q8_K, for the K types); its KV cache is set to float32 here. ONNX Runtime's graphs are pocketvlm's own float32 text
decoder, quantized by ``onnxruntime.quantization``, beside the INT8 embedding table of the recipe with the same blocks:
what differs from a recipe is the codes, scales and zero points of the decoder and the head.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.smollm2 import activations, gguf_files, onnx_gptq, reference
from studies.smollm2.llama_engine import llama_library, run_llama
from studies.smollm2.onnx_graphs import FLOAT_ACTIVATIONS, INT8_ACTIVATIONS, run_graphs, set_activations, stored_bytes
from studies.smollm2.packages import installed_version, study_module
from studies.smollm2.systems import Built, Floats, Logits, System

# --- llama.cpp --------------------------------------------------------------------------------------------------------

GGUF = "model.gguf"


@dataclass(frozen=True)
class LlamaQuantizer:
    """A type of llama.cpp; ``head`` and ``table`` override what it chooses for those two.

    With ``importance`` squared errors are weighted by the mean square of the input, measured on the calibration text.
    """

    ftype: str
    importance: bool = False
    head: str | None = None
    table: str | None = None

    @property
    def name(self) -> str:
        name = self.ftype + (" imatrix" if self.importance else "")
        return f"{name} (head {self.head}, table {self.table})" if self.head else name


#: As llama.cpp does it, and once with head and table as pocketvlm's INT4 recipes have them (INT4 and INT8).
LLAMA_QUANTIZERS = (
    LlamaQuantizer("F32"),
    LlamaQuantizer("Q8_0"),
    LlamaQuantizer("Q4_0"),
    LlamaQuantizer("Q4_0", importance=True),
    LlamaQuantizer("Q4_0", head="Q4_0", table="Q8_0"),
    LlamaQuantizer("Q4_1"),
    LlamaQuantizer("IQ4_NL"),
    LlamaQuantizer("IQ4_NL", importance=True),
    LlamaQuantizer("IQ4_NL", head="IQ4_NL", table="Q8_0"),
    LlamaQuantizer("IQ4_NL", importance=True, head="IQ4_NL", table="Q8_0"),
    LlamaQuantizer("Q4_K_M"),
    LlamaQuantizer("Q4_K_M", importance=True),
)


def float_gguf(checkpoint: Path, cache: Path) -> Path:
    """The rotated model as a float32 GGUF, with tokenizer and sizes of the packaged one."""
    path = cache / "rotated-f32.gguf"
    if not path.is_file():
        original = gguf_files.open_gguf(reference.packaged_gguf())
        _, weights = reference.read_checkpoint(checkpoint)
        partial = path.with_suffix(".partial")
        gguf_files.write_weights(partial, original, gguf_files.shape_of(original), weights)
        partial.replace(path)
    return path


def llama_system(quantizer: LlamaQuantizer, source: Path, grams: Path, length: int, key: Mapping[str, Any]) -> System:
    """``source``: the float32 GGUF; ``grams``: what ``activations.collect`` wrote; ``key``: what both are made of."""

    def build(directory: Path) -> None:
        if quantizer.ftype == "F32":
            (directory / GGUF).symlink_to(source.resolve())
        else:
            quantize_gguf(source, directory / GGUF, quantizer, grams)

    def read(directory: Path) -> Built:
        return read_llama(directory / GGUF, source, length)

    package = installed_version("llama-cpp-python")
    return System("llama.cpp", quantizer.name, {**key, "quantizer": repr(quantizer), "version": package}, build, read)


def quantize_gguf(source: Path, output: Path, quantizer: LlamaQuantizer, grams: Path) -> None:
    """llama.cpp's ``llama_model_quantize``.

    :raises RuntimeError: it refuses
    """
    llama = llama_library()
    gguf = study_module("gguf")
    parameters = llama.llama_model_quantize_default_params()
    parameters.nthread = 1
    parameters.ftype = int(gguf.LlamaFileType[f"MOSTLY_{quantizer.ftype}"])
    for field, wanted in (("output_tensor_type", quantizer.head), ("token_embedding_type", quantizer.table)):
        if wanted is not None:
            setattr(parameters, field, int(gguf.GGMLQuantizationType[wanted]))
    if quantizer.importance:
        entries = _importance(gguf_files.open_gguf(source), grams)
        matrix = (llama.llama_model_imatrix_data * (len(entries) + 1))()  # the last one, without a name, ends it
        for slot, (name, values) in zip(matrix, entries.items(), strict=False):
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            slot.name, slot.data, slot.size = name.encode(), pointer, values.size
        parameters.imatrix = matrix
    partial = output.with_suffix(".partial")
    if llama.llama_model_quantize(str(source).encode(), str(partial).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama.cpp does not quantize to {quantizer.name}")
    partial.replace(output)


def _importance(reader: Any, grams: Path) -> dict[str, Floats]:
    """GGUF's name -> mean square of each input, of the matrices that read activations."""
    names = [gguf_files.hugging_face_name(tensor.name) for tensor in reader.tensors if len(tensor.shape) == 2]
    read = [name for name in names if "embed_tokens" not in name]
    return {gguf_files.gguf_name(name): activations.mean_squares(grams, name) for name in read}


def read_llama(path: Path, source: Path, length: int) -> Built:
    """A finished GGUF, for texts of at most ``length`` tokens."""
    reader = gguf_files.open_gguf(path)
    types = gguf_files.types_by_weight(reader)
    kinds = sorted({kind for name, kind in types.items() if "layers." in name and "norm" not in name})
    notes = {"decoder": kinds, "head": types["lm_head.weight"], "table": types["model.embed_tokens.weight"]}

    @contextmanager
    def shipped() -> Iterator[Logits]:
        with run_llama(path, length) as logits:
            yield logits

    @contextmanager
    def weights_alone() -> Iterator[Logits]:
        config = reference.config_of(gguf_files.shape_of(reader))
        yield reference.torch_logits(config, gguf_files.read_weights(reader))

    is_float = path.resolve() == source.resolve()
    stored = gguf_files.bytes_by_weight(reader)
    return Built((path,), path.stat().st_size, stored, shipped, None if is_float else weights_alone, notes)


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------

DECODER, FLOAT_DECODER = "decoder.onnx", "decoder-float-activations.onnx"


@dataclass(frozen=True)
class OnnxQuantizer:
    """A quantizer of ``onnxruntime.quantization.matmul_nbits_quantizer``: 4 bits, blocks of ``block`` inputs."""

    algorithm: str
    block: int
    symmetric: bool = False

    @property
    def name(self) -> str:
        return f"{self.algorithm}{' symmetric' if self.symmetric else ''} g{self.block}"


#: Without blocks of 128: k_quant, which cannot pack the zero points of a row with an odd number of blocks (576: 5).
ONNX_QUANTIZERS = (
    OnnxQuantizer("default", 32),
    OnnxQuantizer("default", 128),
    OnnxQuantizer("default", 32, symmetric=True),
    OnnxQuantizer("default", 128, symmetric=True),
    OnnxQuantizer("HQQ", 32),
    OnnxQuantizer("HQQ", 128),
    OnnxQuantizer("k_quant", 32),
    OnnxQuantizer("GPTQ", 32),
    OnnxQuantizer("GPTQ", 128, symmetric=True),
)


def onnx_system(
    quantizer: OnnxQuantizer, source: Path, tables: Path, grams: Path, names: list[str], key: Mapping[str, Any]
) -> System:
    """``source``: pocketvlm's bundle of recipe fp32; ``tables``: that of the recipe whose embedding table is used."""

    def build(directory: Path) -> None:
        import onnx

        model = quantize_onnx(quantizer, source / "text_decoder.onnx", grams)
        onnx.save(set_activations(model, INT8_ACTIVATIONS), directory / DECODER)
        onnx.save(set_activations(model, FLOAT_ACTIVATIONS), directory / FLOAT_DECODER)

    def read(directory: Path) -> Built:
        embedding = tables / "token_embedding.onnx"
        stored = {**stored_bytes(embedding, names), **stored_bytes(directory / DECODER, names)}

        def opener(decoder: str) -> Callable[[], Any]:
            return lambda: run_graphs(embedding, directory / decoder)

        notes = {"table": "pocketvlm's, INT8", "zero points": _zero_points(directory / DECODER)}
        files = (directory / DECODER, embedding, tables / "text.data")
        size = (directory / DECODER).stat().st_size + embedding.stat().st_size + stored["model.embed_tokens.weight"]
        return Built(files, size, stored, opener(DECODER), opener(FLOAT_DECODER), notes)

    return System("ONNX Runtime", quantizer.name, {**key, "quantizer": repr(quantizer)}, build, read)


def quantize_onnx(quantizer: OnnxQuantizer, decoder: Path, grams: Path) -> Any:
    """The quantized graph, an ``onnx.ModelProto`` that holds its weights."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    model = onnx.load(decoder)
    if quantizer.algorithm == "GPTQ":
        return onnx_gptq.quantize(model, quantizer.block, quantizer.symmetric, grams)
    configs: dict[str, Callable[[], Any]] = {
        "default": lambda: nbits.DefaultWeightOnlyQuantConfig(quantizer.block, quantizer.symmetric),
        "HQQ": lambda: nbits.HQQWeightOnlyQuantConfig(quantizer.block),
        "k_quant": nbits.KQuantWeightOnlyQuantConfig,
    }
    worker = nbits.MatMulNBitsQuantizer(
        model,
        block_size=quantizer.block,
        is_symmetric=quantizer.symmetric,
        algo_config=configs[quantizer.algorithm](),
    )
    worker.process()
    return worker.model.model


def _zero_points(decoder: Path) -> str | None:
    """The type of the zero points: uint8 are packed codes; float32 ones keep the kernel's activations in float32."""
    import onnx

    graph = onnx.load(decoder, load_external_data=False).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "MatMulNBits"]
    kinds = {types[node.input[3]] for node in nodes if len(node.input) > 3 and node.input[3]}
    return ", ".join(onnx.TensorProto.DataType.Name(kind).lower() for kind in sorted(kinds)) or None
