"""Answers of a form: whatever a model would say, what it answers is of it, in no more steps than it has to take."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm.errors import ConstraintError, PocketVlmError
from pocketvlm.runtime import GenerationConfig, decoding, load
from pocketvlm.runtime.constraints import (
    MAX_CONSTRAINT,
    MOST_FORCED,
    Constraint,
    Matcher,
    choices,
    grammar,
    json_schema,
    regex,
)
from tests.runtime.test_generation import END, ids_of, kv, model, saying
from tests.support.bundles import picture
from tests.support.doubles import ScriptedEngine

RECEIPT = {
    "type": "object",
    "properties": {"total amount": {"type": "string", "maxLength": 6}, "paid": {"type": "boolean"}},
    "required": ["total amount", "paid"],
    "additionalProperties": False,
}


def asked(constraint: Constraint | None, says: str = "no idea", **config: Any) -> tuple[str, ScriptedEngine, Any]:
    """What a model that would say something else answers."""
    vlm, engine = model(saying(ids_of(says)), kv_cache=kv(4096))
    answer = vlm.stream("hi", config=GenerationConfig(constraint=constraint, **config))
    return answer.read(), engine, answer.stats


# --- What is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "says", "answer"),
    [
        (choices(["yes", "no"]), "no idea", "no"),
        (choices(["yes", "no", "no idea"]), "no idea", "no idea"),
        (choices(['"quoted"', "back\\slash", "naïve 👍\n"]), "naïve", "naïve 👍\n"),
        (regex("[0-9]{3}-[A-Z]{2}"), "123-AB and more", "123-AB"),
        (grammar('start: "a" NUM\nNUM: /[0-9]{2}/'), "a17 b", "a17"),
        (json_schema({"enum": ["left", "right"]}), '"right"', '"right"'),
    ],
)
def test_an_answer_is_what_the_model_would_say_where_the_form_allows_it(
    constraint: Constraint, says: str, answer: str
) -> None:
    text, _, stats = asked(constraint, says)
    assert text == answer
    assert stats.finish_reason == "stop"


@pytest.mark.parametrize(
    ("constraint", "texts", "others"),
    [
        (choices(["yes", "yes, twice"]), ["yes", "yes, twice"], ["", "ye", "yes,", "no", "yes yes"]),
        (regex("[0-9]{2}"), ["17"], ["1", "171", " 17"]),
        (json_schema(RECEIPT), ['{"total amount":"1","paid":true}'], ['{"total amount":"1","paid":tr', "{}", "true"]),
    ],
)
def test_a_text_is_told_from_one_of_another_form(constraint: Constraint, texts: list[str], others: list[str]) -> None:
    vlm, _ = model(saying(ids_of("no")))
    assert all(vlm.meets(constraint, text) for text in texts)
    assert not any(vlm.meets(constraint, text) for text in others)


def schema(source: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema whose answers have an end."""
    kind = source.choice(["object", "array", "anyOf"] * (depth > 0) + ["string", "integer", "enum", "boolean", "null"])
    least = source.randint(-50, 50)
    if kind == "object":
        names = source.sample(["total", "name", "a b", "naïve", 'q"', "x"], source.randint(0, 4))
        required = [name for name in names if source.random() < 0.7]
        properties = {name: schema(source, depth - 1) for name in names}
        more: dict[str, Any] = {"properties": properties, "required": required, "additionalProperties": False}
    elif kind == "array":
        more = {"items": schema(source, depth - 1), "minItems": abs(least) % 3, "maxItems": 3}
    elif kind == "string":
        more = {"minLength": abs(least) % 5, "maxLength": 4 + abs(least) % 5}
    elif kind == "integer":
        more = {"minimum": least, "maximum": least + source.randint(0, 1000)}
    else:
        more = {}
    if kind == "anyOf":
        return {kind: [schema(source, depth - 1) for _ in range(source.randint(1, 3))]}
    if kind == "enum":
        return {kind: source.sample(["yes", 1, None, True, "no", 2.5, [1, "a"], {"k": "v"}], 3)}
    return {"type": kind, **more}


def answers(count: int) -> list[tuple[dict[str, Any], str]]:
    """Random schemas, and what a model that says anything at all answers by them."""
    source = random.Random(7)
    found = []
    vlm, _ = model(saying(ids_of("nothing")), kv_cache=kv(8192))
    for seed in range(count):
        asked_for = schema(source)
        config = GenerationConfig(temperature=1e6, seed=seed, constraint=json_schema(asked_for), max_new_tokens=4096)
        answer = vlm.stream("hi", config=config)
        found.append((asked_for, answer.read()))
        assert answer.stats.finish_reason == "stop"
    return found


