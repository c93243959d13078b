"""Gemma 3's pictures: faults of tokens that see each other are seen, and a step never takes a part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.stages import embed, run_decoder
from pocketvlm.images.spans import end_of_chunk
from pocketvlm.models.blocks.projector import PooledMatrix
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.operators import CachedAttend, MeanOfBlocks, Step
from pocketvlm.models.stages import logits
from pocketvlm.runtime import GenerationConfig, PocketVlm, load
from pocketvlm.runtime.prefixes import Prefixes
from tests.support.vision_contract import DIALOGUES, Exported, distance, exported, pictures_of, processed, said

TOLERANCE = 1e-4
QUESTION = DIALOGUES["three"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported("gemma3", tmp_path_factory.mktemp("gemma3"), shared)


@pytest.fixture(scope="module")
def wanted(one: Exported) -> npt.NDArray[np.float32]:
    """transformers' logits of the question."""
    with torch.no_grad():
        found: npt.NDArray[np.float32] = one.written.model(**processed(one.written, QUESTION)).logits[0].numpy()
    return found


@pytest.fixture
def vlm(one: Exported) -> Iterator[PocketVlm]:
    with load(one.bundle.location, threads=1, engine="onnx") as opened:
        yield opened


def in_pytorch(one: Exported) -> npt.NDArray[np.float32]:
    """Our logits of the question, [tokens, vocabulary]."""
    checkpoint, inputs = open_checkpoint(one.written.directory), processed(one.written, QUESTION)
    config, read = checkpoint.config, checkpoint.tensor
    sample = Sample(inputs["pixel_values"], inputs["input_ids"][0], config.image_token_id, 0, spans="image")
    stream = run_decoder(config, read, embed(config, read, [sample]), samples=[sample])[0]
    found: npt.NDArray[np.float32] = logits(config.text, read, stream).numpy()
    return found


def window_of_the_block(self: CachedAttend, query: Any, key: Any, value: Any, step: Step) -> Any:
    """Attention whose window ends what is behind a token too."""
    if self.window is not None and step.last_seen is not None:
        own = torch.arange(len(step.last_seen))
        step = replace(step, last_seen=torch.minimum(step.last_seen, own + self.window - 1))
    return ATTEND(self, query, key, value, step)


def no_window_in_the_block(self: CachedAttend, query: Any, key: Any, value: Any, step: Step) -> Any:
    """Attention in which a picture's tokens have no window."""
    window, seen = self.window, step.last_seen
    if seen is None or window is None:
        return ATTEND(self, query, key, value, step)
    free = CachedAttend(self.heads, self.kv_heads, self.head_dim, self.scale)
    whole = free(query, key, value, replace(step, cache=None))
    mixed = ATTEND(self, query, key, value, step)
    further = seen > torch.arange(len(seen))
    return torch.where(further[:, None], whole, mixed)


ATTEND, PROJECT = CachedAttend.forward, PooledMatrix.forward
FAULTS: dict[str, tuple[str, object]] = {
    "a picture's tokens see what was before": (
        "export.read.sample.last_seen_of", lambda is_image, spans, asked: np.arange(len(is_image)),
    ),
    "those of all pictures see each other": (
        "export.read.sample.last_seen_of",
        lambda is_image, spans, asked: np.where(is_image, np.flatnonzero(is_image).max(), np.arange(len(is_image))),
    ),
    "a window ends what is behind a token": ("models.operators.CachedAttend.forward", window_of_the_block),
    "a picture's tokens have no window": ("models.operators.CachedAttend.forward", no_window_in_the_block),
    "the projector's norm as it is stored": ("models.checkpoint.one_more", torch.Tensor.float),
    "the first patch of a block in place of the mean": (
        "models.operators.MeanOfBlocks.forward",
        lambda self, tokens: tokens.unflatten(1, (self.side, self.ratio) * 2)[:, :, 0, :, 0].flatten(1, 2),
    ),
    "image tokens times the root of the width": (
        "models.blocks.projector.PooledMatrix.forward", lambda self, tokens: PROJECT(self, tokens) * 128**0.5,
    ),
}  # fmt: skip


