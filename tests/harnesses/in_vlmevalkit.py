"""The adapter inside VLMEvalKit's own classes; `test_vlmevalkit.py` runs this file in a process that has them."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from transformers import Idefics3ForConditionalGeneration

from pocketvlm.errors import DataError
from pocketvlm.harnesses import vlmevalkit
from pocketvlm.harnesses.asking import MAX_NEW_TOKENS, part
from pocketvlm.harnesses.vlmevalkit import VlmEvalKitModel, the_kits
from pocketvlm.questions.data import open_data
from pocketvlm.runtime import GenerationConfig, load
from tests.harnesses.contract import MOST, Case, bundle, cases, fails, own_answers
from tests.support.harnesses import REPOSITORY, blocks, documented


@pytest.fixture(scope="module")
def known() -> list[Case]:
    return cases()


@pytest.fixture(scope="module")
def model() -> Iterator[VlmEvalKitModel]:
    made = VlmEvalKitModel(str(bundle()), threads=1, max_new_tokens=MOST)
    yield made
    made.vlm.close()


@pytest.fixture
def shown(known: list[Case], tmp_path: Path) -> list[list[dict[str, Any]]]:
    """What the kit's datasets give: texts, and files of images."""
    asked = []
    for number, case in enumerate(known):
        parts: list[dict[str, Any]] = []
        if case.system:
            parts.append({"type": "text", "value": case.system, "role": "system"})
        for place, one in enumerate(case.parts):
            if isinstance(one, Image.Image):
                path = tmp_path / f"{number}-{place}.png"
                one.save(path)
                parts.append({"type": "image", "value": str(path)})
            else:
                parts.append({"type": "text", "value": one})
        asked.append(parts)
    return asked


def check(model: VlmEvalKitModel, known: list[Case], shown: list[list[dict[str, Any]]], until: bool = True) -> None:
    for case, parts in zip(known, shown, strict=True):
        model.config = GenerationConfig(max_new_tokens=MOST, stop=case.until if until else ())
        assert model.generate([dict(one) for one in parts], dataset="tests") == case.answer


def test_it_answers_as_the_runtime_does(
    model: VlmEvalKitModel, known: list[Case], shown: list[list[dict[str, Any]]]
) -> None:
    check(model, known, shown)


def test_a_dropped_picture_is_noticed(
    model: VlmEvalKitModel, known: list[Case], shown: list[list[dict[str, Any]]]
) -> None:
    for case, parts in zip(known[:3], shown, strict=False):
        last = max(place for place, one in enumerate(parts) if one["type"] == "image")
        assert fails(lambda case=case, parts=parts, last=last: check(model, [case], [parts[:last] + parts[last + 1 :]]))  # type: ignore[misc]


def test_strings_that_are_not_looked_for_are_noticed(
    model: VlmEvalKitModel, known: list[Case], shown: list[list[dict[str, Any]]]
) -> None:
    assert fails(lambda: check(model, known[3:], shown[3:], until=False))


def test_a_conversation_is_answered_in_its_order(model: VlmEvalKitModel, shown: list[list[dict[str, Any]]]) -> None:
    turns = [("user", shown[0]), ("assistant", [{"type": "text", "value": "A."}]), ("user", shown[3])]
    model.config = GenerationConfig(max_new_tokens=MOST)
    said = model.chat([{"role": role, "content": [dict(one) for one in parts]} for role, parts in turns])
    messages = [{"role": role, "content": [part(one["type"], one["value"]) for one in parts]} for role, parts in turns]
    assert said == model.vlm.stream(messages, config=model.config).read()


def test_what_a_bundle_does_not_take_is_named(model: VlmEvalKitModel) -> None:
    with pytest.raises(DataError, match="has a video"):
        model.generate_inner([{"type": "video", "value": "a.mp4"}])
    with pytest.raises(DataError, match=r"prompts 'gpt': the kit has those of qwen2_vl, qwen3_vl, .*internvl3"):
        VlmEvalKitModel(str(bundle()), prompts="gpt")
    with pytest.raises(DataError, match="num_beams"):
        VlmEvalKitModel(str(bundle()), num_beams=4)


@pytest.mark.parametrize(("prompts", "behind"), [("internvl3", "single word or phrase."), ("qwen2_vl", "above.")])
def test_a_models_own_wording_is_asked(prompts: str, behind: str, tmp_path: Path) -> None:
    """As the kit's loop asks for it: a class is told how to write a row's images, then builds the question."""
    asked = VlmEvalKitModel(str(bundle()), threads=1, prompts=prompts, max_new_tokens=2)
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 40), "red").save(picture)
    asked.set_dump_image(lambda line: [str(picture)])
    dataset, options = {"internvl3": ("OCRBench", {}), "qwen2_vl": ("MMStar", {"A": "x", "B": "y"})}[prompts]
    line = {"question": "Which?", **options}
    assert asked.use_custom_prompt(dataset)
    built = asked.build_prompt(pd.Series(line), dataset)
    assert {one["type"] for one in built} == {"text", "image"}
    (text,) = [one["value"] for one in built if one["type"] == "text"]
    assert text.startswith(("Which?", "Question: Which?")) and text.endswith(behind)
    assert isinstance(asked.generate(built, dataset=dataset), str)
    asked.vlm.close()