def broken(found: list[tuple[dict[str, Any], str]]) -> int:
    """Answers that do not parse, or are not of their schema."""
    count = 0
    for wanted, text in found:
        try:
            jsonschema.validate(json.loads(text), wanted)
        except (ValueError, jsonschema.ValidationError):
            count += 1
    return count


def test_answers_by_random_schemas_parse_and_validate() -> None:
    assert broken(answers(500)) == 0


def test_without_its_mask_hardly_one_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Matcher, "mask", lambda self, logits, **how: logits)
    monkeypatch.setattr(Matcher, "chose", lambda self, token_id: None)
    monkeypatch.setattr(Matcher, "forced", lambda self, most: [])
    vlm, _ = model(saying(ids_of("nothing")), kv_cache=kv(8192))
    answer = vlm.stream("hi", config=GenerationConfig(constraint=json_schema(RECEIPT)))
    assert broken([(RECEIPT, answer.read())]) == 1


# --- How it is got ----------------------------------------------------------------------------------------------------


def test_a_greedy_choice_is_that_of_the_whole_mask() -> None:
    """Also among equal logits, and where the largest may not follow; and most often nothing is copied."""
    vlm, _ = model(saying(ids_of("no")))
    width, source, copied = vlm.manifest.model.vocab_size, np.random.default_rng(3), 0
    matcher = vlm._constraints.matcher(regex("[a-z ]{1,40}"))
    for _ in range(30):
        logits = source.integers(0, 6, width).astype(np.float32)
        logits[ids_of("e")] = 5
        whole, greedy = matcher.mask(logits), matcher.mask(logits, greedy=True)
        assert np.argmax(whole) == np.argmax(greedy)
        copied += greedy is not logits
        logits[int(np.argmax(whole))] = 9
        assert matcher.mask(logits, greedy=True) is logits
        matcher.chose(int(np.argmax(logits)))
    assert copied > 5


def test_what_has_to_follow_takes_no_step_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    text, engine, stats = asked(json_schema(RECEIPT), "{")
    assert json.loads(text).keys() == {"total amount", "paid"}
    # All but the value of the string, its end, and the choice between true and false are forced; END is as well.
    steps = [count for count, _ in engine.steps if count <= MOST_FORCED + 1]
    assert stats.forced_tokens >= len('"total amount":"') + len('"paid":') + len("}")
    assert len(steps) <= stats.decode_tokens - stats.forced_tokens + 1

    monkeypatch.setattr(decoding, "MOST_FORCED", 0)
    slowly, engine, stats = asked(json_schema(RECEIPT), "{")
    assert slowly == text and stats.forced_tokens == 0
    assert len(engine.steps) > 2 * len(steps)


def test_an_answer_that_is_cut_has_no_token_too_many() -> None:
    whole, _, _ = asked(json_schema(RECEIPT), "{")
    for most in (1, 2, 3, 9, 20):
        text, _, stats = asked(json_schema(RECEIPT), "{", max_new_tokens=most)
        assert whole.startswith(text) and len(text) >= most
        assert (stats.generated_tokens, stats.finish_reason) == (most, "length")


def test_the_kv_cache_ends_it_as_any_other() -> None:
    vlm, engine = model(saying(ids_of("{")), kv_cache=kv(32))
    answer = vlm.stream("hi", config=GenerationConfig(constraint=json_schema(RECEIPT)))
    answer.read()
    assert answer.stats.finish_reason == "kv_length"
    assert sum(count for count, _ in engine.steps) <= 32


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_loaded_model_answers_alike_with_drafts(tiny_bundles: dict[str, Path], temperature: float) -> None:
    with load(tiny_bundles["fp32"], threads=1) as vlm:
        said = []
        for lookup in (False, True):
            constraint = json_schema({"type": "array", "items": RECEIPT, "minItems": 3, "maxItems": 3})
            config = GenerationConfig(temperature=temperature, seed=3, lookup=lookup, constraint=constraint)
            said.append(vlm.stream("receipts", images=[picture(60, 40)], config=config).read())
    assert said[0] == said[1]
    assert len(json.loads(said[0])) == 3


def test_a_chat_goes_on_behind_it() -> None:
    vlm, engine = model(saying(ids_of("no idea")), kv_cache=kv(4096))
    with vlm.chat() as chat:
        assert chat.ask("sure?", GenerationConfig(constraint=choices(["no, not at all", "yes"]))) == "no, not at all"
        before = len(engine.steps)
        assert chat.ask("and now?") == "no idea"
        (first, *_) = engine.steps[before:]
        assert first[0] < 40  # not the conversation anew