def test_pytorch_is_transformers(one: Exported, wanted: npt.NDArray[np.float32]) -> None:
    assert distance(in_pytorch(one), wanted) < TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_span_is_seen(
    one: Exported, wanted: npt.NDArray[np.float32], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = FAULTS[fault]
    monkeypatch.setattr(f"pocketvlm.{target}", other)
    assert distance(in_pytorch(one), wanted) > 100 * TOLERANCE


def test_means_of_blocks_are_pytorchs_pooling() -> None:
    points = torch.randn(2, 5, 12, 12)
    rows = points.flatten(2).transpose(1, 2)
    found = MeanOfBlocks(12, 5, 4)(rows)
    assert torch.allclose(found, torch.nn.functional.avg_pool2d(points, 4).flatten(2).transpose(1, 2), atol=1e-6)


# --- Steps ------------------------------------------------------------------------------------------------------------


def with_chunk(vlm: PocketVlm, chunk: int) -> PocketVlm:
    vlm._decoder = replace(vlm._decoder, prefill_chunk=chunk)
    return vlm


def test_a_span_that_a_step_cuts_is_seen(
    one: Exported, vlm: PocketVlm, wanted: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, images = processed(one.written, QUESTION)["input_ids"][0].numpy(), pictures_of(QUESTION)
    with_chunk(vlm, 4)
    assert distance(vlm.logits(ids, images), wanted) < TOLERANCE
    cut: Callable[..., int] = lambda seen, first, most: min(first + most, len(seen))  # noqa: E731
    monkeypatch.setattr("pocketvlm.runtime.generation.end_of_chunk", cut)
    assert distance(vlm.logits(ids, images), wanted) > 100 * TOLERANCE


def test_a_cache_that_ends_inside_a_span_is_used_up_to_its_begin(vlm: PocketVlm) -> None:
    messages, config = DIALOGUES["first"], GenerationConfig(max_new_tokens=8)
    prompt = vlm.build_prompt(messages)
    first, last = (int(np.flatnonzero(prompt.picture_index >= 0)[end]) for end in (0, -1))
    whole = [piece.token_id for piece in vlm.stream(messages, config=config)]
    with vlm.chat() as chat:
        assert [piece.token_id for piece in chat.send(messages, config)] == whole
        for kept in (first, first + 1, last, last + 1):
            chat.reset()
            chat.send(messages, config).read()
            context = chat._context
            context.rewind(kept)
            chat._messages.clear()
            answer = chat.send(messages, config)
            found = [piece.token_id for piece in answer]
            assert found == whole
            assert answer.stats.reused_tokens == (kept if kept > last else first), kept


def test_kept_prefixes_answer_as_a_fresh_prefill(vlm: PocketVlm) -> None:
    """Whole steps of an earlier prompt are used again: those before a picture, and its own."""
    with_chunk(vlm, 8)
    config = GenerationConfig(max_new_tokens=4)
    with Prefixes(vlm, 2) as kept:
        for more in ("the", "he", "7"):
            messages = [said("user", 0, f"What is {more}", 1)]
            answer = kept.stream(messages, config=config)
            assert [piece.token_id for piece in answer] == [
                piece.token_id for piece in vlm.stream(messages, config=config)
            ]
            prompt = vlm.build_prompt(messages)
            ends, first = [0], 0
            while first < len(prompt):
                first = end_of_chunk(prompt.last_seen, first, 8)
                ends.append(first)
            assert answer.stats.reused_tokens in ends
            assert (answer.stats.reused_tokens > 8) == (more != "the")


# --- What is read -----------------------------------------------------------------------------------------------------


def test_what_is_not_computed_is_refused_by_name(one: Exported) -> None:
    config, raw = open_checkpoint(one.written.directory).config, one.written.processor.image_processor.to_dict()
    for key, value, error in (
        ("do_pan_and_scan", True, CheckpointError),
        ("size", {"height": 44, "width": 44}, ExportError),
        ("image_processor_type", "CLIPImageProcessor", ExportError),
    ):
        with pytest.raises(error, match=f"{key}"):
            vision_of(config, {**raw, key: value}, "processor")
    said = one.written.model.config.to_dict()
    with pytest.raises(CheckpointError, match="mm_tokens_per_image is 8, no square of which 12 x 12"):
        VlmConfig.from_dict({**said, "mm_tokens_per_image": 8})
