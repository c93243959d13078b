"""The cache of prepacked weights: the same results, whatever is missing, damaged, busy or full."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.manifest import FileEntry, Part
from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import BundleError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.engines import prepacked
from pocketvlm.runtime.engines.onnx import OnnxEngine, prepacked_entry
from pocketvlm.runtime.engines.prepacked import DATA, GRAPH, PARTIAL, RECORD, cpu_features, entry_key, open_through
from tests.support.bundles import picture
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.waiting import SECONDS, ended

REPOSITORY = Path(__file__).resolve().parents[2]
SMALLEST = "session.optimized_model_external_initializers_min_size_in_bytes"
SAMPLED = GenerationConfig(max_new_tokens=8, temperature=3.0, seed=5)

Outcome = tuple[bytes, list[int]]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with INT4 weights that are large enough to be kept packed."""
    from pocketvlm.export import export_bundle

    place = tmp_path_factory.mktemp("wide")
    sizes = {"num_hidden_layers": 1, "intermediate_size": 22528, "tie_word_embeddings": False}
    write_checkpoint(place / "checkpoint", tiny_config("qwen2", vision=False, **sizes))
    return export_bundle(place / "checkpoint", place / "bundle", recipe="int4-g32", max_length=96).location


@pytest.fixture(scope="module")
def plain(wide: Path) -> Outcome:
    """What ``wide`` computes without a cache."""
    return outcome(wide)


