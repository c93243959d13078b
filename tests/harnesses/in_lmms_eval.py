"""The adapter inside lmms-eval's own classes; `test_lmms_eval.py` runs this file in a process that has them."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmms_eval as package
import pytest
import yaml
from lmms_eval.api.instance import Instance
from lmms_eval.cli import dispatch
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

from pocketvlm.errors import DataError
from pocketvlm.harnesses import lmms_eval
from pocketvlm.harnesses.slices import FORMS, chartqa
from pocketvlm.questions.data import open_data
from pocketvlm.runtime import GenerationConfig, load
from tests.harnesses.contract import MOST, Case, bundle, cases, fails, own_answers
from tests.support.harnesses import documented

GREEDY = {"max_new_tokens": MOST, "temperature": 0.0, "top_p": 1.0, "num_beams": 1, "do_sample": False}


@pytest.fixture(scope="module")
def known() -> list[Case]:
    return cases()


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """As lmms-eval makes it of ``--model pocketvlm --model_args bundle=...``."""
    arguments = f"bundle={bundle()},threads=1"
    made = get_model("pocketvlm").create_from_arg_string(arguments, {"batch_size": 1, "device": None})
    assert type(made) is lmms_eval.LmmsEvalModel
    yield made
    made.clean()


def requests(model: Any, known: list[Case]) -> list[Instance]:
    """What lmms-eval would ask: a task's documents, and a function from one to messages."""
    model.task_dict["tests"] = {"test": known}
    return [request(number, {**GREEDY, "until": list(case.until)}, messages_of) for number, case in enumerate(known)]


def request(number: int, settings: dict[str, Any], messages: Callable[[Any], Any]) -> Instance:
    arguments = ("", messages, settings, number, "tests", "test")
    metadata: Any = {"task": "tests", "doc_id": number, "repeats": 1}
    return Instance("generate_until", arguments, 0, metadata)


def messages_of(case: Case) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": one} if isinstance(one, str) else {"type": "image", "url": one} for one in case.parts
    ]
    system = [{"role": "system", "content": [{"type": "text", "text": case.system}]}] if case.system else []
    return [*system, {"role": "user", "content": content}]


def says(shown: Any, case: Case) -> Any:
    """Messages of a document, whatever it is."""
    return shown


def check(model: Any, known: list[Case]) -> None:
    given = model.generate_until(requests(model, known))
    assert [one.text for one in given] == [case.answer for case in known]
    assert [one.token_counts.input_tokens for one in given] == [case.prompt_tokens for case in known]


def test_it_answers_as_the_runtime_does(model: Any, known: list[Case]) -> None:
    check(model, known)


