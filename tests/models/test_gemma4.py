"""Gemma 4's pictures: faults of its tower and of the rows beside image tokens are seen, other kinds are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvlm.bundle.kv import bundle_kv_bytes
from pocketvlm.errors import CheckpointError, ExportError
from pocketvlm.export.read.image_processor import vision_of
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.stages import embed, run_decoder
from pocketvlm.images.patches import laid_over, places
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.names import IMAGE_ROW, ROWS_TABLE
from pocketvlm.models.stages import logits
from pocketvlm.plan.device import load_device
from pocketvlm.plan.memory import Use, memory_parts, picture_at
from pocketvlm.plan.model import PATCHES, ROWS, model_of_manifest
from pocketvlm.plan.times import prefill_steps
from pocketvlm.runtime import load
from tests.images.test_tiles import noise
from tests.support.planned_slices import check_products, planned
from tests.support.vision_contract import DIALOGUES, Exported, distance, exported, pictures_of, processed

TOLERANCE = 1e-4
QUESTION = DIALOGUES["first"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    return exported("gemma4", tmp_path_factory.mktemp("gemma4"), shared)


@pytest.fixture(scope="module")
def wanted(one: Exported) -> npt.NDArray[np.float32]:
    """transformers' logits of the question."""
    with torch.no_grad():
        found: npt.NDArray[np.float32] = one.written.model(**processed(one.written, QUESTION)).logits[0].numpy()
    return found