def test_a_bundle_stands_for_a_models_name(tmp_path: Path) -> None:
    zipped = tmp_path / "demo-0.5b.zip"
    zipped.touch()
    words, models = the_kits(
        ["--data", "OCRBench", "--model", "Qwen2-VL-2B-Instruct", str(zipped), "--threads", "2", "--verbose"], tmp_path
    )
    assert words == ["--data", "OCRBench", "--verbose", "--model", "Qwen2-VL-2B-Instruct", "demo-0.5b"]
    assert models == {"demo-0.5b": {"bundle": str(zipped), "threads": 2}}
    config = tmp_path / "data.json"
    config.write_text('{"data": {"slice": {"class": "OCRBench", "dataset": "slice"}}}')
    words, _ = the_kits(["--config", str(config), "--model", str(zipped)], tmp_path)
    assert words == ["--config", str(tmp_path / "config.json")]
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "data": {"slice": {"class": "OCRBench", "dataset": "slice"}},
        "model": {"demo-0.5b": {"class": "PocketVlm", "bundle": str(zipped)}},
    }
    other = tmp_path / "other" / "demo-0.5b.zip"
    other.parent.mkdir()
    other.touch()
    with pytest.raises(DataError, match=r"two bundles are named demo-0\.5b"):
        the_kits(["--model", str(zipped), str(other)], tmp_path)
    with pytest.raises(DataError, match="takes bundles, and this is none"):
        the_kits(["--config", str(config), "--model", "GPT4o"], tmp_path)
    config.write_text('{"model": {}, "data": {}}')
    with pytest.raises(DataError, match="no configuration of data alone"):
        the_kits(["--config", str(config), "--model", str(zipped)], tmp_path)


# --- The documented command -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def called() -> None:
    (words,) = documented("python -m pocketvlm.harnesses.vlmevalkit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMUData", "slice/LMUData")
        patch.setattr("sys.argv", ["vlmevalkit"])
        vlmevalkit.main(words)


def test_as_many_are_right_as_pocketvlm_eval_counts(called: None) -> None:
    own, place = own_answers(), Path("vlmevalkit/reader-int4")
    table = pd.read_excel(place / "reader-int4_slice_OCRBench.xlsx", dtype=str)
    assert table["prediction"].tolist() == [one["got"] for one in own]
    counted = json.loads((place / "reader-int4_slice_OCRBench_score.json").read_text(encoding="utf-8"))
    assert counted["Final Score"] == sum(one["exact"] for one in own) == 22


def test_a_benchmarks_own_prompt_is_asked(called: None) -> None:
    """What stands behind a question in its ChartQA; the runtime, asked in these words, says the same."""
    table = pd.read_excel("vlmevalkit/reader-int4/reader-int4_slice_ChartQA.xlsx", dtype=str)
    with load("dist/reader-int4", threads=1) as vlm:
        for said, question in zip(table["prediction"], open_data("slice/questions.jsonl", 6).items, strict=False):
            worded = f"{question.text}\nAnswer the question using a single word or phrase."
            assert said == vlm.stream(worded, question.images, GenerationConfig(MAX_NEW_TOKENS)).read()


def test_before_and_after_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit's own class on the checkpoint in float32, here on the CPU, and the bundle: the same answers. The class
    strips them, and transformers keeps half a character at an end."""
    (config,) = blocks("json")
    Path("both.json").write_text(config, encoding="utf-8")
    loads = Idefics3ForConditionalGeneration.from_pretrained

    def on_cpu(path: str, **settings: Any) -> Any:
        return loads(path, **{**settings, "device_map": "cpu"})

    monkeypatch.setattr(Idefics3ForConditionalGeneration, "from_pretrained", on_cpu)
    monkeypatch.setenv("LMUData", "slice/LMUData")
    monkeypatch.setattr("sys.argv", ["vlmevalkit"])
    vlmevalkit.main(["--config", "both.json", "--work-dir", "both"])
    before, after = (pd.read_excel(f"both/{name}/{name}_slice_ChartQA.xlsx", dtype=str) for name in ("before", "after"))
    pairs = [
        tuple(said.strip().rstrip(f"\ufffd{string.whitespace}") for said in both)
        for both in zip(before["prediction"], after["prediction"], strict=True)
    ]
    assert len(pairs) == 24 and len(set(pairs)) > 12
    assert [one for one, _ in pairs] == [other for _, other in pairs]


def test_the_page_says_how_it_is_called() -> None:
    page = (REPOSITORY / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert "LMUData=slice/LMUData python -m pocketvlm.harnesses.vlmevalkit" in page
