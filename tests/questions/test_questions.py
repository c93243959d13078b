"""What turns DATA into questions: generated pictures, JSON lines, VLMEvalKit's tables; and how they are refused."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvlm.errors import DataError
from pocketvlm.questions import files, jsonl, question, tsv
from pocketvlm.questions.data import GENERATED, SOURCES, open_data
from pocketvlm.questions.question import Question, Questions
from pocketvlm.questions.tsv import multiple_choice_prompt


def encoded(color: str, size: tuple[int, int] = (40, 30)) -> str:
    """A picture as base64 of a PNG file."""
    stream = io.BytesIO()
    Image.new("RGB", size, color).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with two pictures, and one beside it that nothing may reach."""
    inside = tmp_path / "data"
    (inside / "more").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(inside / "red.png")
    Image.new("RGB", (20, 60), "blue").save(inside / "more" / "blue.png")
    Image.new("RGB", (9, 9), "black").save(tmp_path / "secret.png")
    return inside


def write_lines(folder: Path, *entries: Any) -> Path:
    path = folder / "questions.jsonl"
    rows = [entry if isinstance(entry, bytes) else json.dumps(entry).encode() for entry in entries]
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def write_table(folder: Path, *rows: list[str]) -> Path:
    path = folder / "questions.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, count: int | None = None) -> list[Question]:
    return list(open_data(str(path), count).items)