def test_a_dropped_picture_is_noticed(model: Any, known: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    def dropping(given: dict[str, Any]) -> dict[str, Any]:
        parts = original(given)["content"]
        last = max((place for place, one in enumerate(parts) if one["type"] == "image"), default=None)
        return {**given, "content": [one for place, one in enumerate(parts) if place != last]}

    original = lmms_eval._message
    monkeypatch.setattr(lmms_eval, "_message", dropping)
    for case in known[:3]:
        assert fails(lambda case=case: check(model, [case]))  # type: ignore[misc]


def test_strings_that_are_not_looked_for_are_noticed(
    model: Any, known: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "ignore_until", True)
    check(model, known[:3])
    assert fails(lambda: check(model, known[3:]))


def test_a_system_prompt_goes_before_the_tasks_own(
    model: Any, known: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = [Case(known[2].parts, known[2].answer, known[2].prompt_tokens)]
    assert fails(lambda: check(model, bare))
    monkeypatch.setattr(model, "system_prompt", known[2].system)
    check(model, bare)


def test_what_a_bundle_does_not_take_is_named(model: Any, known: list[Case]) -> None:
    asked = requests(model, known)
    for kind, name in (("video", "a video"), ("audio", "an audio")):
        shown = [{"role": "user", "content": [{"type": kind, "url": "a.bin"}]}]
        with pytest.raises(DataError, match=f"tests, document 0: the question has {name}"):
            model.generate_until([request(0, GREEDY, partial(says, shown))])
    for refused, why in ((model.loglikelihood, "how likely"), (model.generate_until_multi_round, "several rounds")):
        with pytest.raises(DataError, match=f"^tests: asks .*{why}"):
            refused(asked)
    with pytest.raises(DataError, match="num_beams"):
        model.generate_until([request(0, {**GREEDY, "num_beams": 5}, messages_of)])


@pytest.mark.parametrize(
    ("arguments", "more", "why"),
    [
        ("pretrained=x", {}, "--model_args: pretrained is unknown"),
        ("", {"batch_size": 8}, "--batch_size 8: a bundle answers one question at a time"),
        ("", {"device": "cuda:0"}, "--device cuda:0"),
    ],
)
def test_settings_that_it_has_not_are_named(arguments: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(DataError, match=why):
        lmms_eval.LmmsEvalModel.create_from_arg_string(f"bundle={bundle()},{arguments}".strip(","), more)


def test_it_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="one process"):
        lmms_eval.LmmsEvalModel(str(bundle()))


def test_the_slices_prompts_are_the_benchmarks() -> None:
    yaml.add_multi_constructor("!function", lambda loader, suffix, node: None, Loader=yaml.SafeLoader)
    for form in FORMS:
        task = Path(package.__file__).parent / "tasks" / form.name / f"{form.name}.yaml"
        published = yaml.safe_load(task.read_text(encoding="utf-8"))
        assert published["lmms_eval_specific_kwargs"]["default"] == {"pre_prompt": "", "post_prompt": form.prompt}
        assert published["generation_kwargs"]["max_new_tokens"] == form.longest


# --- The documented commands, by lmms-eval's own entry point ----------------------------------------------------------


@pytest.fixture(scope="module")
def called() -> None:
    """Its thousand tasks are looked through once, not once a command."""
    look = TaskManager._get_task_and_group
    found: dict[str, Any] = {}

    def once(manager: Any, folder: str) -> Any:
        if folder not in found:
            found[folder] = look(manager, folder)
        return dict(found[folder])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskManager, "_get_task_and_group", once)
        for words in documented("lmms-eval"):
            patch.setattr("sys.argv", ["lmms-eval", *words])
            dispatch.main()


def results(folder: str, task: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A task's figures, and its documents with what was answered."""
    (figures,) = Path(folder).glob("**/*_results.json")
    (samples,) = Path(folder).glob(f"**/*_samples_{task}.jsonl")
    documents = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    figure: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))["results"][task]
    return figure, sorted(documents, key=lambda one: int(one["doc_id"]))


def test_as_many_are_right_as_pocketvlm_eval_counts(called: None) -> None:
    figure, documents = results("lmms-eval", "slice_ocrbench")
    own = own_answers()
    assert [one["filtered_resps"] for one in documents] == [one["got"].strip() for one in own]
    assert [one["ocrbench_accuracy"] for one in documents] == [float(one["exact"]) for one in own]
    assert figure["ocrbench_accuracy,none"] == sum(one["exact"] for one in own) / len(own) == 22 / 24


def test_a_benchmarks_own_prompt_is_asked(called: None) -> None:
    """What stands behind a question in ChartQA; the runtime, asked in these words, says the same."""
    _, documents = results("lmms-eval", "slice_chartqa")
    with load("dist/reader-int4", threads=1) as vlm:
        for number, question in enumerate(open_data("slice/questions.jsonl", 6).items):
            assert documents[number]["input"] == f"{question.text}{FORMS[1].prompt}"
            said = vlm.stream(
                documents[number]["input"], question.images, GenerationConfig(FORMS[1].longest, stop=("\n\n",))
            )
            assert documents[number]["filtered_resps"] == said.read().strip()


def whole(document: dict[str, Any]) -> str:
    """What was answered, without half a character at its end, and blanks before that."""
    answer: str = document["filtered_resps"]
    return answer.rstrip(f"\ufffd{string.whitespace}")


def test_before_and_after_an_export(called: None) -> None:
    """lmms-eval's own class on the checkpoint in float32, and the bundle. They resize pictures by torchvision and by
    Pillow, which changes one answer of these random weights; transformers keeps half a character at an answer's end."""
    (before, by_class), (after, by_bundle) = results("before", "slice_chartqa"), results("after", "slice_chartqa")
    pairs = [(whole(one), whole(other)) for one, other in zip(by_class, by_bundle, strict=True)]
    assert len(pairs) == 24 and sum(one == other for one, other in pairs) >= 22
    assert len({one["filtered_resps"] for one in by_class}) > 12
    assert before["relaxed_overall,none"] == after["relaxed_overall,none"]


def test_chartqas_score_is_its_own() -> None:
    document = {"answers": ["100", "Blue"]}
    scores = [chartqa(document, [said])["relaxed_overall"] for said in ("96", "94", "blue", "bluee")]
    assert scores == [1.0, 0.0, 1.0, 0.0]
