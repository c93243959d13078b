"""Manifests and bundles that a reader must refuse or take, each with what Python's reader says: for readers that this
process cannot call."""

from __future__ import annotations

import base64
import copy
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from pocketvlm import __version__
from pocketvlm.bundle.open import SAMPLE_BYTES, open_bundle, parse_manifest
from pocketvlm.errors import BundleError
from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.runtime.versions import check_minimum
from pocketvlm.runtime.vlm import _check_consistent
from tests.bundle import test_graphs, test_manifest, test_open
from tests.runner.test_bundles import LINKS, REPLACED, cases
from tests.runtime import test_choice
from tests.soak.edits import edited
from tests.soak.hostile import changed, hostile_json, odd_text
from tests.soak.manifests import WORST
from tests.support import formats
from tests.support.hostile_graphs import ATTACKS
from tests.support.written_bundle import write_bundle

LISTED = test_graphs.test_a_graph_takes_weights_only_from_files_that_are_listed_for_it
#: Where a graph says that its weights lie, and the files that the manifest lists for it.
LOCATIONS: list[tuple[str, list[str]]] = next(
    mark.args[1]
    for mark in LISTED.pytestmark  # type: ignore[attr-defined]
    if mark.args[0] != "archived"
)
AROUND = ((b"\xef\xbb\xbf", b""), (b"", b"\0"), (b" \n\t", b"\r\n "), (b"\v", b""), (b"", b"x"), (b"", b"{}"))
#: Of each way to change a manifest at random.
DRAWN = 250


def write_manifests(file: Path, raw: dict[str, Any], whole: dict[str, Any], corpus: Path) -> None:
    """One JSON line each: ``text`` in base64, whether it is ``refused``, and if what ``loads`` is asked as well.

    ``raw`` is the manifest that is changed; ``whole`` that of a bundle that could run.
    """
    with file.open("w") as lines:
        for name, text, loads in _manifests(raw, whole, corpus):
            line = {"name": name, "text": base64.b64encode(text).decode(), "loads": loads}
            lines.write(json.dumps({**line, "refused": refuses_manifest(text, loads=loads)}) + "\n")


def refuses_manifest(text: bytes, *, loads: bool) -> bool:
    """Whether Python refuses a manifest, with ``loads`` also for what shows at load."""
    try:
        manifest = parse_manifest(text, Path("manifest.json"))
        if loads:
            check_minimum("pocketvlm", manifest.minimum_runtime.pocketvlm, __version__)
            _check_consistent(manifest)
            if manifest.vision is not None:
                preprocessing_of(manifest.vision)
    except BundleError:
        return True
    return False


def _manifests(raw: dict[str, Any], whole: dict[str, Any], corpus: Path) -> Iterator[tuple[str, bytes, bool]]:
    text = json.dumps(raw).encode()
    yield "whole", text, False
    for name, changed_ in _changes(raw):
        yield name, json.dumps(changed_).encode(), False
    for index, other in enumerate(cases(test_manifest.test_a_manifest_that_is_no_json_object_is_one_line)):
        yield f"no JSON object {index}", other, False
    for name, (old, new) in REPLACED.items():
        before, after = (part.encode() if isinstance(part, str) else part for part in (old, new))
        assert before in text, name
        yield name, text.replace(before, after), False
    for before, behind in AROUND:
        yield f"between {before!r} and {behind!r}", before + text + behind, False
    yield "UTF-16", text.decode().encode("utf-16"), False
    for path in sorted(corpus.iterdir()):
        yield path.name, path.read_bytes(), False
    for name, change in WORST.items():
        worst = copy.deepcopy(whole)
        change(worst)
        for loads in (False, True):
            yield name, json.dumps(worst).encode(), loads
    yield from _drawn(raw, text)


