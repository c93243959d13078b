"""Manifests damaged by chance: the bundle opens, or is refused in one line that is fit to print."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError, one_line
from tests.support.written_bundle import JSON_VALUES, places, save, write_bundle


def opens_or_is_refused(directory: Path) -> None:
    try:
        open_bundle(directory, verify=True)
    except BundleError as error:
        assert str(error).isprintable()  # noqa: PT017 - both outcomes are right


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("random") / "bundle"
    return directory, write_bundle(directory)


@given(data=st.data())
def test_a_manifest_with_other_values_opens_or_is_refused(
    shared: tuple[Path, dict[str, Any]], data: st.DataObject
) -> None:
    directory, original = shared
    raw = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(raw)[1:] or [()]))
        if not place:
            continue
        holder = raw
        for key in place[:-1]:
            holder = holder[key]
        action = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if action == "delete":
            del holder[place[-1]]
        elif action == "add" and isinstance(holder, dict):
            holder[data.draw(st.text(max_size=5))] = data.draw(JSON_VALUES)
        else:
            holder[place[-1]] = data.draw(JSON_VALUES)
    save(directory, raw)
    opens_or_is_refused(directory)


@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, 10_000), st.sampled_from(["flip", "cut", "insert"]), st.binary(min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_manifest_with_other_bytes_opens_or_is_refused(
    shared: tuple[Path, dict[str, Any]], edits: list[tuple[int, str, bytes]]
) -> None:
    directory, original = shared
    text = bytearray(json.dumps(original).encode())
    for position, action, content in edits:
        position %= len(text) or 1
        if action == "flip" and text:
            text[position] ^= content[0] or 1
        elif action == "cut":
            del text[position : position + 50 * len(content)]
        else:
            text[position:position] = content
    (directory / "manifest.json").write_bytes(text)
    opens_or_is_refused(directory)


@given(st.text(), st.integers(10, 400))
def test_one_line_is_printable_and_bounded(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    if re.fullmatch(r"[a-z]{1,10}", text):
        assert line == text
