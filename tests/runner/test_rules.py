"""The native library's rules beside the golden files, and beside Python on drawn inputs."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm.bundle.open import file_sample_sha256
from pocketvlm.bundle.vision import ImageLayout
from pocketvlm.errors import CapacityError, ImageError
from pocketvlm.images.layout import image_tokens
from pocketvlm.images.open import open_image
from pocketvlm.images.patches import antialiased, axial_rope, interpolated, windows
from pocketvlm.images.positions import axis_of_pairs, positions_of
from pocketvlm.images.prepare import RESIZE_FILTERS, Preprocessing, cut_tiles, normalize
from pocketvlm.images.rules import NATIVE_RULES, RULES, check_tiling, minicpmv, plan_of, select_grid
from pocketvlm.images.rules.idefics3 import grids as idefics3_grids
from pocketvlm.images.rules.smart_resize import MOST_ASPECT
from pocketvlm.images.tiling import PAPER_CANDIDATES, ResizeFilter, Tiling
from tests.images.test_tiles import noise
from tests.images.test_tiling import COLUMNS, enough
from tests.images.test_tiling import GOLDEN as GRIDS
from tests.runner.native import Probe
from tests.support.portable_engines import GOLDEN as ENGINES
from tests.support.portable_layouts import GOLDEN as LAYOUTS
from tests.support.portable_native import GOLDEN as PLACES
from tests.support.portable_native import pictures_of
from tests.support.portable_native import table as learned_table
from tests.support.portable_plans import FORMS, path_of
from tests.support.portable_spans import GOLDEN as SPANS
from tests.support.portable_tiles import GOLDEN as TILES
from tests.support.portable_tiles import pixels

MEASURED = ("grid", "tiles", "thumbnail_index", "sha256", "normalized_sha256", "parts")


def grid(probe: Probe, *, tile: int, **given: Any) -> Any:
    """The grid of a plan, whatever its thumbnail."""
    settings = {**vars(Tiling(tile_size=tile)), **given}
    return probe("picture_plan", **settings)["grid"]


def test_golden_engines(probe: Probe) -> None:
    for case in json.loads(ENGINES.read_text(encoding="utf-8")):
        wanted = {key: case[key] for key in ("chosen", "skipped")}
        assert probe("choose", engines=case["engines"], machine=case["machine"]) == wanted, case["name"]


@pytest.mark.parametrize("rule", [*RULES, *NATIVE_RULES])
def test_golden_plans(probe: Probe, rule: str) -> None:
    for form in json.loads(path_of(rule).read_text(encoding="utf-8")):
        for plan in form.pop("plans"):
            width, height = plan.pop("size")
            assert probe("picture_plan", width=width, height=height, **form) == plan, (form, width, height)


@pytest.mark.parametrize(
    "changes",
    [
        {"longest_edge": 127},
        {"longest_edge": 4098, "tile_size": 2000},
        {"longest_edge": 130},
        {"candidates": ((2, 2), (1, 1)), "longest_edge": None},
        {"candidates": idefics3_grids(4)[1:]},
    ],
)
def test_a_tiling_that_no_rule_can_follow_is_refused(probe: Probe, changes: dict[str, Any]) -> None:
    form = {**vars(Tiling(tile_size=32, strategy="idefics3", candidates=idefics3_grids(4), longest_edge=128))}
    assert probe.refused("picture_plan", width=8, height=8, **form) is None
    with pytest.raises(ValueError, match=r"longest_edge|candidates"):
        check_tiling(Tiling(**{**form, **changes}))
    assert probe.refused("picture_plan", width=8, height=8, **{**form, **changes}) is not None


SMART: dict[str, Any] = {
    **vars(Tiling(tile_size=28, strategy="smart-resize", candidates=((1, 1),), thumbnail="none")),
    "min_pixels": 784,
    "max_pixels": 78400,
}


@pytest.mark.parametrize(
    "changes",
    [
        {"min_pixels": None},
        {"max_pixels": None},
        {"min_pixels": 0},
        {"min_pixels": 78401},
        {"min_pixels": 1, "max_pixels": 783},
        {"thumbnail": "last"},
    ],
)
def test_bounds_that_smart_resize_cannot_follow_are_refused_in_pythons_words(
    probe: Probe, changes: dict[str, Any]
) -> None:
    assert probe.refused("picture_plan", width=8, height=8, **SMART) is None
    with pytest.raises(ValueError, match=r"pixels|thumbnail") as refused:
        check_tiling(Tiling(**{**SMART, **changes}))
    assert probe.refused("picture_plan", width=8, height=8, **{**SMART, **changes}) == str(refused.value)


@settings(max_examples=300)
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    tile=st.sampled_from([12, 28, 32]),
    least=st.integers(1, 100),
    more=st.integers(0, 3000),
)
def test_whole_pictures_are_resized_as_python_does(
    probe: Probe, size: tuple[int, int], tile: int, least: int, more: int
) -> None:
    bounds = {"min_pixels": 100 * least, "max_pixels": 100 * least + 500 * more + tile**2}
    asked: dict[str, Any] = {**SMART, "tile_size": tile, **bounds}
    if max(size) > MOST_ASPECT * min(size):
        with pytest.raises(ImageError) as refused:
            plan_of(size, Tiling(**asked))
        assert probe.refused("picture_plan", width=size[0], height=size[1], **asked) == str(refused.value)
        return
    wanted = plan_of(size, Tiling(**asked))
    found = probe("picture_plan", width=size[0], height=size[1], **asked)
    assert (tuple(found["grid"]), [tuple(one) for one in found["resizes"]]) == (wanted.grid, list(wanted.resizes))


PARTS: dict[str, Any] = {**vars(replace(FORMS["lfm2"][0], strategy="lfm2")), "resize_filter": "bilinear"}


@pytest.mark.parametrize(
    "changes",
    [
        {"part": None},
        {"part": 65},
        {"thumbnail": "first"},
        {"thumbnail_of_single_tile": True},
        {"min_pixels": None},
        {"min_pixels": 0},
    ],
)
def test_parts_that_cannot_be_cut_are_refused_in_pythons_words(probe: Probe, changes: dict[str, Any]) -> None:
    tiling = {key: value for key, value in PARTS.items() if key != "resize_filter"}
    assert probe.refused("picture_plan", width=8, height=8, **tiling) is None
    with pytest.raises(ValueError, match=r"pixels|thumbnail|part") as refused:
        check_tiling(Tiling(**{**tiling, **changes}))
    assert probe.refused("picture_plan", width=8, height=8, **{**tiling, **changes}) == str(refused.value)


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    tile=st.sampled_from([6, 8]),
    part=st.integers(1, 4),
    least=st.integers(1, 9),
    more=st.integers(0, 30),
)
def test_parts_of_pictures_are_pythons_to_the_byte(
    probe: Probe,
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    tile: int,
    part: int,
    least: int,
    more: int,
) -> None:
    form = Preprocessing(
        **{
            **PARTS,
            "tile_size": tile,
            "part": part,
            "min_pixels": least * tile**2,
            "max_pixels": (least + more) * tile**2,
        }
    )
    rgba = np.random.default_rng(size[0]).integers(0, 256, (*size[::-1], 4), np.uint8)
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(rgba.tobytes())
    asked: dict[str, Any] = {"path": path, "width": size[0], "height": size[1], **vars(form)}
    if max(size) > MOST_ASPECT * min(size):
        assert "is too narrow: one side is at most 200 times the other" in str(probe.refused("tiles", **asked))
        return
    tiled = cut_tiles(open_image(rgba), form)
    found = probe("tiles", **asked)
    assert [tuple(one) for one in found["parts"]] == list(tiled.seen)
    assert (found["grid"], found["thumbnail_index"]) == ([*tiled.grid], tiled.thumbnail_index)
    assert found["sha256"] == hashlib.sha256(tiled.pixels.tobytes()).hexdigest()
    assert found["normalized_sha256"] == hashlib.sha256(normalize(tiled.pixels, form).tobytes()).hexdigest()


SLICES: dict[str, Any] = vars(replace(FORMS["minicpmv"][0], strategy="minicpmv"))


@pytest.mark.parametrize(
    "changes",
    [
        {"thumbnail": "last"},
        {"thumbnail_of_single_tile": True},
        {"max_pixels": None},
        {"min_pixels": 448},
        {"min_pixels": 448 * 449, "max_pixels": 448 * 449},
        {"part": 4},
        {"candidates": SLICES["candidates"][::-1]},
        {"candidates": SLICES["candidates"][:-1]},
    ],
)
def test_slices_that_cannot_be_cut_are_refused_in_pythons_words(probe: Probe, changes: dict[str, Any]) -> None:
    assert probe.refused("picture_plan", width=8, height=8, **SLICES) is None
    with pytest.raises(ValueError, match=r"pixels|thumbnail|part|candidates") as refused:
        check_tiling(Tiling(**{**SLICES, **changes}))
    assert probe.refused("picture_plan", width=8, height=8, **{**SLICES, **changes}) == str(refused.value)


@settings(max_examples=200)
@given(
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    shape=st.sampled_from([(14, 448, 9), (8, 100, 12), (4, 24, 4), (14, 448, 1)]),
)
def test_slices_are_pythons(probe: Probe, size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    patch, side, most = shape
    form = {**SLICES, "tile_size": patch, "candidates": minicpmv.grids(most), "min_pixels": side**2,
            "max_pixels": side**2}  # fmt: skip
    asked = {"width": size[0], "height": size[1], **form}
    if max(size) > MOST_ASPECT * min(size):
        assert "is too narrow: one side is at most 200 times the other" in str(probe.refused("picture_plan", **asked))
        return
    planned = {key: value for key, value in vars(plan_of(size, Tiling(**form))).items() if key != "square"}
    wanted = json.loads(json.dumps(planned))
    assert probe("picture_plan", **asked) == wanted


def test_a_narrow_picture_whose_whole_is_too_large_is_refused(probe: Probe, tmp_path: Path) -> None:
    """Few parts that are no longer than a side, and one more beside them of 81,920 x 4,096 pixels."""
    form = Preprocessing(
        **{**PARTS, "tile_size": 4096, "part": 1, "candidates": ((2, 1),), "min_pixels": 1, "max_pixels": 33 << 20}
    )
    (tmp_path / "rgba").write_bytes(bytes(4 * 16384 * 82))
    line = probe.refused("tiles", path=tmp_path / "rgba", width=16384, height=82, **vars(form))
    assert line == "the image is too narrow for a crop of it"
    with pytest.raises(ImageError, match="too narrow for a crop"):
        cut_tiles(Image.new("RGB", (16384, 82)), form)


def place(probe: Probe, of: str, case: dict[str, Any]) -> Any:
    keys = ("grid", "ratio", "side", "head_dim", "theta")
    given_: dict[str, Any] = {key: case[key] for key in keys if key in case}
    if of.endswith("table"):
        given_["table"] = learned_table(case["side"]).ravel().tolist()
    return probe("picture_place", of=of, **given_)


def test_golden_places(probe: Probe) -> None:
    golden = json.loads(PLACES.read_text(encoding="utf-8"))
    for case in golden["rope"]:
        for found, wanted in zip(place(probe, "rope", case), (case["cos"], case["sin"]), strict=True):
            assert len(found) == len(wanted)
            assert np.abs(np.array(found) - wanted).max() < 1e-7, case["grid"]
    for case in golden["windows"]:
        assert place(probe, "windows", case) == {key: case[key] for key in ("count", "tiles", "mask", "positions")}
    for case in golden["tables"]:
        assert (np.array(place(probe, "table", case), "<f4") == np.array(case["values"], "<f4")).all(), case["grid"]
    for case in golden["resized_tables"]:
        laid = np.array(place(probe, "resized table", case))
        assert len(laid) == len(case["values"])
        assert np.abs(laid - case["values"]).max() < 1e-6, case["grid"]
    for case in golden["bucketed_tables"]:
        assert (np.array(place(probe, "bucketed table", case), "<f4") == np.array(case["values"], "<f4")).all()
    for case in golden["key_rows"]:
        found = np.array(probe("picture_place", of="sincos", grid=case["grid"], width=case["width"]))
        assert np.abs(found - case["values"]).max() < 1e-6, case["grid"]
    for case in golden["most_windows"]:
        assert probe("most_windows", tokens=case["tokens"], side=case["side"]) == case["windows"]


def test_golden_positions(probe: Probe) -> None:
    golden = json.loads(PLACES.read_text(encoding="utf-8"))
    for case in golden["positions"]:
        assert probe("positions", pictures=case["pictures"], grids=case["grids"]) == case["positions"]
    for case in golden["axes"]:
        assert probe("axes", sections=case["sections"], interleaved=case["interleaved"]) == case["axes"]


def test_text_behind_a_picture_that_a_rewind_cut_goes_on_behind_what_is_left_of_it(probe: Probe) -> None:
    found = probe("positions", pictures=[-1, 0, 0, 0, -1], grids=[(2, 9)])
    assert found == [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 2, 1], [3, 3, 3]]
    wide = probe("positions", pictures=[0] * 6 + [-1], grids=[(5, 9)])
    assert wide[-2:] == [[0, 1, 0], [5, 5, 5]], "the last token does not have the largest of them"


@settings(max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    ratio=st.integers(1, 3),
    side=st.integers(1, 9),
    pairs=st.integers(1, 5),
    theta=st.sampled_from([1e4, None]),
)
def test_places_are_pythons(
    probe: Probe, grid: tuple[int, int], ratio: int, side: int, pairs: int, theta: float | None
) -> None:
    case = {"grid": grid, "ratio": ratio, "side": side, "head_dim": 4 * pairs, "theta": theta}
    found, wanted = place(probe, "rope", case), axial_rope(grid, ratio, 4 * pairs, theta)
    assert all(np.abs(np.array(one) - other.ravel()).max() < 1e-7 for one, other in zip(found, wanted, strict=True))
    cut, own = place(probe, "windows", case), windows(grid, side, ratio)
    assert cut["count"] == len(own.tiles)
    assert all(cut[name] == getattr(own, name).ravel().tolist() for name in ("tiles", "mask", "positions"))
    laid = np.array(place(probe, "table", case), "<f4")
    assert (laid == interpolated(grid, ratio, learned_table(side)).ravel()).all()
    resized = np.array(place(probe, "resized table", case))
    assert np.abs(resized - antialiased(grid, ratio, learned_table(side)).ravel()).max() < 1e-6


@settings(max_examples=60)
@given(
    prompt=st.lists(st.integers(1, 5) | st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=6).map(tuple),
    sections=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    interleaved=st.booleans(),
)
def test_positions_are_pythons(
    probe: Probe, prompt: tuple[Any, ...], sections: tuple[int, int, int], interleaved: bool
) -> None:
    index, grids = pictures_of(prompt)
    found = probe("positions", pictures=index, grids=grids)
    assert found == positions_of(np.array(index, np.int64), grids).T.tolist()
    wanted = axis_of_pairs(sections, interleaved=interleaved).tolist()
    assert probe("axes", sections=sections, interleaved=interleaved) == wanted


def test_golden_layouts(probe: Probe) -> None:
    golden = json.loads(LAYOUTS.read_text(encoding="utf-8"))
    for case in golden["cases"]:
        tokens = case.get("tokens", golden["tokens_per_tile"])
        given_ = {**case, "layout": golden["layouts"][case["layout"]], "tokens_per_tile": tokens}
        assert probe("image_tokens", **given_) == case["ids"], case


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("grid", "thumbnail"), [((1, 1), None), ((2, 1), 0), ((2, 3), 6), ((1, 2), None)])
def test_ends_and_numbers_of_a_layout_are_pythons(
    probe: Probe, grid: tuple[int, int], thumbnail: int | None, number: int
) -> None:
    """Behind each tile, the thumbnail and a lone tile; behind the last number an image is refused."""
    layout = ImageLayout(
        image_start=(1,), thumbnail=(2,), tile=(((3,),) * 2,) * 3, row_end=(4,), image_end=(5,), lone=(6,),
        last_row_end=(7,), tile_end=(8,), thumbnail_end=(9, 9), numbers=((10,), (11, 12)),
    )  # fmt: skip
    tokens = [2, 3, 1, 2, 3, 1, 2][: grid[0] * grid[1] + (thumbnail is not None)]
    ids, _ = image_tokens(grid, thumbnail, layout, placeholder=-1, tokens_per_tile=tokens, number=number)
    asked = {"layout": layout.model_dump(), "grid": grid, "thumbnail_index": thumbnail, "tokens_per_tile": tokens}
    assert probe("image_tokens", **asked, number=number) == ids.tolist()
    line = "this bundle has numbers for 2 images of a conversation, not for more"
    assert probe.refused("image_tokens", **asked, number=2) == line
    with pytest.raises(CapacityError, match=line):
        image_tokens(grid, thumbnail, layout, placeholder=-1, tokens_per_tile=tokens, number=2)


def test_golden_grids(probe: Probe) -> None:
    with GRIDS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1200
    for row in rows:
        sizes = {name: int(row[name]) for name in ("width", "height", "tile")}
        for column, (strategy, candidates) in COLUMNS.items():
            grids = PAPER_CANDIDATES if candidates is None else candidates
            across, down = grid(probe, **sizes, candidates=grids, strategy=strategy, alpha=0.1)
            assert f"{across}x{down}" == row[column], (row, column)


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    tile=st.integers(1, 500),
    candidates=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=12),
    strategy=st.sampled_from(sorted(RULES)),
    alpha=st.floats(0, 1),
)
def test_grids_are_pythons(
    probe: Probe, size: tuple[int, int], tile: int, candidates: list[tuple[int, int]], strategy: str, alpha: float
) -> None:
    candidates = enough(strategy, candidates)
    wanted = select_grid(*size, tile=tile, candidates=candidates, strategy=strategy, alpha=alpha)
    given_: dict[str, Any] = {"width": size[0], "height": size[1], "tile": tile, "candidates": candidates}
    assert tuple(grid(probe, **given_, strategy=strategy, alpha=alpha)) == wanted


def test_golden_tiles(probe: Probe, tmp_path: Path) -> None:
    for case in json.loads(TILES.read_text(encoding="utf-8"))["cases"]:
        path = tmp_path / "rgba"
        path.write_bytes(pixels(case["width"], case["height"], transparent=case["transparent"]).tobytes())
        found = probe("tiles", path=path, **{key: value for key, value in case.items() if key not in MEASURED})
        assert found == {key: case[key] for key in MEASURED if key in case}


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    seed=st.integers(0, 1000),
    tile=st.integers(1, 90),
    strategy=st.sampled_from(sorted(RULES)),
    resize_filter=st.sampled_from(sorted(RESIZE_FILTERS)),
)
def test_tiles_of_noise_are_pillows(
    probe: Probe,
    tmp_path_factory: pytest.TempPathFactory,
    size: tuple[int, int],
    seed: int,
    tile: int,
    strategy: str,
    resize_filter: ResizeFilter,
) -> None:
    rgba = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 4), np.uint8)
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(rgba.tobytes())
    form = Preprocessing(
        tile_size=tile, strategy=strategy, resize_filter=resize_filter, mean=(0.4, 0.5, 0.1), std=(0.25, 0.26, 3.0)
    )
    tiled = cut_tiles(open_image(rgba), form)
    found = probe("tiles", path=path, width=size[0], height=size[1], **vars(form))
    assert found["sha256"] == hashlib.sha256(tiled.pixels.tobytes()).hexdigest()
    assert found["normalized_sha256"] == hashlib.sha256(normalize(tiled.pixels, form).tobytes()).hexdigest()


def test_a_picture_that_is_too_narrow_for_a_crop_is_refused(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "rgba").write_bytes(bytes(4 * 4000))
    crop = Preprocessing(tile_size=336, strategy="center-crop", candidates=((1, 1),), thumbnail="none")
    line = probe.refused("tiles", path=tmp_path / "rgba", width=1, height=4000, **vars(crop))
    assert line == "the image is too narrow for a crop of it"


SQUARE = Preprocessing(
    tile_size=45, strategy="pad-square", candidates=((1, 1),), thumbnail="none", pad_color=(3, 90, 255)
)


@pytest.mark.parametrize("size", [(50, 30), (31, 64), (45, 45), (1, 90), (7, 2)])
def test_a_square_around_a_picture_is_filled_and_resized_as_in_python(
    probe: Probe, tmp_path: Path, size: tuple[int, int]
) -> None:
    rgba = noise(*size, seed=size[0]).convert("RGBA")
    (tmp_path / "rgba").write_bytes(rgba.tobytes())
    found = probe("tiles", path=tmp_path / "rgba", width=size[0], height=size[1], **vars(SQUARE))
    assert found["sha256"] == hashlib.sha256(cut_tiles(open_image(rgba), SQUARE).pixels.tobytes()).hexdigest()


def test_a_square_of_too_many_pixels_is_refused(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "rgba").write_bytes(bytes(4 * 16384))
    line = probe.refused("tiles", path=tmp_path / "rgba", width=16384, height=1, **vars(SQUARE))
    assert line == "the image is too narrow for a square around it"


def test_a_size_that_is_too_large_is_refused(probe: Probe, tmp_path: Path) -> None:
    case = json.loads(TILES.read_text(encoding="utf-8"))["cases"][0]
    (tmp_path / "rgba").write_bytes(bytes(4 * 20000))
    line = probe.refused("tiles", **{**case, "path": tmp_path / "rgba", "width": 20000, "height": 1})
    assert line is not None
    assert "16384 pixels a side" in line


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 65535, 65536, 65537, 200_000, 3 << 20])
def test_digests(probe: Probe, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes())
    assert probe("sha256", path=path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert probe("sample_sha256", path=path) == file_sample_sha256(path)


def test_the_reference_of_pixels_is_the_pinned_pillow() -> None:
    """Before 13 Pillow ran its passes in one order always: other pixels, by one step."""
    assert int(PIL.__version__.split(".")[0]) >= 13


def test_golden_spans(probe: Probe) -> None:
    """What tokens may see, and where chunks end."""
    for case in json.loads(SPANS.read_text(encoding="utf-8"))["spans"]:
        asked = {key: case[key] for key in ("pictures", "spans", "most")}
        assert probe("spans", **asked) == {"last_seen": case["last_seen"], "ends": case["ends"]}, asked