def _changes(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Copies of a manifest, each with one change."""

    def changed_by(name: str, change: Callable[..., object], *more: int) -> tuple[str, dict[str, Any]]:
        one = copy.deepcopy(raw)
        change(one, *more)
        return name, one

    for change, key in cases(test_manifest.test_a_wrong_manifest_is_refused_at_its_key):
        yield changed_by(key, change)
    for index, more in enumerate(formats.OF_FORMAT_5):
        for version in (3, 4, 5):
            yield changed_by(f"format {version} says native {index}", more, version)
    for index, more in enumerate(formats.OF_FORMAT_3):
        for version in (1, 2, 3):
            yield changed_by(f"format {version} says {index}", more, version)
    for test in (
        test_choice.test_a_wrong_preference_is_refused_at_its_key,
        test_choice.test_a_preference_comes_back_as_it_was_written,
    ):
        for index, one in enumerate(cases(test)):
            yield changed_by(f"preference {index}", one if callable(one) else one[0])
    for name in cases(test_manifest.test_names_that_could_lead_outside_are_refused):
        yield f"a file {name!r}", {**raw, "files": {**raw["files"], name: raw["files"]["graph.onnx"]}}
        yield f"a tokenizer {name!r}", {**raw, "tokenizer": name}


def _drawn(raw: dict[str, Any], text: bytes) -> Iterator[tuple[str, bytes, bool]]:
    random = Random(0)
    for index in range(DRAWN):
        yield f"edited {index}", edited(text, random)[0], False
        yield f"odd text {index}", odd_text(text, random)[0], False
        yield f"hostile {index}", hostile_json(copy.deepcopy(raw), random)[0], False
        key = random.choice([key for key in raw if raw[key]])
        yield f"{key} {index}", json.dumps({**raw, key: changed(copy.deepcopy(raw[key]), random)[0]}).encode(), False


def write_bundles(root: Path, exported: Path) -> None:
    """Folders below ``root``, and ``bundles.json`` with whether each is ``refused``, also by a look at all content.

    ``exported`` is a bundle whose graphs are changed, with digests that fit.
    """
    places = [root / "none"]
    for index, spoil in enumerate(_spoils()):
        path = root / str(index) / "bundle"
        write_bundle(path)
        spoil(path)
        places.append(path)
    places += _with_graphs(root, exported)
    listed = [
        {"path": str(path), "verify": verify, "refused": refuses_bundle(path, verify=verify)}
        for path in places
        for verify in (False, True)
    ]
    (root / "bundles.json").write_text(json.dumps(listed))


def _with_graphs(root: Path, exported: Path) -> Iterator[Path]:
    """Copies of a bundle that take weights from other files, or have a graph that does harm."""
    shutil.copytree(exported, root / "exported")
    yield root / "exported"
    for index, (location, data) in enumerate(LOCATIONS):
        test_graphs.relocated(exported, root / f"location-{index}", location, data=data)
        yield root / f"location-{index}"
    for index, name in enumerate(name for name in ATTACKS if "of a file" in name or "million" in name):
        test_graphs.replaced(exported, root / f"graph-{index}", "token_embedding", ATTACKS[name]())
        yield root / f"graph-{index}"


def refuses_bundle(path: Path, *, verify: bool) -> bool:
    """Whether Python refuses a directory."""
    try:
        open_bundle(path, verify=verify)
    except BundleError:
        return True
    return False


def _spoils() -> Iterator[Callable[[Path], object]]:
    """What is done to whole bundles."""
    yield lambda path: None
    for damage, _ in cases(test_open.test_a_missing_cut_or_swapped_file_is_named):
        yield damage
    for link in LINKS.values():
        yield functools.partial(_linked, link=link)
    yield _flipped
    for name in ("graph.onnx", "manifest.json"):
        for instead in (None, Path.mkdir, os.mkfifo):
            yield functools.partial(_replaced, name=name, instead=instead)
    yield lambda path: os.truncate(path / "manifest.json", (16 << 20) + 1)


def _replaced(path: Path, name: str, instead: Callable[[Path], object] | None) -> None:
    (path / name).unlink()
    if instead is not None:
        instead(path / name)


def _linked(path: Path, link: Callable[[Path], None]) -> None:
    shutil.copy(path / "graph.onnx", path.parent / "outside")
    shutil.copy(path / "graph.onnx", path / "inside")
    link(path)


def _flipped(path: Path) -> None:
    content = bytearray((path / "weights/text.data").read_bytes())
    content[SAMPLE_BYTES + 1] ^= 1
    (path / "weights/text.data").write_bytes(content)