@pytest.fixture(scope="module")
def made(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the entry of ``wide``. Read only."""
    cache = tmp_path_factory.mktemp("made")
    load(wide, threads=1, prepacked_cache=cache).close()
    return cache


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "cache")


def outcome(bundle: Path, cache: Path | None = None) -> Outcome:
    """Logits of a sequence, and the tokens of an answer."""
    with load(bundle, threads=1, prepacked_cache=cache) as vlm:
        images = [] if vlm.manifest.vision is None else [picture(140, 70)]
        answer = vlm.stream("What is it?", images, SAMPLED)
        return vlm.logits(np.arange(7, 40)).tobytes(), [piece.token_id for piece in answer]


def entry_of(bundle: Path, cache: Path) -> Path:
    return prepacked_entry(open_bundle(bundle), cache)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def states(entry: Path) -> dict[str, tuple[int, int]]:
    """Which file it is, and when it was written."""
    found = {path.name: path.stat() for path in entry.iterdir()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


# --- The same results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b", "wide"])
def test_results_are_the_same_bit_for_bit_and_an_entry_is_made_once(
    request: pytest.FixtureRequest, tiny_bundles: dict[str, Path], tmp_path: Path, recipe: str
) -> None:
    bundle = request.getfixturevalue("wide") if recipe == "wide" else tiny_bundles[recipe]
    wanted = outcome(bundle)
    assert outcome(bundle, tmp_path / "new" / "cache") == wanted
    entry = entry_of(bundle, tmp_path / "new" / "cache")
    before = states(entry)
    assert outcome(bundle, tmp_path / "new" / "cache") == wanted
    assert kept(entry.parent) == [entry.name]
    assert states(entry) == before
    assert before.keys() == ({GRAPH, DATA, RECORD} if recipe == "wide" else {GRAPH, RECORD})


def test_packed_weights_are_mapped_from_the_entry(wide: Path, made: Path) -> None:
    entry = entry_of(wide, made)
    assert (entry / GRAPH).read_bytes().count(b"MatMulNBits+") == 3
    with load(wide, threads=1, prepacked_cache=made):
        assert str(entry / DATA) in Path("/proc/self/maps").read_text()


def test_an_archive_has_the_entry_of_its_directory(wide: Path, plain: Outcome, cache: Path, tmp_path: Path) -> None:
    archive = tmp_path / "wide.zip"
    write_archive(wide, [path.name for path in wide.iterdir()], archive)
    before = states(entry_of(wide, cache))
    assert outcome(archive, cache) == plain
    assert kept(cache) == [entry_of(wide, cache).name]
    assert states(entry_of(wide, cache)) == before
    assert outcome(archive, tmp_path / "another") == plain
    assert kept(tmp_path / "another") == kept(cache)


def test_small_weights_are_the_same_even_where_onnxruntime_mistakes_them(
    tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime 1.29 on x86-64 reads NaN from packed weights that do not begin on a page."""
    monkeypatch.setitem(prepacked.SAVING, SMALLEST, "1024")
    bundle = tiny_bundles["int4-g32"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert outcome(bundle, tmp_path) == outcome(bundle, tmp_path) == outcome(bundle)


def test_an_entry_that_computes_something_else_is_not_kept(
    wide: Path, plain: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([np.zeros(3), np.array([0, 0, np.nan])])
    monkeypatch.setattr(OnnxEngine, "_probe", lambda self, session: next(answers))
    with pytest.warns(UserWarning, match="loading without them: this ONNX Runtime computes something else"):
        assert outcome(wide, tmp_path) == plain
    assert kept(tmp_path) == []


# --- Damage -----------------------------------------------------------------------------------------------------------


def cut(name: str) -> Callable[[Path], None]:
    return lambda entry: os.truncate(entry / name, (entry / name).stat().st_size - 1)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda entry: void((entry / name).write_bytes(content))


def void(_: object) -> None:
    """Nothing."""


def replace_by_a_file(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_bytes(b"x")


def recorded(name: str, content: bytes | Path) -> Callable[[Path], None]:
    """Another file with a record that fits it: only ONNX Runtime or the interface can tell."""

    def change(entry: Path) -> None:
        (entry / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        (entry / RECORD).write_bytes(prepacked._record(entry))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut(DATA), id="data cut"),
        pytest.param(cut(GRAPH), id="graph cut"),
        pytest.param(write(DATA, b""), id="data empty"),
        pytest.param(lambda entry: (entry / DATA).unlink(), id="no data"),
        pytest.param(lambda entry: (entry / GRAPH).unlink(), id="no graph"),
        pytest.param(lambda entry: (entry / RECORD).unlink(), id="no record"),
        pytest.param(write(RECORD, b"\xff{garbage"), id="record garbage"),
        pytest.param(write(RECORD, b"{}"), id="record of nothing"),
        pytest.param(lambda entry: write(DATA, bytes((entry / DATA).stat().st_size))(entry), id="data zero"),
        pytest.param(replace_by_a_file, id="no directory"),
        pytest.param(recorded(GRAPH, b"no graph"), id="graph that does not open"),
        pytest.param(recorded(DATA, b"x"), id="data that do not fit"),
    ],
)
def test_a_damaged_entry_is_made_anew(wide: Path, plain: Outcome, cache: Path, damage: Callable[[Path], None]) -> None:
    entry = entry_of(wide, cache)
    sound = prepacked._record(entry)
    damage(entry)
    assert outcome(wide, cache) == plain
    assert kept(cache) == [entry.name]
    assert (entry / RECORD).read_bytes() == prepacked._record(entry)
    assert prepacked._record(entry) == sound


def test_an_entry_with_another_interface_is_made_anew(wide: Path, plain: Outcome, cache: Path) -> None:
    entry = entry_of(wide, cache)
    for path in wide.iterdir():
        shutil.copy(path, entry)
    recorded(GRAPH, wide / "token_embedding.onnx")(entry)
    assert outcome(wide, cache) == plain
    assert kept(entry) == sorted((GRAPH, DATA, RECORD))


def test_a_bundle_that_is_not_what_its_manifest_says_is_not_kept(wide: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(wide, tmp_path / "bundle")
    content = bytearray((bundle / "text.data").read_bytes())
    content[5000] ^= 1  # outside of the sample that each load checks
    (bundle / "text.data").write_bytes(content)
    with pytest.warns(UserWarning, match=r"text\.data does not have the content"):
        load(bundle, threads=1, prepacked_cache=tmp_path / "cache").close()
    assert kept(tmp_path / "cache") == []


def test_a_bundle_that_does_not_load_says_so_as_ever(wide: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(wide, tmp_path / "bundle")
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["kv_cache"]["length"] -= 1
    (bundle / "manifest.json").write_text(json.dumps(raw))
    with pytest.warns(UserWarning, match="loading without"), pytest.raises(BundleError, match="the manifest asks for"):
        load(bundle, threads=1, prepacked_cache=tmp_path / "cache")
    assert kept(tmp_path / "cache") == []


# --- Keys -------------------------------------------------------------------------------------------------------------

PART = Part.model_construct(file="a.onnx", data=("a.data", "b.data"), inputs=(), outputs=())


def file_of(digest: str) -> FileEntry:
    return FileEntry.model_construct(bytes=1, sha256=digest, sample_sha256="")


FILES = {name: file_of(name) for name in ("a.onnx", "a.data", "b.data", "c")}


def test_a_key_depends_on_all_that_the_packed_weights_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(**digests: str) -> dict[str, FileEntry]:
        return FILES | {name.replace("_", "."): file_of(digest) for name, digest in digests.items()}

    key = entry_key(PART, FILES, "1.29.0", "x86_64 avx2")
    assert len(key) == 64 and int(key, 16) > 0
    assert entry_key(PART, swapped(c="other"), "1.29.0", "x86_64 avx2") == key
    others = [
        entry_key(PART, swapped(a_onnx="other"), "1.29.0", "x86_64 avx2"),
        entry_key(PART, swapped(b_data="other"), "1.29.0", "x86_64 avx2"),
        entry_key(PART, swapped(a_data="b.data", b_data="a.data"), "1.29.0", "x86_64 avx2"),
        entry_key(PART, FILES, "1.29.1", "x86_64 avx2"),
        entry_key(PART, FILES, "1.29.0", "x86_64 avx2 avx512f"),
    ]
    monkeypatch.setitem(prepacked.SAVING, SMALLEST, "1024")
    others.append(entry_key(PART, FILES, "1.29.0", "x86_64 avx2"))
    assert len({key, *others}) == 7


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        ("processor\t: 0\nflags\t\t: sse2 fpu avx2 fpu\n\nprocessor\t: 1\nflags\t\t: sse2\n", "avx2 fpu sse2"),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm\n", "asimd fp i8mm"),
        ("vmx flags\t: ept\nflags : avx", "avx"),
        ("", ""),
        ("nothing here", ""),
    ],
)
def test_features_of_the_first_processor(cpuinfo: str, features: str) -> None:
    assert cpu_features(cpuinfo) == features


def test_a_machine_without_cpuinfo_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(prepacked.this_machine().split()) > 1
    monkeypatch.setattr(prepacked, "CPUINFO", tmp_path / "none")
    assert prepacked.this_machine().split() != []


def test_another_onnxruntime_has_another_entry(
    wide: Path, plain: Outcome, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    before = kept(cache)
    monkeypatch.setattr(onnxruntime, "__version__", "99.0.0")
    assert outcome(wide, cache) == plain
    assert len(kept(cache)) == 2 and set(before) < set(kept(cache))


# --- Several writers --------------------------------------------------------------------------------------------------


def writer(say: Callable[[], None] = lambda: None) -> Callable[[Path], str]:
    def make(directory: Path) -> str:
        (directory / GRAPH).write_text("graph")
        say()
        return "made"

    return make


def test_a_second_writer_in_between_leaves_both_with_a_session(tmp_path: Path) -> None:
    entry = tmp_path / "key"
    found = []

    def meanwhile() -> None:
        assert len(kept(tmp_path)) == 1
        found.append(open_through(entry, 0, writer(), lambda path: "opened"))
        assert len(kept(tmp_path)) == 2, "the directory of a living writer is left alone"

    assert open_through(entry, 0, writer(meanwhile), lambda path: "opened") == "made"
    assert found == ["made"]
    assert kept(tmp_path) == ["key"]
    assert open_through(entry, 0, writer(), lambda path: path.read_text()) == "graph"


LOAD = """
import os, signal, sys, time
from pathlib import Path
from pocketvlm.runtime import load
from pocketvlm.runtime.engines import prepacked
record = prepacked._record
def instead(directory):
    if directory.name.startswith(prepacked.PARTIAL):
        {then}
    return record(directory)
prepacked._record = instead
load(sys.argv[1], threads=1, prepacked_cache=sys.argv[2]).close()
"""
WAIT_FOR_BOTH = """
        Path(sys.argv[2], f"here-{os.getpid()}").touch()
        while len(list(Path(sys.argv[2]).glob("here-*"))) < 2:
            time.sleep(0.01)
"""


def loading(then: str, bundle: Path, cache: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    code = LOAD.replace("{then}", then.strip())
    command = [sys.executable, "-W", "error", "-c", code, str(bundle), str(cache)]
    return ended(subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True))


def test_two_processes_that_write_at_once_end_well(wide: Path, plain: Outcome, tmp_path: Path) -> None:
    with loading(WAIT_FOR_BOTH, wide, tmp_path) as one, loading(WAIT_FOR_BOTH, wide, tmp_path) as other:
        errors = [process.communicate(timeout=SECONDS)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), errors
    entry = entry_of(wide, tmp_path)
    assert [name for name in kept(tmp_path) if not name.startswith("here-")] == [entry.name]
    before = states(entry)
    assert outcome(wide, tmp_path) == plain
    assert states(entry) == before


def test_what_a_killed_writer_left_is_no_entry_and_goes(wide: Path, plain: Outcome, tmp_path: Path) -> None:
    with loading("os.kill(os.getpid(), signal.SIGKILL)", wide, tmp_path) as process:
        process.communicate(timeout=SECONDS)
    (left,) = kept(tmp_path)
    assert left.startswith(PARTIAL) and {GRAPH, DATA} == set(kept(tmp_path / left))
    assert outcome(wide, tmp_path) == plain
    assert kept(tmp_path) == [entry_of(wide, tmp_path).name]


# --- Nowhere to write -------------------------------------------------------------------------------------------------


def read_only(*_: object, **__: object) -> str:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_cache_that_cannot_be_written_is_done_without(
    wide: Path, plain: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="loading without them: .*Not a directory"):
        assert outcome(wide, tmp_path / "file" / "cache") == plain
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.warns(UserWarning, match="loading without them: .*Read-only file system") as caught:
        assert outcome(wide, tmp_path / "cache") == plain
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_an_entry_is_used_where_nothing_can_be_written(
    wide: Path, plain: Outcome, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    assert outcome(wide, cache) == plain
    cut(DATA)(entry_of(wide, cache))
    with pytest.warns(UserWarning, match="Read-only file system"):
        assert outcome(wide, cache) == plain


def test_a_disk_with_too_little_space_is_not_filled(
    wide: Path, plain: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = int(2.5 * (wide / "text.data").stat().st_size)
    free: dict[str, Any] = {"free": needed - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(**free))
    with pytest.warns(UserWarning, match=r"it takes 10\.4 MB of disk, 10\.4 MB are free"):
        assert outcome(wide, tmp_path) == plain
    assert kept(tmp_path) == []
    free["free"] = needed
    assert outcome(wide, tmp_path) == plain
    assert len(kept(tmp_path)) == 1


def test_a_disk_that_is_full_in_the_middle_leaves_nothing(wide: Path, plain: Outcome, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, limits[1]))  # of each file, bytes
    try:
        with pytest.warns(UserWarning, match="loading without them"):
            found = outcome(wide, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found == plain
    assert kept(tmp_path) == []