def in_pytorch(one: Exported) -> npt.NDArray[np.float32]:
    """Our logits of the question, [tokens, vocabulary]."""
    checkpoint, inputs = open_checkpoint(one.written.directory), processed(one.written, QUESTION)
    config, read, tile = checkpoint.config, checkpoint.tensor, one.written.tile
    across, down = ((inputs["image_position_ids"][0].max(0).values + 1) // 3).tolist()
    # [1, patches and padding, 4 * 4 * 3] -> [down, 3, across, 3, 4, 4, 3] -> [down, across, 3, 3, 4, 3, 4] -> tiles
    cut = inputs["pixel_values"][0, : 9 * across * down].reshape(down, 3, across, 3, 4, 4, 3)
    pixels = cut.permute(0, 2, 6, 1, 4, 3, 5).reshape(-1, 3, tile, tile) * 2 - 1
    sample = Sample(pixels, inputs["input_ids"][0], config.image_token_id, 0, ((across, down),), has_axes=False)
    stream = run_decoder(config, read, embed(config, read, [sample]), samples=[sample])[0]
    found: npt.NDArray[np.float32] = logits(config.text, read, stream).numpy()
    return found


#: What somebody could have got wrong: a place, and what stands there instead.
FAULTS: dict[str, tuple[str, object]] = {
    "nothing is held between two numbers": ("models.operators.Clip.forward", lambda self, values: values),
    "rows in place of columns": (
        "models.stages.laid_over", lambda grid, ratio, table, laid: laid_over(grid, ratio, table[::-1], laid),
    ),
    "channels as they are stored": (
        "models.checkpoint.pieces_of", lambda tensor, pieces: tensor,
    ),
    "scores that are divided": ("models.operators.Scale.forward", lambda self, values: values),
    "the first patch of a block in place of the mean": (
        "models.operators.MeanOfBlocks.forward", lambda self, tokens: tokens[:, :1],
    ),
    "no row beside image tokens": (
        "models.operators.RowBehind.forward",
        lambda self, values: torch.nn.functional.pad(values, (0, len(self.weight))),
    ),
    "the image token's own row": ("models.operators.RowBehind.forward", None),
}  # fmt: skip


def test_pytorch_is_transformers(one: Exported, wanted: npt.NDArray[np.float32]) -> None:
    assert distance(in_pytorch(one), wanted) < TOLERANCE


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_seen(
    one: Exported, wanted: npt.NDArray[np.float32], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, other = FAULTS[fault]
    if other is None:
        table = open_checkpoint(one.written.directory).tensor(ROWS_TABLE)
        row = table[one.written.model.config.image_token_id] * 4.0
        other = lambda self, values: torch.cat([values, row.expand(*values.shape[:-1], -1)], -1)  # noqa: E731
    monkeypatch.setattr(f"pocketvlm.{target}", other)
    assert distance(in_pytorch(one), wanted) > 100 * TOLERANCE


def test_image_tokens_have_the_paddings_row(one: Exported) -> None:
    checkpoint = open_checkpoint(one.written.directory)
    padding = one.written.model.config.text_config.pad_token_id
    assert padding > 0
    assert torch.equal(checkpoint.tensor(IMAGE_ROW), checkpoint.tensor(ROWS_TABLE)[padding])


@pytest.mark.parametrize("engine", ["onnx", "executorch"])
@pytest.mark.parametrize("chunk", [8, 64])
def test_chunks_of_any_size_are_one_prompt(
    one: Exported, wanted: npt.NDArray[np.float32], engine: str, chunk: int
) -> None:
    with load(one.bundle.location, threads=1, engine=engine) as vlm:
        prompt = vlm.build_prompt(QUESTION)
        vlm._decoder = replace(vlm._decoder, prefill_chunk=chunk)
        assert distance(vlm.logits(prompt.token_ids, pictures_of(QUESTION)), wanted) < TOLERANCE


def test_two_tables_are_laid_by_column_and_row() -> None:
    table = np.random.default_rng(0).standard_normal((2, 12, 5)).astype(np.float32)
    at, found = places((3, 2), 3), laid_over((3, 2), 3, table, "by_axis")
    for tile, patch in ((0, 0), (2, 5), (5, 8)):
        row, column = at[tile, patch]
        np.testing.assert_array_equal(found[tile, patch], table[0, column] + table[1, row])


def test_what_is_not_computed_is_refused_by_name(one: Exported) -> None:
    said = one.written.model.config.to_dict()
    others: list[tuple[dict[str, Any], str]] = [
        ({"vision_config": None}, "vision_config: a gemma4 without one"),
        ({"vision_config": {**said["vision_config"], "standardize": True}}, "vision_config.standardize is True"),
        ({"vision_config": {**said["vision_config"], "head_dim": 8}}, "vision_config.head_dim is 8"),
        ({"vision_config": {**said["vision_config"], "num_key_value_heads": 2}}, "num_key_value_heads is 2"),
        ({"text_config": {**said["text_config"], "use_bidirectional_attention": "vision"}}, "is 'vision': of Gemma 4"),
        ({"text_config": {**said["text_config"], "enable_moe_block": True}}, "enable_moe_block is True: of Gemma 4"),
        ({"text_config": {**said["text_config"], "pad_token_id": 10**6}}, "image_row_token 1000000 is none of"),
    ]
    for change, line in others:
        with pytest.raises(CheckpointError, match=line):
            VlmConfig.from_dict({**said, **change})
    config, raw = open_checkpoint(one.written.directory).config, one.written.processor.image_processor.to_dict()
    for key, value, error in (
        ("patch_size", 5, ExportError),
        ("pooling_kernel_size", 2, ExportError),
        ("max_soft_tokens", 75, ExportError),
        ("do_normalize", True, CheckpointError),
        ("image_processor_type", "CLIPImageProcessor", ExportError),
    ):
        with pytest.raises(error, match=key):
            vision_of(config, {**raw, key: value}, "processor")


# --- Its plan -------------------------------------------------------------------------------------------------------


def test_a_plan_is_that_of_its_bundle(one: Exported) -> None:
    """Heads of two sizes, layers that read another's cache, rows that are never held, tokens by the picture."""
    bundle, checkpoint = one.bundle, open_checkpoint(one.written.directory)
    config, found = planned(checkpoint, bundle.manifest.kv_cache.length), model_of_manifest(bundle.manifest)
    own = {PATCHES: config.parts[PATCHES]}  # (a bundle has the tables of positions beside its weights)
    assert {**found.parts, **own} == config.parts and found.parts[ROWS].weights > 0
    assert found.vision is not None and config.vision is not None
    vision = replace(config.vision, preprocessing=found.vision.preprocessing, batch=found.vision.batch)
    assert replace(config, name=found.name, positions=None, vision=vision, parts=found.parts) == found
    assert found.kv_row_bytes == bundle_kv_bytes(bundle.manifest, 1) < found.attended_bytes
    device = load_device("dimensity-9300")
    with load(bundle.location, threads=1) as vlm:
        for size in ((50, 30), (41, 140)):
            picture = picture_at(found.vision, size)
            assert picture.tokens == len(vlm.encode_images([noise(*size, seed=1)]))
            assert memory_parts(found, device, Use(picture, 64))[ROWS] == 0


def test_products_are_as_pytorch_counts_them(one: Exported) -> None:
    checkpoint = open_checkpoint(one.written.directory)
    config, model, read, tokens = checkpoint.config, planned(checkpoint, 64), checkpoint.tensor, 12
    sample = Sample(None, torch.arange(tokens), config.image_token_id, 0)
    stream = embed(config, read, [sample])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run_decoder(config, read, stream, samples=[sample])
    (step,) = prefill_steps(replace(model, chunk=tokens), tokens)
    assert step.operations - 2 * model.head.multiplied == counter.get_total_flops()
    check_products(checkpoint)
