"""The checks of the NPU's program: its graphs beside the same in PyTorch, and that beside the original model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pocketvlm.bundle.manifest import Part
from pocketvlm.bundle.record import Fidelity, VisionFidelity
from pocketvlm.errors import ExportError
from pocketvlm.export.job import Job
from pocketvlm.export.npu.ranges import Streams, positions, simulate, simulated_logits
from pocketvlm.export.npu.rounding import MEDIATEK, Roundings, Scales
from pocketvlm.export.reference.scores import compare_logits, image_scores, judge, relative_error, significant
from pocketvlm.export.store.weights import WeightStore
from pocketvlm.machine import exact_sums, telemetry
from pocketvlm.models.stages import embed_tokens, stages_of

#: Largest relative error of a chunk's graph beside PyTorch. A step of INT16 is some 2.5e-4 of a usual value, and
#: float32 rounds a value in a thousand to the next step, which the operators behind it spread: a chunk's layers reach a
#: few 1e-4. A wrong scale or a wrong row is a hundred times as much.
LOWERING_ERROR = 5e-3
#: Tokens whose logits are compared.
FEW = 32


def check_program(
    job: Job,
    store: WeightStore,
    parts: dict[str, Part],
    scales: Scales,
    chunks: Sequence[range],
    roundings: Roundings = MEDIATEK,
) -> Fidelity:
    """Run both checks on the graphs in the job's directory, which round as ``roundings`` says.

    :raises ExportError: naming the part that is wrong, or the fidelity score that is over its bound
    """
    config, sample = job.checkpoint.config, job.sample
    streams = simulate(config, store.read, job.checkpoint.tensors, sample, scales, roundings)
    errors = [
        *_decoder_errors(job, store, (parts, scales, chunks), streams, roundings),
        *_other_errors(job, store, parts, streams),
    ]
    error, name = max(errors)
    if not error <= LOWERING_ERROR:
        raise ExportError(
            f"lowering: {name} differs from PyTorch, or from the graph for more tokens, by {error:.3g} (relative); "
            f"{LOWERING_ERROR} is the most"
        )
    vision = None
    if streams.image_tokens is not None and job.reference.image_tokens is not None:
        vision = image_scores(streams.image_tokens, job.reference.image_tokens)
    return judged(job, streams, error, vision)


def judged(job: Job, streams: Streams, error: float, vision: VisionFidelity | None) -> Fidelity:
    """The scores of a program that went through PyTorch.

    :raises ExportError: naming the score that is over its bound
    """
    by_layer = tuple(
        significant(relative_error(found, wanted))
        for found, wanted in zip(streams.hidden[1:], job.reference.text[1:], strict=True)
    )
    targets = job.sample.token_ids[job.sample.first_scored + 1 :]
    text = compare_logits(job.reference.logits, streams.logits.float(), targets, by_layer)
    fidelity = Fidelity(lowering_relative_error=significant(error), vision=vision, text=text)
    judge(fidelity, job.recipe.bounds)
    return fidelity


def _decoder_errors(
    job: Job,
    store: WeightStore,
    program: tuple[dict[str, Part], Scales, Sequence[range]],
    streams: Streams,
    roundings: Roundings,
) -> list[tuple[float, str]]:
    """Each chunk's graph for prompts on the sample's first tokens, beside PyTorch on the same input; and the one for a
    token beside the first row of that, which it has to equal: alone it is where a step to the other side shows most, of
    an INT8 value that it alone attends to.
    """
    config, errors, (parts, scales, chunks) = job.checkpoint.config, [], program
    for at, layers in enumerate(chunks):
        entering, found = streams.hidden[layers.start].float().numpy(), {}
        for name, part in parts.items():
            if not name.startswith(f"text_decoder_{at}_"):
                continue
            tokens = part.inputs[0].shape[1]
            assert isinstance(tokens, int)
            shown = min(tokens, entering.shape[1])
            feeds = first_step(job, layers, tokens, scales)
            feeds["hidden"][:, :shown] = entering[:, :shown]
            found[shown] = name, torch.from_numpy(_run(job.directory, part, feeds)[:, :shown])
            job.progress.advance(1)
        shown, (name, rows) = max(found.items())
        wanted = streams.hidden[layers.stop][:, :shown]
        if layers.stop == config.text.num_hidden_layers:
            few = streams.hidden[-1][0, :shown][:FEW]
            rows = rows[:, :FEW]
            wanted = simulated_logits(config, store.read, job.checkpoint.tensors, scales, few, roundings)[None]
        errors.append((relative_error(rows, wanted), name))
        errors += [(relative_error(row, rows[:, :1]), other) for other, row in found.values() if other != name]
    return errors


def first_step(job: Job, layers: range, tokens: int, scales: Scales) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of a decoder graph at position 0, with hidden states of zero."""
    text, length = job.checkpoint.config.text, job.kv_length
    mask, rope = positions(text, tokens, scales.mask)
    hidden_rows = np.full((1, 1, tokens, length), scales.mask, np.float32)
    cache = np.zeros((1, text.num_key_value_heads, length, text.head_dim), np.int8)
    return {
        "hidden": np.zeros((1, tokens, text.hidden_size), np.float32),
        "mask": np.concatenate([hidden_rows, mask.numpy()], axis=-1),
        "rope": rope.numpy(),
        **{f"past_{part}.{layer}": cache for part in ("key", "value") for layer in layers},
    }


def _other_errors(job: Job, store: WeightStore, parts: dict[str, Part], streams: Streams) -> list[tuple[float, str]]:
    """Token embedding, patch embedding and the vision graphs, several tiles beside one."""
    config, errors = job.checkpoint.config, []
    ids = job.sample.token_ids
    found = _run(job.directory, parts["token_embedding"], {"input_ids": ids[None].numpy()})
    wanted = embed_tokens(config.text, store.read, ids)
    errors.append((relative_error(torch.from_numpy(found), wanted), "token_embedding"))
    patch_embedding = stages_of(config).patch_embedding
    if streams.image_tokens is None or job.reference.pixels is None or patch_embedding is None:
        return errors
    pixels = job.reference.pixels
    patches = _run(job.directory, parts["patch_embedding"], {"pixel_values": pixels.numpy()})
    wanted = patch_embedding.run(store.read, pixels)
    errors.append((relative_error(torch.from_numpy(patches), wanted), "patch_embedding"))
    for name, part in parts.items():
        if name.startswith("vision_encoder_"):
            tiles = part.inputs[0].shape[0]
            assert isinstance(tiles, int)
            encoded = _run(job.directory, part, {"patches": np.repeat(patches, tiles, axis=0)})
            errors += [(relative_error(tile, streams.image_tokens[0]), name) for tile in torch.from_numpy(encoded)]
            job.progress.advance(1)
    return errors


def _run(directory: Path, part: Part, feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The first output of a part."""
    telemetry.switch_off()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*exact_sums.session_entry())
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    # It runs once: weights are unpacked as it needs them, and never all in memory.
    session = onnxruntime.InferenceSession(
        str(directory / part.file),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["ConstantFolding"],
    )
    found: np.ndarray[Any, Any] = session.run([part.outputs[0].name], feeds)[0]
    return found