def refused(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(DataError) as caught:
        read(path)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    return line


def entry(**changes: Any) -> dict[str, Any]:
    whole = {"image": "red.png", "question": "What is it?", "answer": "red"} | changes
    return {key: value for key, value in whole.items() if value != "left out"}


# --- Sources ----------------------------------------------------------------------------------------------------------


def test_generated_data_is_that_of_its_seed() -> None:
    from pocketvlm.scenes import held_out

    found = open_data("generated:some.seed-1", 3)
    assert found.origin == {"source": "generated", "seed": "some.seed-1"}
    assert (found.most, found.metrics) == (3, ("exact",))
    wanted = list(held_out("some.seed-1", 3))
    asked = list(found.items)
    assert [(item.text, item.answers) for item in asked] == [(item.question, (item.answer,)) for item in wanted]
    assert [item.images[0].tobytes() for item in asked] == [item.image.tobytes() for item in wanted]
    assert [item.grid for item in asked] == ["{}x{}".format(*item.grid) for item in wanted]
    assert open_data("generated:some.seed-1", None).most == GENERATED


@pytest.mark.parametrize(
    "data",
    ["", "generated", "generated:", "generated: a", "generated:a/b", "questions.json", "generated:" + "x" * 65,
     "generated:a\n", "\x1b[2Jgenerated:a", "generated:ä", ".jsonl", "a.tsv\n"],
)  # fmt: skip
def test_other_data_is_refused_in_a_line_that_says_what_is_possible(data: str) -> None:
    with pytest.raises(DataError, match=r"generated:SEED \(held-out pictures") as caught:
        open_data(data, 1)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert all(source.form in str(caught.value) for source in SOURCES)


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_json_lines_are_questions(folder: Path) -> None:
    path = write_lines(
        folder,
        b"\xef\xbb\xbf" + json.dumps(entry(id=7, kind="colour")).encode(),
        b"",
        entry(image="left out", images=["red.png", "more/blue.png"], answer=None, answers=["two", "2"]),
        entry(image=None, question="1 + 1?", answer="2"),
    )
    red, both, text = read(path)
    assert red == Question("What is it?", ("red",), red.images, kind="colour", where=f"{path}, line 1")
    assert [picture.getpixel((0, 0)) for picture in red.images] == [(255, 0, 0)]
    assert [picture.size for picture in both.images] == [(40, 30), (20, 60)]
    assert both.answers == ("two", "2")
    assert text == Question("1 + 1?", ("2",), where=f"{path}, line 4")


def test_a_file_is_told_by_its_digest_and_read_only_as_far_as_asked(folder: Path) -> None:
    path = write_lines(folder, entry(), entry(answer="blue"), b"never read: {")
    found = open_data(str(path), 2)
    digest = files.contents(path).sha256
    assert found.origin == {"source": "jsonl", "file": "questions.jsonl", "sha256": digest}
    assert (found.most, found.metrics) == (2, ("exact", "anls", "vqa"))
    assert [item.answers for item in found.items] == [("red",), ("blue",)]
    assert open_data(str(path), None).most >= 3
    write_lines(folder, entry())
    assert files.contents(path).sha256 != digest


def test_a_file_is_read_while_it_is_asked_about(folder: Path) -> None:
    items = open_data(str(write_lines(folder, entry(), b"{")), None).items
    assert next(items).answers == ("red",)
    with pytest.raises(DataError, match="line 2: not JSON"):
        next(items)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON ("),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON ("),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not UTF-8 (invalid start byte)"),
        (b'{"question": "' + b"x" * (1 << 20) + b'"}', "longer than the 1048576 bytes that are read"),
        (entry(question="left out"), '"question" is missing'),
        (entry(question=3), "question is not a text"),
        (entry(question=" \n"), "question is empty"),
        (entry(question="x" * 16385), "question has 16385 characters, more than the 16384 that are read"),
        (entry(question="\ud800"), "question has half a surrogate pair"),
        (entry(answer="left out"), '"answer" is missing'),
        (entry(answer=None), '"answer" is missing'),
        (entry(answer=3), "answer is not a text"),
        (entry(answer=""), "answer is empty"),
        (entry(answer="x" * 1025), "answer has 1025 characters"),
        (entry(answers=["red"]), 'give "answer" or "answers", not both'),
        (entry(answer=None, answers="red"), '"answers" is not a list'),
        (entry(answer=None, answers=[]), "answer has no text"),
        (entry(answer=None, answers=["a", 1]), "answer is not a text"),
        (entry(answer=None, answers=["a"] * 65), "answer has 65 texts, more than the 64 that are read"),
        (entry(kind=1), "kind is not a text"),
        (entry(kind="x" * 65), "kind has 65 characters"),
        (entry(kind="\x1b[2J"), r"kind '\x1b[2J' has characters that cannot be printed"),
        (entry(image=1), "an image's path is not a text"),
        (entry(images=["red.png"]), 'give "image" or "images", not both'),
        (entry(image=None, images="red.png"), '"images" is not a list'),
        (entry(image=None, images=["red.png"] * 17), "more than 16 images"),
        (entry(image="none.png"), "no such file"),
        (entry(image="more"), "is a directory"),
        (entry(image="questions.jsonl"), "not an image in a known format"),
        (entry(image="x" * 1025), "an image's path has 1025 characters"),
        (entry(image="x" * 1000), "cannot be"),
        (entry(image="../secret.png"), "'../secret.png' is not relative to the file's directory, or leads out of it"),
        (entry(image="more/../../secret.png"), "leads out of it"),
        (entry(image="..\\secret.png"), "leads out of it"),
        (entry(image="/etc/passwd"), "leads out of it"),
        (entry(image="red.png\0"), "leads out of it"),
        (entry(image="link.png"), "'link.png' leads out of the file's directory"),
        (entry(image="loop/a.png"), "loop"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(folder: Path, line: Any, message: str) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "loop").symlink_to(folder / "loop")
    path = write_lines(folder, entry(), line)
    found = refused(path)
    assert found.startswith(f"{path}, line 2: ")
    assert message in found


def test_a_link_within_the_directory_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to("more/blue.png")
    (item,) = read(write_lines(folder, entry(image="link.png")))
    assert item.images[0].size == (20, 60)


def test_pictures_of_one_question_share_one_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(folder, entry(image=None, images=["red.png", "more/blue.png"]))
    monkeypatch.setattr(question, "MAX_PIXELS", 40 * 30 + 20 * 60)
    assert len(read(path)) == 1
    monkeypatch.setattr(question, "MAX_PIXELS", 40 * 30 + 20 * 60 - 1)
    assert "images of more than 2399 pixels together" in refused(path)


@pytest.mark.parametrize("suffix", ["jsonl", "tsv"])
def test_what_is_no_file_is_refused(folder: Path, suffix: str) -> None:
    path = folder / f"it.{suffix}"
    assert refused(path) == f"{path}: cannot be read (No such file or directory)"
    path.mkdir()
    assert refused(path) == f"{path}: is not a regular file"
    path.rmdir()
    os.mkfifo(path)
    assert refused(path) == f"{path}: is not a regular file"
    path.unlink()
    path.touch()
    assert refused(path) == f"{path}: empty (0 bytes)"
    assert "cannot be read (" in refused(folder / f"{'x' * 300}.{suffix}")


# --- VLMEvalKit's tables ----------------------------------------------------------------------------------------------

HEADER = ["index", "image", "question", "answer"]
CHOICES = ["index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category"]


def test_multiple_choices_are_worded_as_vlmevalkit_does() -> None:
    """ImageMCQDataset.build_prompt, vlmeval/dataset/image_mcq.py: the space before the last line break is theirs."""
    choices = (("A", "Cat"), ("B", "Dog"))
    assert multiple_choice_prompt("What is it?", choices, "It barks.") == (
        "Hint: It barks.\n"
        "Question: What is it?\n"
        "Options:\n"
        "A. Cat\n"
        "B. Dog\n"
        "Please select the correct answer from the options above. \n"
    )
    assert multiple_choice_prompt("What is it?", ()) == "Question: What is it?\n"


def test_a_table_of_multiple_choices(folder: Path) -> None:
    path = write_table(
        folder,
        CHOICES,
        ["1", encoded("red"), "What colour?", "Look.", "red", "green", "", "", "A", "colour"],
        ["2", encoded("blue"), "How many?", "", "1", "2", "3", "4", "C", ""],
        ["3", encoded("green"), "An open one?", "", "", "", "", "", "free", ""],
    )
    found = open_data(str(path), None)
    assert found.metrics == ("exact", "choice")
    colour, number, free = found.items
    assert colour.text == multiple_choice_prompt("What colour?", (("A", "red"), ("B", "green")), "Look.")
    assert colour.choices == (("A", "red"), ("B", "green"))
    assert colour.answers == ("A", "A. red", "red")
    assert (colour.kind, number.kind) == ("colour", "")
    assert number.answers == ("C", "C. 3", "3")
    assert number.images[0].getpixel((0, 0)) == (0, 0, 255)
    assert (free.text, free.answers, free.choices) == ("Question: An open one?\n", ("free",), ())


def test_a_table_of_open_questions(folder: Path) -> None:
    path = write_table(
        folder,
        [*HEADER, "category", "split"],
        ["1", encoded("red"), "What is it?", "['red', \"it's red\"]", "colour", "val"],
        ["2", encoded("red"), "Which list?", "[1, 2]"],
        ["3", encoded("red"), "What?", "[not a list]"],
        ["4", encoded("red"), "What?", r"['\d']"],
    )
    found = open_data(str(path), None)
    assert found.metrics == ("exact", "anls", "vqa")
    assert (found.origin["source"], found.most >= 4) == ("tsv", True)
    items = list(found.items)
    assert items[0].text == "What is it?"
    assert [item.answers for item in items] == [("red", "it's red"), ("[1, 2]",), ("[not a list]",), (r"\d",)]
    assert [item.kind for item in items] == ["colour", "", "", ""]
    assert items[1].where == f"{path}, line 3"


def test_an_image_may_be_that_of_another_row(folder: Path) -> None:
    """Before or after it, as in MMBench's circular questions; the first rows are asked before the rest is read."""
    path = write_table(
        folder,
        HEADER,
        ["1", "30", "a?", "a"],
        ["2", encoded("blue"), "b?", "b"],
        ["3", "2", "c?", "c"],
        ["30", encoded("red"), "d?", "d"],
        ["31", "2", "e?", "e"],
    )
    colors = [item.images[0].getpixel((0, 0)) for item in read(path)]
    red, blue = (255, 0, 0), (0, 0, 255)
    assert colors == [red, blue, blue, red, blue]


def test_several_images_and_paths(folder: Path) -> None:
    one, other = encoded("red"), encoded("blue")
    path = write_table(
        folder,
        [*HEADER, "image_path"],
        ["1", f"['{one}', '{other}']", "a?", "a", "ignored.png"],
        ["2", "", "b?", "b", "red.png"],
        ["3", "", "c?", "c", "['red.png', 'more/blue.png']"],
        ["4", "", "no picture: left out", "d", ""],
    )
    items = read(path)
    assert [item.text for item in items] == ["a?", "b?", "c?"]
    assert [len(item.images) for item in items] == [2, 1, 2]
    text = write_table(folder, ["index", "question", "answer"], ["1", "1 + 1?", "2"])
    assert read(text) == [Question("1 + 1?", ("2",), where=f"{text}, line 2")]


def test_fields_in_quotes_may_hold_tabs_quotes_and_line_breaks(folder: Path) -> None:
    path = folder / "quoted.tsv"
    picture = encoded("red")
    path.write_bytes(
        b"\xef\xbb\xbf\r\nindex\tquestion\tanswer\timage\r\n"
        + f'1\t"A ""b""\tand\nc?"\tyes\t{picture}\r\n'.encode()
        + b"\t\t\t\r\n"
        + f'2\t5" wide?\t"1"\t1\r\n3\t"last?"\tno\t{picture}'.encode()
    )
    items = read(path)
    assert [item.text for item in items] == ['A "b"\tand\nc?', '5" wide?', "last?"]
    assert [item.where.rsplit(" ", 1)[1] for item in items] == ["3", "6", "7"]
    assert items[1].images[0].size == (40, 30)


@pytest.mark.parametrize(
    ("rows", "number", "message"),
    [
        ([["question", "answer"]], 1, "the header has no column index; columns are separated by tabs"),
        ([["index", "answer"]], 1, "the header has no column question"),
        ([["index,question,answer"]], 1, "the header has no column index"),
        ([["index", "question"]], 1, "the header has no column answer"),
        ([[*HEADER, "answer"]], 1, "the header has two columns 'answer'"),
        ([["x"] * 300], 1, "more than the 256 columns that are read"),
        ([[""], [""]], 1, "the header has no column index"),
        ([HEADER, ["1", encoded("red"), "a?", "a", "more"]], 2, "more fields than the header's 4"),
        ([HEADER, ["1", encoded("red"), "a?"]], 2, "answer is empty"),
        ([HEADER, ["1", encoded("red"), "", "a"]], 2, "question is empty"),
        ([HEADER, ["", encoded("red"), "a?", "a"]], 2, "the index is empty or has more than 64 characters"),
        ([HEADER, ["x" * 65, encoded("red"), "a?", "a"]], 2, "the index is empty or has more than 64 characters"),
        ([HEADER, ["1", encoded("red"), "a?", "a"], ["1", "1", "a?", "a"]], 3, "a second row of index '1'"),
        ([HEADER, ["1", "2", "a?", "a"]], 2, "the image '2' is neither base64 of one nor the index of a row"),
        ([HEADER, ["1", "1", "a?", "a"]], 2, "the row of index '1' has no image of its own"),
        ([HEADER, ["1", "2", "a?", "a"], ["2", "1", "a?", "a"]], 2, "the row of index '2' has no image of its own"),
        ([HEADER, ["1", "!" * 65, "a?", "a"]], 2, "the image is not base64 ("),
        ([HEADER, ["1", "ä" * 65, "a?", "a"]], 2, "the image is not base64 ("),
        ([HEADER, ["1", "A" * 68, "a?", "a"]], 2, "the image's bytes: not an image in a known format"),
        ([HEADER, ["1", f"[{'A,' * 40}]", "a?", "a"]], 2, "more than 16 images"),
        ([HEADER, ["1", '"open', "a?", "a"]], 2, "not a row of a table (unexpected end of data)"),
        ([HEADER, ["1", '"a" b', "a?", "a"]], 2, "not a row of a table ("),
        ([["index", "image_path", "question", "answer"], ["1", "../secret.png", "a?", "a"]], 2, "leads out of it"),
        ([["index", "image_path", "question", "answer"], ["1", "none.png", "a?", "a"]], 2, "no such file"),
        ([[*HEADER, "A", "B"], ["1", encoded("red"), "a?", "C", "x", "y"]], 2,
         "the answer 'C' is none of the options A, B"),
        ([[*HEADER, "category"], ["1", encoded("red"), "a?", "a", "\x1b[2J"]], 2, "characters that cannot be printed"),
        ([[*HEADER, "A", "B"], ["1", encoded("red"), "a?", "A", "x" * 9000, "y" * 9000]], 2,
         "question with its options has 1"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(folder: Path, rows: list[list[str]], number: int, message: str) -> None:
    path = write_table(folder, *rows)
    found = refused(path)
    assert found.startswith(f"{path}, line {number}: ")
    assert message in found


def test_long_rows_are_refused_before_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "MAX_ROW", 400)
    path = write_table(folder, ["index", "question", "answer"], ["1", "x" * 400, "a"])
    assert refused(path) == f"{path}, line 2: longer than the 400 bytes that are read"
    path.write_text('index\tquestion\tanswer\n1\t"' + "xxx\n" * 200, encoding="utf-8")
    assert "line 2: a row of more than 400 bytes or 65536 tabs; is a quote left open?" in refused(path)
    monkeypatch.setattr(tsv, "MAX_TABS", 10)
    path.write_text('index\tquestion\tanswer\n1\t"' + "\t\n" * 20, encoding="utf-8")
    assert "a row of more than 400 bytes or 10 tabs" in refused(path)


def test_rows_are_counted_before_they_fill_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsv, "MAX_ROWS", 2)
    rows = [[str(number), f"{number}?", "a"] for number in range(3)]
    assert "line 4: more than the 2 rows" in refused(write_table(folder, ["index", "question", "answer"], *rows))


def test_a_list_of_answers_is_never_evaluated(folder: Path) -> None:
    hostile = ["[" * 5000 + "]" * 5000, "[__import__('os').system('true')]", "['a'] + ['b']", "[]", "['" + "x" * 70000]
    for text in hostile[:4]:
        rows = [["index", "question", "answer"], ["1", "a?", text[:1024]]]
        assert read(write_table(folder, *rows))[0].answers == (text[:1024],)
    assert "answer has 70002 characters" in refused(
        write_table(folder, ["index", "question", "answer"], ["1", "a?", hostile[4]])
    )


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Bytes of a good file deleted, doubled or replaced."""
    folder = tmp_path_factory.mktemp("damaged")
    table = write_table(
        folder, [*HEADER, "A", "B"], ["1", encoded("red"), '"a ""b"""', "A", "x", "y"], ["2", "1", "c", "B"]
    )
    lines = write_lines(folder, entry(image=None, answers=["a", "b"], answer=None), entry(image=None, kind="k"))
    path = data.draw(st.sampled_from([table, lines]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(content or b"x")
    try:
        assert all(item.text and item.answers for item in read(path))
    except DataError as error:
        line = str(error)
    else:
        line = str(path)
    assert line.isprintable()
    assert str(path) in line


def test_every_source_checks_lengths_in_one_place() -> None:
    assert jsonl.MAX_LINE > question.MAX_QUESTION * 4
    assert Questions({}, 1, iter(()), ()).metrics == ()
