"""Hostile bundles: the native reader and Python's refuse the same ones and accept the same ones."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm import __version__
from pocketvlm.bundle.open import (
    HOLLOW_FROM,
    MAX_MANIFEST_BYTES,
    SAMPLE_BYTES,
    file_sample_sha256,
    open_bundle,
    parse_manifest,
)
from pocketvlm.errors import BundleError
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.versions import check_minimum
from pocketvlm.runtime.vlm import _check_consistent
from tests.bundle import test_manifest, test_open
from tests.runner.native import Probe
from tests.runtime import test_choice
from tests.soak.manifests import WORST
from tests.support import formats
from tests.support.written_bundle import CONTENT, JSON_VALUES, MANIFEST, own, places, save, write_bundle


def cases(test: Callable[..., object]) -> list[Any]:
    """The values that a test of Python's reader is parametrized with."""
    values: list[Any] = test.pytestmark[0].args[1]  # type: ignore[attr-defined]
    return values


def both(probe: Probe, path: Path, *, verify: bool = False) -> bool:
    """Whether the two readers open a bundle; AssertionError where they differ."""
    try:
        open_bundle(path, verify=verify)
        python = None
    except BundleError as error:
        python = str(error)
    native = probe.refused("bundle", path=path, verify=verify)
    assert (native is None) == (python is None), (native, python)
    return native is None


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_whole_bundle_opens(
    probe: Probe, bundle: Path, tiny_bundles: dict[str, Path], litert_npu_bundle: Path
) -> None:
    assert both(probe, bundle)
    for path in (*tiny_bundles.values(), litert_npu_bundle):
        assert both(probe, path, verify=True)
    assert both(probe, Path(os.path.relpath(bundle)))


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("litert_npu"),
        lambda raw: raw.update(format_version=3),
        lambda raw: raw["litert_npu"].update(platform="mt6853"),
        lambda raw: raw["litert_npu"].update(compiled=True),
        lambda raw: raw["litert_npu"].update(compiled=True, programs=["no.tflite"]),
        lambda raw: raw["litert_npu"].update(prefill_tokens=1),
        lambda raw: raw["litert_npu"].update(chunks=[[0, 2]]),
        lambda raw: raw["engines"]["litert_npu"]["decode"]["inputs"][0].update(dtype="int4"),
    ],
)
def test_a_program_behind_litert_is_checked(
    probe: Probe, litert_npu_bundle: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    shutil.copytree(litert_npu_bundle, tmp_path / "bundle")
    raw = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    change(raw)
    save(tmp_path / "bundle", raw)
    assert not both(probe, tmp_path / "bundle")


def test_what_holds_for_an_engine_is_checked(probe: Probe, bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    save(bundle, {**raw, "format_version": 2, "by_engine": {"onnx": own(raw)}})
    assert both(probe, bundle)
    save(bundle, {**raw, "format_version": 1, "by_engine": {}})
    assert both(probe, bundle)


def test_a_chat_layout_may_drop_reasoning(probe: Probe, bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    formats.drops_reasoning(raw, 3)
    save(bundle, raw)
    assert both(probe, bundle)


@pytest.mark.parametrize("more", formats.OF_FORMAT_3)
def test_what_format_3_says_of_pictures(probe: Probe, bundle: Path, more: Any) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    more(raw, 3)
    save(bundle, raw)
    assert both(probe, bundle)


def test_caches_of_several_kinds(probe: Probe, bundle: Path) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    for write in (lambda: formats.convolves(raw, 5), lambda: formats.keeps_state(raw)):
        write()
        save(bundle, raw)
        assert both(probe, bundle)


@pytest.mark.parametrize("more", formats.OF_FORMAT_5)
def test_what_format_5_says_of_pictures_and_positions(probe: Probe, bundle: Path, more: Any) -> None:
    path = bundle.parent / "manifest.json"
    for version in (3, 4, 5):
        raw = json.loads((bundle / "manifest.json").read_text())
        more(raw, version)
        path.write_text(json.dumps(raw))
        assert (probe.refused("manifest", path=path) is None) == (version == 5)


def in_both_words(probe: Probe, bundle: Path, change: Callable[[Any], object]) -> bool:
    """Whether both readers refuse a manifest, and for the same reason."""
    raw = json.loads((bundle / "manifest.json").read_text())
    change(raw)
    path = bundle.parent / "manifest.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(BundleError) as python:
        parse_manifest(path.read_bytes(), path)
    native = str(probe.refused("manifest", path=path))
    return native.rsplit(": ", maxsplit=1)[-1] in str(python.value)


#: What sections say of each other, in the words of both.
SAID_ALIKE = (
    "belong together",
    "is one token",
    "less than a picture can have",
    "has downsample_ratio x downsample_ratio",
    "is no file of as many float32 as its",
    "pairs, a head",
    "more pairs than the first",
    "is no file of a cosine",
    "only format 5 has positions",
    "of a strategy without part",
    "of the strategy lfm2",
    "of the strategy minicpmv",
    "have no windows and nothing deep",
    "as a whole, not in parts",
    "only format 5 has spans",
    "a span of",
)


@pytest.mark.parametrize(
    "change",
    [
        change
        for change, line in cases(test_manifest.test_a_wrong_manifest_is_refused_at_its_key)
        if any(said in line or line in said for said in SAID_ALIKE)
    ],
)
def test_what_does_not_fit_together_is_said_in_the_same_words(
    probe: Probe, bundle: Path, change: Callable[[Any], object]
) -> None:
    assert in_both_words(probe, bundle, change)


@pytest.mark.parametrize(
    "change", cases(test_manifest.test_a_wrong_manifest_is_refused_at_its_key), ids=lambda one: one[1]
)
def test_a_wrong_manifest(probe: Probe, bundle: Path, change: Any) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    change[0](raw)
    save(bundle, raw)
    assert not both(probe, bundle)


@pytest.mark.parametrize(
    ("test", "right"),
    [
        (test_choice.test_a_wrong_preference_is_refused_at_its_key, False),
        (test_choice.test_a_preference_comes_back_as_it_was_written, True),
    ],
)
def test_a_preference(probe: Probe, bundle: Path, test: Callable[..., object], *, right: bool) -> None:
    whole = json.loads((bundle / "manifest.json").read_text())
    for one in cases(test):
        raw = copy.deepcopy(whole)
        (one if callable(one) else one[0])(raw)
        save(bundle, raw)
        assert both(probe, bundle) == right, raw.get("preference")


@pytest.mark.parametrize("text", cases(test_manifest.test_a_manifest_that_is_no_json_object_is_one_line))
def test_a_manifest_that_is_no_json_object(probe: Probe, bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    assert not both(probe, bundle)


@pytest.mark.parametrize("name", cases(test_manifest.test_names_that_could_lead_outside_are_refused))
def test_names_that_could_lead_outside(probe: Probe, bundle: Path, name: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["files"][name] = raw["files"]["graph.onnx"]
    save(bundle, raw)
    assert not both(probe, bundle)
    del raw["files"][name]
    raw["tokenizer"] = name
    save(bundle, raw)
    assert not both(probe, bundle)


@pytest.mark.parametrize("damage", cases(test_open.test_a_missing_cut_or_swapped_file_is_named), ids=lambda one: one[1])
def test_a_missing_cut_or_swapped_file(probe: Probe, bundle: Path, damage: Any) -> None:
    damage[0](bundle)
    assert not both(probe, bundle)


@pytest.mark.parametrize(("held", "opens"), [(0, False), (HOLLOW_FROM, True)])
def test_a_sparse_file(probe: Probe, bundle: Path, held: int, opens: bool) -> None:
    path = bundle / "weights/text.data"
    test_open.hollow(path, HOLLOW_FROM, held)
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["files"]["weights/text.data"].update(bytes=HOLLOW_FROM, sample_sha256=file_sample_sha256(path))
    save(bundle, raw)
    assert both(probe, bundle) == opens


def test_as_much_as_a_reader_takes(probe: Probe, bundle: Path) -> None:
    test_manifest.test_as_much_as_a_reader_takes_opens(bundle)
    assert both(probe, bundle)


def test_a_flipped_bit_is_found_by_the_full_check(probe: Probe, bundle: Path) -> None:
    path = bundle / "weights/text.data"
    content = bytearray(path.read_bytes())
    content[SAMPLE_BYTES + 1] ^= 1
    path.write_bytes(content)
    assert both(probe, bundle)
    assert not both(probe, bundle, verify=True)


def replaced(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def moved(path: Path, place: Path, target: str | Path) -> None:
    path.rename(place)
    path.symlink_to(target)


LINKS: dict[str, Callable[[Path], None]] = {
    "a file outside": lambda path: replaced(path / "graph.onnx", "../outside"),
    "a file inside": lambda path: replaced(path / "graph.onnx", "inside"),
    "a folder": lambda path: replaced(path / "graph.onnx", "weights"),
    "nowhere": lambda path: replaced(path / "graph.onnx", "nowhere"),
    "itself": lambda path: replaced(path / "graph.onnx", "graph.onnx"),
    "the manifest": lambda path: moved(path / "manifest.json", path.parent / "outside.json", "../outside.json"),
    "a folder outside": lambda path: moved(path / "weights", path.parent / "weights", path.parent / "weights"),
    "a folder inside": lambda path: moved(path / "weights", path / "other", "other"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_is_no_file_of_a_bundle(probe: Probe, bundle: Path, kind: str) -> None:
    shutil.copy(bundle / "graph.onnx", bundle.parent / "outside")
    shutil.copy(bundle / "graph.onnx", bundle / "inside")
    LINKS[kind](bundle)
    assert not both(probe, bundle)


def test_a_bundle_that_is_reached_by_a_link_opens(probe: Probe, bundle: Path) -> None:
    (bundle.parent / "link").symlink_to(bundle)
    assert both(probe, bundle.parent / "link")


def test_folders_pipes_and_what_is_no_bundle(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    assert not both(probe, tmp_path / "none")
    (bundle / "graph.onnx").unlink()
    (bundle / "graph.onnx").mkdir()
    assert not both(probe, bundle)
    (bundle / "graph.onnx").rmdir()
    os.mkfifo(bundle / "graph.onnx")
    assert not both(probe, bundle)
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    assert not both(probe, bundle)
    (bundle / "manifest.json").unlink()
    assert not both(probe, bundle)
    (bundle / "manifest.json").write_bytes(b" ")
    os.truncate(bundle / "manifest.json", MAX_MANIFEST_BYTES + 1)
    line = probe.refused("bundle", path=bundle)
    assert line is not None
    assert "larger than" in line


#: A manifest's text, as it is written, and what stands there instead.
NUMBERS = ("-0", "1e5", "1E400", "00", "1.", "+1", ".5", "1" + "0" * 30, "1" + "0" * 400, "1e-400", "NaN", "Infinity",
           "-Infinity", "true", "null", "0x1", "1_0", "1e", "-", "1e+2")  # fmt: skip
COLOURS = ("-0", "-0.0", "1e0", "1" + "0" * 30, "9223372036854775808", "18446744073709551616", "1" + "0" * 4400)
CHUNK = '"prefill_chunk": 128'
REPLACED: dict[str, tuple[str | bytes, str | bytes]] = {
    "a doubled key, right at last": (CHUNK, '"prefill_chunk": 1, "prefill_chunk": 2'),
    "a doubled key, wrong at last": (CHUNK, '"prefill_chunk": 1, "prefill_chunk": "x"'),
    "a doubled key, wrong at first": (CHUNK, '"prefill_chunk": "x", "prefill_chunk": 1'),
    "a doubled file, wrong at first": ('"files": {', '"files": {"tokenizer.json": 7, '),
    "a comment": (CHUNK, "// x\n" + CHUNK),
    "a trailing comma": ("}}}", "}},}"),
    "half a surrogate": ('"tiny"', '"\\ud800"'),
    "a whole surrogate pair": ('"tiny"', '"\\ud83d\\ude00"'),
    "a zero in a string": ('"tiny"', '"\\u0000"'),
    "overlong UTF-8": ('"tiny"', b'"\xc0\x80"'),
    "a surrogate in UTF-8": ('"tiny"', b'"\xed\xa0\x80"'),
    "a line break in a string": ('"tiny"', '"\n"'),
    "an escape that is none": ('"tiny"', '"\\x41"'),
    "a number in quotes": (CHUNK, '"prefill_chunk": "128"'),
    **{f"a rescale of {number[:12]}": ("0.0039", number) for number in NUMBERS},
    **{f"a colour of {number[:24]}": ("[0, 0, 0]", f"[0, {number}, 0]") for number in COLOURS},
}


@pytest.mark.parametrize("what", REPLACED)
def test_odd_json(probe: Probe, bundle: Path, what: str) -> None:
    text = (bundle / "manifest.json").read_bytes()
    old, new = (part.encode() if isinstance(part, str) else part for part in REPLACED[what])
    assert old in text
    (bundle / "manifest.json").write_bytes(text.replace(old, new))
    both(probe, bundle)


@pytest.mark.parametrize(
    ("before", "behind"),
    [(b"\xef\xbb\xbf", b""), (b"", b"\0"), (b" \n\t", b"\r\n "), (b"\v", b""), (b"", b"x"), (b"", b"{}")],
)
def test_what_stands_around_the_json(probe: Probe, bundle: Path, before: bytes, behind: bytes) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(before + path.read_bytes() + behind)
    both(probe, bundle)


def test_a_manifest_in_another_encoding(probe: Probe, bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    assert not both(probe, bundle)


@given(data=st.data())
def test_a_manifest_with_other_values(
    probe: Probe, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "other.json"
    raw = copy.deepcopy({**MANIFEST, "files": FILES})
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([one for one in places(raw) if one]))
        inside: Any = raw
        for key in place[:-1]:
            inside = inside[key]
        match data.draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                inside[place[-1]] = data.draw(JSON_VALUES)
            case "remove":
                del inside[place[-1]]
            case "add" if isinstance(inside, dict):
                inside[data.draw(st.text(max_size=8))] = data.draw(JSON_VALUES)
    content = json.dumps(raw).encode()
    path.write_bytes(content)
    try:
        parse_manifest(content, path)
        python = None
    except BundleError as error:
        python = str(error)
    native = probe.refused("manifest", path=path)
    assert (native is None) == (python is None), (native, python)


ENTRY = {"bytes": 7, "sha256": "0" * 64, "sample_sha256": "1" * 64}
FILES = dict.fromkeys(CONTENT, ENTRY)


@pytest.mark.parametrize("what", WORST)
def test_the_worst_manifests(probe: Probe, tiny_bundles: dict[str, Path], tmp_path: Path, what: str) -> None:
    """Of an exported bundle, read as at load: with what the schema cannot say."""
    path = tmp_path / "bundle"
    path.mkdir()
    for file in tiny_bundles["bluelm-v-3b"].iterdir():
        if file.name != "manifest.json":
            os.link(file, path / file.name)
    raw = json.loads((tiny_bundles["bluelm-v-3b"] / "manifest.json").read_text())
    WORST[what](raw)
    (path / "manifest.json").write_text(json.dumps(raw))
    try:
        manifest = open_bundle(path).manifest
        python = None
        try:
            check_minimum("pocketvlm", manifest.minimum_runtime.pocketvlm, __version__)
            _check_consistent(manifest)
            if manifest.vision is not None:
                preprocessing_of(manifest.vision)
            loads = None
        except BundleError as error:
            loads = str(error)
    except BundleError as error:
        python = loads = str(error)
    native = probe.refused("bundle", path=path)
    assert (native is None) == (python is None), (native, python)
    native = probe.refused("bundle", path=path, consistent=True)
    assert (native is None) == (loads is None), (native, loads)
