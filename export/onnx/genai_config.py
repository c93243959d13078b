"""``genai_config.json``: lets stock ONNX Runtime GenAI run the text part of a bundle.

Its "decoder-pipeline" model runs our two text graphs one after the other (token embedding, decoder) with one shared KV
buffer. It has no INT8 KV cache (as of 0.15.2, the newest for ONNX Runtime 1.29), so recipes with one get no such file.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Part
    from pocketvlm.export.job import Job

GENAI_CONFIG = "genai_config.json"
NO_TOKEN = -1


def write_genai_config(job: Job, parts: dict[str, Part], kv_length: int) -> None:
    """Write the file beside the graphs; tokens in, tokens out (images need this project's runtime)."""
    config, tokens = job.checkpoint.config.text, job.tokens
    embedding, decoder = (_stage(parts[name]) for name in ("token_embedding", "text_decoder"))
    content = {
        "model": {
            "type": "decoder-pipeline",
            # GenAI prepends none, but tells clients: one that is left out is read as token 0.
            "bos_token_id": NO_TOKEN if job.bos is None else job.bos,
            # Asked for, though nothing is padded here.
            "pad_token_id": tokens.stop[0],
            "eos_token_id": list(tokens.stop),
            "vocab_size": config.vocab_size,
            "context_length": kv_length,
            "decoder": {
                "session_options": {"provider_options": []},
                "hidden_size": config.hidden_size,
                "head_size": config.head_dim,
                "num_attention_heads": config.num_attention_heads,
                "num_key_value_heads": config.num_key_value_heads,
                "num_hidden_layers": config.num_hidden_layers,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "pipeline": [{"embedding": embedding, "decoder": decoder}],
            },
        },
        "search": {"max_length": kv_length, "past_present_share_buffer": True, "do_sample": False},
    }
    (job.directory / GENAI_CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _stage(part: Part) -> dict[str, Any]:
    """``logits_to_keep`` is left to its default: GenAI wants the logits of all positions."""
    inputs = [value.name for value in part.inputs if value.name != "logits_to_keep"]
    return {"filename": part.file, "inputs": inputs, "outputs": [value.name for value in part.outputs]}
