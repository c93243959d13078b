"""Questions of one's own as benchmarks of the harnesses: a small slice that is asked and scored as a large one is.

A slice is a directory: ``questions.jsonl`` with its pictures, which ``pocketvlm eval`` reads too, lmms-eval's tasks in
``lmms_eval`` and VLMEvalKit's tables in ``LMUData``. Each harness has it in the forms of FORMS, published benchmarks
whose prompt and scores are taken from that harness itself. Files name others by absolute paths, as both harnesses want.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import DataError, located
from pocketvlm.files import label, reason

if TYPE_CHECKING:
    from PIL import Image

    from pocketvlm.questions.question import Question, Questions

#: the only group of VLMEvalKit's OCRBench that is asked about any picture with text
OCRBENCH_CATEGORY = "Scene Text-centric VQA"
MODULE = "pocketvlm.harnesses.slices"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that a slice takes after, in either harness."""

    name: str
    """of lmms-eval's task, and of the table"""
    longest: int
    """``max_new_tokens`` of lmms-eval's task"""
    prompt: str
    """what lmms-eval's task puts behind a question"""
    metric: str
    """of lmms-eval's task, from 0 to 1"""
    dataset: str
    """VLMEvalKit's class"""
    table: str
    """name of VLMEvalKit's table, by which that class chooses the scores"""
    category: Callable[[str], str] | None = None
    """kind of question -> VLMEvalKit's category; None: as it is"""


ONE_WORD = "\nAnswer the question with a single word."
FORMS = (
    Benchmark("ocrbench", 128, "", "ocrbench_accuracy", "OCRBench", "slice_OCRBench", lambda kind: OCRBENCH_CATEGORY),
    Benchmark("chartqa", 16, ONE_WORD, "relaxed_overall", "ImageVQADataset", "slice_ChartQA"),
)  # fmt: skip


def write_slice(questions: Questions, directory: Path) -> int:
    """Write a slice, which takes its place when it is complete; how many questions it has.

    :raises DataError: the place is taken, there are no questions, or one cannot be read or is none of these harnesses':
        without a picture, or with options
    """
    target = directory.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{label(directory)}: is there already and is left alone, choose another directory")
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        (partial / "pictures").mkdir(parents=True)
        entries = list(_entries(questions.items, partial, target))
        if not entries:
            raise DataError("there are no questions to write")
        _write_all(entries, partial, target)
        partial.rename(target)
    except OSError as error:
        raise DataError(f"{label(directory)}: cannot be written ({reason(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(entries)


def _entries(questions: Iterator[Question], partial: Path, target: Path) -> Iterator[dict[str, Any]]:
    """The lines of questions.jsonl; their pictures are written."""
    for number, question in enumerate(questions):
        with located(question.where, DataError):
            if not question.images:
                raise DataError("the question has no picture, and VLMEvalKit would leave it out")
            if question.choices:
                raise DataError("a multiple choice is VLMEvalKit's own form: give it the table itself")
        names = [f"pictures/{number:05}-{index}.png" for index in range(len(question.images))]
        for name, image in zip(names, question.images, strict=True):
            (partial / name).write_bytes(_png(image))
        yield {
            "images": names,
            "question": question.text,
            "answers": list(question.answers),
            "kind": question.kind or "all",
            "folder": str(target),
        }


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _write_all(entries: Sequence[Mapping[str, Any]], partial: Path, target: Path) -> None:
    lines = "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
    (partial / "questions.jsonl").write_text(lines, encoding="utf-8")
    (partial / "lmms_eval").mkdir()
    (partial / "LMUData").mkdir()
    for form in FORMS:
        (partial / "lmms_eval" / f"{form.name}.yaml").write_text(_task(form, target), encoding="utf-8")
        _write_table(partial / "LMUData" / f"{form.table}.tsv", form, entries, partial)
    data = {form.table: {"class": form.dataset, "dataset": form.table} for form in FORMS}
    (partial / "vlmevalkit.json").write_text(f"{json.dumps({'data': data}, indent=1)}\n", encoding="utf-8")


def _task(form: Benchmark, target: Path) -> str:
    """lmms-eval's task: its benchmark's prompt and settings. JSON's texts are YAML's."""
    return f"""task: slice_{form.name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {json.dumps(str(target / "questions.jsonl"))}
test_split: test
output_type: generate_until
doc_to_visual: !function {MODULE}.pictures
doc_to_text: !function lmms_eval.tasks.{form.name}.utils.{form.name}_doc_to_text
doc_to_target: "answers"
generation_kwargs:
  max_new_tokens: {form.longest}
  temperature: 0
  do_sample: false
process_results: !function {MODULE}.{form.name}
metric_list:
  - metric: {form.metric}
    aggregation: mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: {json.dumps(form.prompt)}
"""


def _write_table(path: Path, form: Benchmark, entries: Sequence[Mapping[str, Any]], partial: Path) -> None:
    """VLMEvalKit's table: texts, and images in base64; several of either as a list in Python's words."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["index", "image", "question", "answer", "category"])
        for index, entry in enumerate(entries):
            images = [base64.b64encode((partial / name).read_bytes()).decode() for name in entry["images"]]
            kind = entry["kind"] if form.category is None else form.category(entry["kind"])
            image = images[0] if len(images) == 1 else repr(images)
            writer.writerow([index, image, entry["question"], repr(entry["answers"]), kind])


# --- What lmms-eval's tasks call --------------------------------------------------------------------------------------


def pictures(document: Mapping[str, Any]) -> list[Image.Image]:
    """A question's pictures, opened as Pillow does it."""
    from PIL import Image

    opened = []
    for name in document["images"]:
        with Image.open(Path(document["folder"]) / name) as image:
            opened.append(image.convert("RGB"))
    return opened


def ocrbench(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """OCRBench's score by lmms-eval: 1 where an accepted answer stands in what was answered, without case."""
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results

    asked = {"answer": list(document["answers"]), "dataset": "", "question_type": OCRBENCH_CATEGORY}
    return {"ocrbench_accuracy": float(ocrbench_process_results(asked, results)["ocrbench_accuracy"]["score"])}


def chartqa(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """ChartQA's score by lmms-eval, of the accepted answer that is nearest: numbers may be 5 % off."""
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    return {"relaxed_overall": float(any(relaxed_correctness(results[0], answer) for answer in document["answers"]))}
