"""Gate files: what they say, what they may not say, and the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bench.gate import gate as module
from pocketvlm.bench.gate.gate import DEFAULT, Bound, Gate, load_gate, parse_gate
from pocketvlm.bench.gate.ratios import Looks
from pocketvlm.bench.speed.workload import (
    decode_name,
    first_token_name,
    image_name,
    lookup_name,
    pair_name,
    prefill_name,
)
from pocketvlm.errors import ResultsError

WHOLE = """
[gate]
confidence = 0.9
pairs = { least = 30, most = 100 }
noise = "fail"

[[bounds]]
match = ["tg128", "pp*"]
relative = 0.03
absolute = 0.001

[[bounds]]
match = "*"
absolute = 5

[exact]
allow = ["bytes *"]
"""
BOUNDS = '[[bounds]]\nmatch = "*"\nrelative = 0.1\n'


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_gate_says_what_its_file_says(tmp_path: Path) -> None:
    path = written(tmp_path, WHOLE)
    assert load_gate(path) == Gate(
        bounds=(Bound(("tg128", "pp*"), 0.03, 0.001), Bound(("*",), 0.0, 5.0)),
        looks=Looks(30, 100, 0.9),
        noise="fail",
        allow=("bytes *",),
        name=str(path),
    )


def test_what_a_file_does_not_say_has_a_default(tmp_path: Path) -> None:
    found = load_gate(written(tmp_path, BOUNDS))
    assert (found.looks, found.noise, found.allow) == (Looks(20, 320, 0.95), "pass", ())
    more = load_gate(written(tmp_path, "gate.pairs.least = 500\n" + BOUNDS))
    assert (more.looks.least, more.looks.most) == (500, 500)


def test_the_first_bound_that_matches_wins() -> None:
    gate = Gate((Bound(("tg*",), 0.1), Bound(("*512",), 0.2), Bound(("*",), 0.3)))
    found = {name: gate.bound_of(name) for name in ("tg512", "pp512", "load", "TG512")}
    assert [bound and bound.relative for bound in found.values()] == [0.1, 0.2, 0.3, 0.2]
    assert Gate((Bound(("tg*",), 0.1),)).bound_of("pp512") is None


def test_metrics_named_in_full_are_those_without_wildcards() -> None:
    assert Gate((Bound(("tg128", "pp*"), 0.1), Bound(("img 768x1536", "l[oa]d", "a?"), 0.1))).named == (
        "tg128",
        "img 768x1536",
    )


def test_a_bound_is_the_larger_of_both() -> None:
    bound = Bound(("*",), relative=0.1, absolute=2.0)
    assert (bound.share(10.0), bound.share(40.0)) == (0.2, 0.1)
    assert [bound.exceeded(10, new) for new in (11.5, 12.0, 12.01)] == [False, False, True]
    assert [bound.exceeded(100, new) for new in (105.0, 110.0, 110.1)] == [False, False, True]
    assert [bound.exceeded(0, new) for new in (2, 3)] == [False, True]


@given(st.floats(0, 1), st.floats(0, 10), st.integers(0, 1000), st.integers(0, 1000))
def test_only_one_of_two_exceeds_the_other(relative: float, absolute: float, base: int, new: int) -> None:
    bound = Bound(("*",), relative, absolute)
    assert not (bound.exceeded(base, new) and bound.exceeded(new, base))
    assert not bound.exceeded(base, base)


# --- The default ------------------------------------------------------------------------------------------------------


def test_the_default_gate_holds_all_that_a_benchmark_measures() -> None:
    gate = load_gate(None)
    assert gate.name == "the default gate"
    assert gate.named == ()
    size = (768, 1536)
    fine = [
        prefill_name(512), prefill_name(512, 64), decode_name(128, 512), pair_name(512, 128), image_name(size),
        image_name(size, 4, pipelined=False), f"{image_name(size)} preprocess", first_token_name(size),
        "4 tiles projector", lookup_name(8, 512),
    ]  # fmt: skip
    for name in fine:
        assert gate.bound_of(name) == Bound(("pp*", "tg*", "lookup*", "img *", "ttft *", "* tiles projector"), 0.03)
    for name in ("load cold", "load warm", "peak decode", "resident loaded", "bundle bytes"):
        assert gate.bound_of(name) is not None
    for name in ("token ids", "tiles", "bytes text.onnx", "nodes text", "operators text Mul", "image tokens"):
        assert gate.bound_of(name) is None
    assert not gate.may_differ("bytes text.onnx")


def test_the_default_gate_is_a_file_of_the_package(repository: Path) -> None:
    assert DEFAULT.resolve() == repository / "bench" / "gate" / "gates" / "default.toml"


# --- Files that are refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bounds: Field required"),
        ("bounds = 3", "bounds is"),
        ("bounds = [3]", "bounds.0 is"),
        ("[gate", "not TOML ("),
        (BOUNDS[:-5], "not TOML ("),
        ("a = " + "[" * 5000, "not TOML ("),
        (f"limit = 3\n{BOUNDS}", "limit: unknown key"),
        (f"gate = 1\n{BOUNDS}", "gate is"),
        (f"gate.sure = 1\n{BOUNDS}", "gate.sure: unknown key"),
        (f"gate.confidence = nan\n{BOUNDS}", "gate.confidence is nan, expected a finite number"),
        (f"gate.confidence = 95\n{BOUNDS}", "gate.confidence is 95, expected less than or equal to 0.99"),
        (f"gate.confidence = true\n{BOUNDS}", "gate.confidence is True, expected a valid number"),
        (f"gate.noise = 'warn'\n{BOUNDS}", "gate.noise is 'warn', expected 'pass' or 'fail'"),
        (f"gate.pairs = 20\n{BOUNDS}", "gate.pairs is"),
        (f"gate.pairs.least = 19\n{BOUNDS}", "gate.pairs.least is 19, expected greater than or equal to 20"),
        (f"gate.pairs.least = 20.0\n{BOUNDS}", "gate.pairs.least is 20.0, expected a valid integer"),
        (
            f"gate.pairs = {{ least = 50, most = 40 }}\n{BOUNDS}",
            "gate.pairs: most is 40; it is a whole number from least",
        ),
        (
            f"gate.pairs.most = 1_000_000\n{BOUNDS}",
            "gate.pairs.most is 1000000, expected less than or equal to 10000",
        ),
        ("[[bounds]]\nrelative = 1", "bounds.0.match: Field required"),
        ("[[bounds]]\nmatch = []\nrelative = 1", "bounds.0.match: Value should have at least 1 item"),
        ("[[bounds]]\nmatch = ['a', 1]\nrelative = 1", "bounds.0.match.1 is 1, expected a valid string"),
        ("[[bounds]]\nmatch = ['']\nrelative = 1", "bounds.0.match.0: String should have at least 1 character"),
        (
            f"[[bounds]]\nmatch = '{'a' * 201}'\nrelative = 1",
            "bounds.0.match.0: String should have at most 200",
        ),
        ("[[bounds]]\nmatch = 'a'", "bounds.0: says neither relative nor absolute"),
        (
            f"{BOUNDS}\n[[bounds]]\nmatch = 'a'\nrelative = inf",
            "bounds.1.relative is inf, expected a finite number",
        ),
        (
            "[[bounds]]\nmatch = 'a'\nrelative = -0.1",
            "bounds.0.relative is -0.1, expected greater than or equal to 0",
        ),
        ("[[bounds]]\nmatch = 'a'\nabsolute = '3 MB'", "bounds.0.absolute is '3 MB', expected a valid number"),
        (f"[[bounds]]\nmatch = 'a'\nabsolute = 1{'0' * 400}", "bounds.0.absolute is 1000000"),
        ("[[bounds]]\nmatch = 'a'\npercent = 3", "bounds.0.percent: unknown key"),
        (BOUNDS + BOUNDS, "'*' is claimed twice"),
        (BOUNDS + "[exact]\nallow = 3", "exact.allow is 3, expected a valid array"),
        (BOUNDS + "[exact]\ndeny = '*'", "exact.deny: unknown key"),
    ],
)
def test_a_wrong_file_is_refused_in_a_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ResultsError) as caught:
        load_gate(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResultsError, match=r"none.toml: cannot be read \(No such file"):
        load_gate(tmp_path / "none.toml")
    with pytest.raises(ResultsError, match="is not a regular file"):
        load_gate(tmp_path)
    path = tmp_path / "gate.toml"
    path.write_bytes(b"# \xff\n" + BOUNDS.encode())
    with pytest.raises(ResultsError, match="not TOML"):
        load_gate(path)
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(ResultsError, match="more than the 10 bytes that are read"):
        load_gate(path)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["match", "least"]), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["gate", "bounds", "exact"]), JSON)
    | st.fixed_dictionaries(
        {
            "gate": st.fixed_dictionaries({}, optional=dict.fromkeys(["confidence", "pairs", "noise"], JSON)),
            "bounds": st.lists(st.fixed_dictionaries({"match": JSON, "relative": JSON, "absolute": JSON}), max_size=2),
        }
    )
)
def test_whatever_stands_in_a_file_is_a_gate_or_an_error(raw: dict[str, Any]) -> None:
    try:
        gate = parse_gate(raw, "gate.toml")
    except ResultsError as error:
        message = str(error)
    else:
        message = "gate.toml"
        assert gate.bounds
        assert 20 <= gate.looks.least <= gate.looks.most
    assert message.startswith("gate.toml")
    assert message.isprintable()
