"""Part 2, mutated bundles: each answers as the unmutated one does, or is refused by one line; nothing else is touched.

A manifest is not hashed, and who changes a file may repair its digest: such a bundle is another one, and may answer
otherwise. Weights are hashed whole by ``inspect`` alone: what ``load`` does not see there is counted, and must be found
by ``inspect``.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from pocketvlm.cli import main
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, load
from tests.soak import archives, damage, escapes, manifests
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal, refused_with
from tests.soak.damage import Kind, Mutation, Original, ground_of

#: Loading and answering takes a fifth of a second and 130 MB.
LIMITS = Limits(seconds=10.0, peak_bytes=1 << 30)
#: What ONNX Runtime says is quoted up to 300 characters.
MOST_LINE = 400
QUESTION = "What is the total?"
NEW_TOKENS = 6
Tokens = tuple[int, ...]


def _interleaved() -> tuple[Kind, ...]:
    """Every kind by turns; escapes and worst cases twice as often, since they go through lists."""
    groups = (damage.KINDS, manifests.KINDS, archives.KINDS, escapes.KINDS * 2)
    longest = max(map(len, groups))
    return tuple(group[turn] for turn in range(longest) for group in groups if turn < len(group))


KINDS = _interleaved()


def cases(setup: Setup) -> Cases:
    """The kinds take turns, each on one of the bundles."""
    originals = {name: _original(setup, name) for name in setup.bundles}

    def case(index: int) -> Case:
        random_ = setup.random("bundles", index)
        name = random_.choice(sorted(originals))
        original = originals[name]
        kind = KINDS[index % len(KINDS)]
        turn = index // len(KINDS) * KINDS.count(kind) + KINDS[: index % len(KINDS)].count(kind)
        mutation = kind(ground_of(original, setup.sandbox / "case", random_, turn))
        return Case(f"{name}: {mutation.what}", lambda: check(mutation, original, setup.sandbox, index))

    return case


def _original(setup: Setup, name: str) -> Original:
    """A bundle, with the next one as its neighbour."""
    names = sorted(setup.bundles)
    return Original(setup.bundles[name], setup.bundles[names[(names.index(name) + 1) % len(names)]])


def check(mutation: Mutation, original: Original, sandbox: Path, index: int) -> Found:
    """Load, ask and inspect; then look whether anything was written."""
    wanted = unmutated(original.path)
    before = snapshot(sandbox)
    try:
        tokens: Tokens | None = answer(mutation.location)
        found = Found("right")
    except PocketVlmError as error:
        tokens, found = None, refusal(error, mutation.location, sandbox, most=MOST_LINE)
    inspected = inspect(mutation.location, sandbox, as_json=index % 2 == 0)
    if found.verdict != "wrong":
        found = verdict(mutation, tokens, wanted, found, inspected)
    if snapshot(sandbox) != before:
        return Found("wrong", f"files were written or removed: {snapshot(sandbox).symmetric_difference(before)}")
    return found


def verdict(mutation: Mutation, tokens: Tokens | None, wanted: Tokens, found: Found, inspected: Found) -> Found:
    """What it means that load gave ``tokens`` (None: refused with ``found``) and inspect said ``inspected``."""
    problem = None
    if inspected.verdict == "wrong":
        problem = f"inspect: {inspected.line}"
    elif mutation.damaged and inspected.verdict != "refused":
        problem = "inspect did not find the damage"
    elif mutation.expect == "same" and (tokens != wanted or inspected.verdict != "right"):
        problem = f"not as before: {tokens} {found.line}; inspect: {inspected.line}"
    elif mutation.expect == "refused" and tokens is not None:
        problem = f"was not refused, and answered {tokens}, the original {wanted}"
    if problem is not None:
        return Found("wrong", problem)
    return found if tokens in (None, wanted) else _otherwise(mutation, tokens, wanted, inspected)


def _otherwise(mutation: Mutation, tokens: Tokens | None, wanted: Tokens, inspected: Found) -> Found:
    """What it means that a bundle answers otherwise than the original."""
    if mutation.expect == "unhashed":
        again = answer(mutation.location)
        return Found("another") if again == tokens else Found("wrong", f"answers {tokens}, then {again}")
    if inspected.verdict == "refused":
        return Found("weights", inspected.line)
    return Found("wrong", f"answers {tokens} instead of {wanted}, and inspect finds nothing")


@functools.cache
def unmutated(path: Path) -> Tokens:
    """The answer of the bundle as it was exported."""
    return answer(path)


def answer(location: Path) -> Tokens:
    """The tokens of the answer to the fixed question about a fixed picture."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    with load(location, threads=1) as vlm:
        images = [noise] if vlm.manifest.vision is not None else []
        pieces = vlm.stream(QUESTION, images, GenerationConfig(max_new_tokens=NEW_TOKENS))
        return tuple(piece.token_id for piece in pieces)


def inspect(location: Path, sandbox: Path, *, as_json: bool) -> Found:
    """``pocketvlm inspect``: right (all digests fit, and what is printed is clean), refused or wrong."""
    arguments = ["inspect", str(location), *(["--json"] if as_json else [])]
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        error = result.exception
        return Found("wrong", f"{type(error).__name__} came out: {' '.join(str(error).split())[:200]}")
    if result.exit_code == 0:
        clean = all(char.isprintable() or char == "\n" for char in result.stdout)
        if as_json:
            json.loads(result.stdout)
        return Found("right") if clean and not result.stderr else Found("wrong", "prints control characters")
    lines = result.stderr.splitlines()
    if result.exit_code != 1 or len(lines) != 1 or not lines[0].startswith("error: ") or result.stdout:
        return Found("wrong", f"exit status {result.exit_code}, {len(lines)} lines: {result.stderr[:200]!r}")
    return refused_with(lines[0], location, sandbox, most=MOST_LINE)


def snapshot(sandbox: Path) -> set[tuple[str, int, int, int]]:
    """Every path below the sandbox with its mode, size and time; stderr is ours."""
    found = set()
    for path in sandbox.rglob("*"):
        if path != sandbox / "stderr":
            status = path.lstat()
            found.add((str(path.relative_to(sandbox)), status.st_mode, status.st_size, status.st_mtime_ns))
    return found
