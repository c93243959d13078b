"""The image processor's numbers beside those of transformers, wherever a checkpoint keeps them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocketvlm.errors import PocketVlmError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.images.prepare import cut_tiles, normalize
from pocketvlm.models.checkpoint import open_checkpoint

SIZE = {"height": 72, "width": 72}
OLD, NEW = "preprocessor_config.json", "processor_config.json"
SWITCHES: tuple[dict[str, Any], ...] = (
    {},
    {"do_normalize": False},
    {"do_rescale": False},
    {"do_normalize": False, "do_rescale": False},
    {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]},
    {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    {"do_normalize": False, "image_mean": None, "image_std": None},
    {"do_center_crop": None, "do_pad": None, "do_convert_rgb": None},
)


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def pixels(directory: Path, picture: Image.Image) -> np.ndarray:
    images = read_frontend(open_checkpoint(directory)).images
    assert images is not None
    return normalize(cut_tiles(picture, images.preprocessing).pixels[:1], images.preprocessing)


@pytest.mark.parametrize("file", [OLD, NEW])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_pixels_are_transformers(checkpoint: Path, file: str, switches: dict[str, Any]) -> None:
    from transformers import SiglipImageProcessor

    (checkpoint / OLD).unlink()
    SiglipImageProcessor(size=SIZE, **switches).save_pretrained(checkpoint)
    (checkpoint / OLD).rename(checkpoint / file)
    if file == NEW:
        inside = json.loads((checkpoint / NEW).read_text())
        (checkpoint / NEW).write_text(json.dumps({"processor_class": "X", "image_processor": inside}))
        (checkpoint / OLD).write_text('{"image_mean": [9, 9, 9]}')  # left behind: the other one is read
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 72, 3), np.uint8))
    wanted = SiglipImageProcessor.from_pretrained(checkpoint)(picture, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels(checkpoint, picture), wanted, rtol=1e-5, atol=1e-5)


WRONG: list[tuple[str, Any, str]] = [
    ("do_resize", False, "do_resize is False, expected True"),
    ("do_center_crop", True, "do_center_crop is True, expected False"),
    ("do_pad", True, "do_pad is True, expected False"),
    ("size", {"height": 224, "width": 224}, "tiles have the vision_config's image_size, 72"),
    ("size", "x", "size is 'x', expected a valid integer"),
    ("size", 224, "size is 224"),
    ("image_mean", None, "image_mean is null, but its step is switched on"),
    ("do_rescale", None, "do_rescale is None, expected a valid boolean"),
    (
        "image_processor_type",
        "CLIPImageProcessor",
        "image_mean is missing, and a CLIPImageProcessor's own is not known",
    ),
]


@pytest.mark.parametrize(("key", "value", "line"), WRONG, ids=str)
def test_what_would_be_another_picture_is_refused_by_name(checkpoint: Path, key: str, value: Any, line: str) -> None:
    (checkpoint / OLD).write_text(json.dumps({"resample": 3, key: value}))
    with pytest.raises(PocketVlmError) as caught:
        read_frontend(open_checkpoint(checkpoint))
    assert line in str(caught.value)


@pytest.mark.parametrize("inside", [7, [], "x"])
def test_an_image_processor_that_is_none_is_refused(checkpoint: Path, inside: Any) -> None:
    (checkpoint / NEW).write_text(json.dumps({"image_processor": inside}))
    with pytest.raises(PocketVlmError, match="image_processor is not an object"):
        read_frontend(open_checkpoint(checkpoint))