def test_tokens_without_a_choice_have_scores_too() -> None:
    """The model's own: it would not have said them. What is answered does not change."""
    plain, _, _ = asked(json_schema(RECEIPT), "{")
    vlm, engine = model(saying(ids_of("{")), kv_cache=kv(4096))
    config = GenerationConfig(constraint=json_schema(RECEIPT), logprobs=1)
    answer = vlm.stream("hi", config=config)
    pieces = list(answer)
    assert answer.text == plain
    # The double's logits are 1 for what it would say and 0 for all others.
    (likely,) = {round(piece.scores.top[0][1], 6) for piece in pieces if piece.scores}
    others = {round(piece.scores.logprob, 6) for piece in pieces[1:] if piece.scores}
    assert all(piece.scores for piece in pieces) and others <= {likely, round(likely - 1, 6)}
    assert sum(count for count, _ in engine.steps) < len(pieces) + 40


def test_biases_and_penalties_hold_within_it() -> None:
    (yes,) = ids_of("y")
    text, _, _ = asked(choices(["yes", "no"]), "no", logit_bias={yes: 5.0})
    assert text == "yes"
    text, _, _ = asked(regex("[ab]{4}"), "a", repetition_penalty=0.5, temperature=0.0)
    assert re.fullmatch("[ab]{4}", text)


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        (json_schema({"type": "string", "minLength": 5, "maxLength": 2}), "json_schema: Unsatisfiable schema"),
        (json_schema({"type": "object", "required": ["a"], "properties": {"a": False}}), "Unsatisfiable"),
        (json_schema({"if": {}}), r'json_schema: Unimplemented keys: \["if"\]'),
        (json_schema({"$ref": "#/nope"}), "does not exist"),
        (regex("("), "regex: .*unclosed group"),
        (regex("(?=a)b"), "look-around"),
        (regex("[^\\s\\S]"), "regex: "),
        (grammar("start: nope"), "grammar: .*unknown name"),
        (grammar("%%%"), "grammar: "),
    ],
)
def test_a_form_that_no_answer_can_have_is_said_before_anything_is_computed(constraint: Constraint, says: str) -> None:
    vlm, engine = model(saying(ids_of("hi")))
    with pytest.raises(ConstraintError, match=says) as caught:
        vlm.stream("hi", config=GenerationConfig(constraint=constraint))
    assert "\n" not in str(caught.value) and engine.steps == []
    with vlm.chat() as chat, pytest.raises(ConstraintError):
        chat.stream("hi", GenerationConfig(constraint=constraint))
    assert vlm.stream("hi").read() == "hi"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: json_schema("{"), "json_schema is no JSON"),
        (lambda: json_schema("[1]"), "must be a JSON object"),
        (lambda: json_schema({"maximum": float("nan")}), "json_schema is no JSON"),
        (lambda: choices([]), "choices must be texts"),
        (lambda: choices(["a", ""]), "choices must be texts"),
        (lambda: choices("yes"), "choices must be texts"),
        (lambda: choices(["a"] * 5000), "at most 4096"),
        (lambda: regex("a" * (MAX_CONSTRAINT + 1)), f"at most {MAX_CONSTRAINT} are taken"),
    ],
)
def test_what_is_no_constraint_is_one_line(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@settings(max_examples=60)
@given(
    st.builds(regex, st.text("ab(|)*+?[]{}0-9,\\^$.<>", max_size=20))
    | st.builds(grammar, st.text('start: "a|b"()*+?/\n%', max_size=30).map(lambda text: "start: " + text))
    | st.builds(
        json_schema,
        st.dictionaries(
            st.sampled_from(["type", "enum", "properties", "items", "minLength", "pattern", "anyOf", "$ref", "const"]),
            st.recursive(
                st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["object", "string", "#", "("]),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
                max_leaves=6,
            ),
        ),
    )
)
def test_any_form_is_answered_or_refused(constraint: Constraint) -> None:
    refused, generated = "", 1
    try:
        generated = asked(constraint, "ab(1", max_new_tokens=8)[2].generated_tokens
    except PocketVlmError as error:
        refused = str(error)
    assert "\n" not in refused and 1 <= generated <= 8


def test_it_says_which_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    vlm, _ = model(saying([END]))
    with pytest.raises(PocketVlmError, match=r"pip install 'pocketvlm\[constraints\]'"):
        vlm.stream("hi", config=GenerationConfig(constraint=regex("a")))
