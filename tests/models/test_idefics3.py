"""Idefics3's config, positions and processor: what is read as transformers reads it, and what is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketvlm.errors import PocketVlmError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import idefics3
from pocketvlm.models.families.idefics3 import FAKE, WHOLE
from pocketvlm.models.names import POSITIONS
from pocketvlm.models.positions import bucketized
from tests.support.checkpoints import edited
from tests.support.vision_families import IDEFICS3_TEMPLATE, WRITERS


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS["idefics3"](tmp_path_factory.mktemp("idefics3") / "checkpoint").directory


@pytest.fixture
def checkpoint(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def embeddings(side: int) -> Any:
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings

    return Idefics3VisionEmbeddings(Idefics3VisionConfig(hidden_size=4, image_size=2 * side, patch_size=2))


@torch.no_grad()
@pytest.mark.parametrize("side", [1, 2, 14, 19, 24, 25, 26, 27, 29, 31, 32, 70])
def test_positions_are_transformers(side: int) -> None:
    theirs = embeddings(side)
    wanted = theirs(torch.zeros(1, 3, 2 * side, 2 * side), torch.ones(1, side, side, dtype=torch.bool))[0]
    found = theirs.patch_embedding.bias + theirs.position_embedding.weight[bucketized(side)]
    assert torch.equal(found, wanted)


def test_some_sides_put_patches_into_the_bucket_before() -> None:
    moved = [side for side in range(1, 64) if not torch.equal(bucketized(side), torch.arange(side * side))]
    assert {19, 25, 29} <= set(moved)
    assert not {14, 24, 26, 27, 32} & set(moved), "those of published models"


def test_the_table_of_positions_is_read_in_the_order_of_the_patches(checkpoint: Path) -> None:
    """25 patches a side, which five buckets share unevenly."""
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    table = "model.vision_model.embeddings.position_embedding.weight"
    weights[table] = torch.randn(25 * 25, 64)
    weights["model.connector.modality_projection.proj.weight"] = torch.randn(128, 25 * 64)
    save_file(weights, checkpoint / "model.safetensors")
    edited(checkpoint / "config.json", lambda raw: raw.update(scale_factor=5))
    edited(checkpoint / "config.json", lambda raw: raw["vision_config"].update(image_size=100))
    opened = open_checkpoint(checkpoint)
    assert torch.equal(opened.tensor(POSITIONS), weights[table][bucketized(25)])
    assert torch.equal(opened.tensor(POSITIONS, slice(3, 9)), weights[table][bucketized(25)][3:9])
    assert not torch.equal(opened.tensor(POSITIONS), weights[table])


def test_what_a_config_leaves_out_is_transformers_default() -> None:
    from transformers import Idefics3Config, SmolVLMConfig

    for name, theirs in (("idefics3", Idefics3Config()), ("smolvlm", SmolVLMConfig())):
        given: tuple[dict[str, Any], ...] = (
            {},
            {"vision_config": {}, "text_config": {}},
            {"vision_config": {"model_type": name}},
        )
        for raw in given:
            wanted = type(theirs)(**raw)
            # 224 / 32 patches are no multiple of the default scale: transformers fails there, too.
            with pytest.raises(PocketVlmError, match="7 patches along a side of a tile are not a multiple of 2"):
                VlmConfig.from_dict({"model_type": name, **raw})
            found = VlmConfig.from_dict({"model_type": name, "scale_factor": 7, **raw})
            assert found.vision is not None
            for key in idefics3.VISION_DEFAULTS:
                assert getattr(found.vision, key) == getattr(wanted.vision_config, key), key
            for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"):
                assert getattr(found.text, key) == getattr(wanted.text_config, key), key
            assert found.image_token_id == wanted.image_token_id


@pytest.mark.parametrize("outer", [True, False, None])
@pytest.mark.parametrize("inner", [True, False, None])
def test_the_stored_head_decides_what_is_tied(checkpoint: Path, outer: bool | None, inner: bool | None) -> None:
    """One that is stored and differs is used, whatever the configs say; they disagree in published ones."""

    def tie(raw: dict[str, Any]) -> None:
        for config, value in ((raw, outer), (raw["text_config"], inner)):
            config.pop("tie_word_embeddings")
            config.update({} if value is None else {"tie_word_embeddings": value})

    edited(checkpoint / "config.json", tie)
    assert not open_checkpoint(checkpoint).config.text.tie_word_embeddings


PROCESSOR = "processor_config.json"


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("config.json", lambda raw: raw.update(scale_factor=3), "8 patches along a side of a tile are not a multiple"),
        ("config.json", lambda raw: raw.update(scale_factor="2"), "downsample_ratio is '2'"),
        ("config.json", lambda raw: raw.update(vision_config=[1]), "vision_config is [1], expected an object"),
        ("config.json", lambda raw: raw.update(text_config=7), "text_config is 7, expected an object"),
        ("config.json", lambda raw: raw["text_config"].update(model_type="mamba"), "text_config.model_type"),
        ("config.json", lambda raw: raw["vision_config"].update(hidden_act="relu"), "vision_config.hidden_act"),
        ("config.json", lambda raw: raw["vision_config"].update(image_size=[32, 32]), "vision_config.image_size"),
        ("config.json", lambda raw: raw.update(image_token_id=5), "image_token_id is 5, the tokenizer's <image> is"),
        (PROCESSOR, lambda raw: raw.update(image_seq_len=64), "image_seq_len is 64; config.json makes 16 tokens"),
        (PROCESSOR, lambda raw: raw["image_processor"].update(resample=0), "resample is 0"),
        (PROCESSOR, lambda raw: raw["image_processor"].update(size={"height": 64, "width": 64}), "longest_edge alone"),
        (PROCESSOR, lambda raw: raw["image_processor"].update(size={"longest_edge": 63}), "longest_edge: 63 is not"),
        (PROCESSOR, lambda raw: raw["image_processor"].update(size={"longest_edge": 8192}), "longest_edge: 8192"),
        (
            PROCESSOR,
            lambda raw: raw["image_processor"].update(max_image_size={"longest_edge": 16}),
            "max_image_size is 16",
        ),
        (PROCESSOR, lambda raw: raw["image_processor"].update(do_resize=False), "do_resize"),
        (
            PROCESSOR,
            lambda raw: raw["image_processor"].update(image_processor_type="SiglipImageProcessor"),
            "image_processor_type is SiglipImageProcessor; idefics3 has Idefics3ImageProcessor",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line(
    checkpoint: Path, file: str, change: Callable[[dict[str, Any]], object], line: str
) -> None:
    read_frontend(open_checkpoint(checkpoint))
    edited(checkpoint / file, change)
    with pytest.raises(PocketVlmError) as caught:
        read_frontend(open_checkpoint(checkpoint))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("longest", "split", "grids"), [(64, True, 3), (96, True, 5), (70, True, 5), (32, True, 1), (64, False, 1)]
)
def test_the_processors_settings_are_the_bundles(checkpoint: Path, longest: int, split: bool, grids: int) -> None:
    changes = {"size": {"longest_edge": longest}, "do_image_splitting": split}
    edited(checkpoint / PROCESSOR, lambda raw: raw["image_processor"].update(changes))
    vision = read_frontend(open_checkpoint(checkpoint)).vision
    assert vision is not None
    assert (vision.longest_edge, len(vision.candidates)) == (longest, grids)
    assert (vision.strategy, vision.resize_filter, vision.format_version) == ("idefics3", "lanczos", 3)


def test_transformers_4_kept_the_image_processor_and_the_template_in_files_of_their_own(checkpoint: Path) -> None:
    before = read_frontend(open_checkpoint(checkpoint))
    whole = json.loads((checkpoint / PROCESSOR).read_text())
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(whole.pop("image_processor")))
    (checkpoint / PROCESSOR).write_text(json.dumps(whole))
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").unlink()
    (checkpoint / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    after = read_frontend(open_checkpoint(checkpoint))
    assert (after.chat, after.vision, after.image_layout) == (before.chat, before.vision, before.image_layout)


def test_a_tokenizer_that_joins_the_layouts_text_otherwise_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a row ends with one line break and another follows, the two are one token: without last_row_end, none."""
    monkeypatch.setattr(idefics3, "LAYOUT", {**idefics3.LAYOUT, "last_row_end": None, "thumbnail": "\n<global-img>"})
    with pytest.raises(
        PocketVlmError, match=r"joins text around the tiles of a \dx\d grid in a way that no layout has"
    ):
        read_frontend(open_checkpoint(checkpoint))


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (4, 3)])
def test_smolvlms_own_processor_writes_what_idefics3s_does(rows: int, columns: int) -> None:
    """Its class wants two more packages, for videos; the contract asks Idefics3's."""
    from transformers import Idefics3Processor
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE, get_image_prompt_string

    theirs = Idefics3Processor.__new__(Idefics3Processor)
    theirs.fake_image_token, theirs.global_image_tag, theirs.image_token = FAKE, WHOLE, "<image>"
    theirs.image_seq_len = 5
    wanted = get_image_prompt_string(rows, columns, 5, FAKE, "<image>", WHOLE)
    assert theirs.replace_image_token({"rows": [[rows]], "cols": [[columns]]}, 0) == wanted
    video = "{% elif line['type'] == 'video' %}{{ '<video>' }}"
    assert IDEFICS3_TEMPLATE.replace("BEGIN", "<|im_start|>") == DEFAULT_CHAT_TEMPLATE.replace(video, "")
