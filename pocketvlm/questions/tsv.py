"""Questions from a table in VLMEvalKit's form (github.com/open-compass/VLMEvalKit, docs/en/Development.md).

Columns, separated by tabs, with CSV's quotes: ``index``, ``question``, ``answer``; ``image`` (base64 of an image file,
a list of those, or the index of another row whose image it is) or ``image_path`` (a path or a list of paths, relative
to the file's directory); ``A``, ``B``, ... for the options of a multiple choice, ``hint``, ``category``. Others are
left alone.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import string
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from pocketvlm.errors import DataError, located, one_line
from pocketvlm.files import label
from pocketvlm.questions.files import START, Place, contents, lines
from pocketvlm.questions.question import (
    MAX_IMAGES,
    MAX_QUESTION,
    Question,
    Questions,
    check_answers,
    check_kind,
    check_text,
    open_pictures,
    picture_path,
)

#: longest row, bytes: an image file of 24 MB
MAX_ROW = 32 << 20
#: most columns, and most rows
MAX_COLUMNS, MAX_ROWS = 256, 1_000_000
#: most tabs in a row with quotes, where they need not separate columns
MAX_TABS = 1 << 16
#: longest text that is looked at as a list of texts, characters
MAX_LIST = 1 << 16
#: an image field that is not longer is the index of another row
MAX_INDEX = 64
NEEDED = ("index", "question", "answer")

Row = dict[str, str]


@dataclass(frozen=True)
class Table:
    """An opened table."""

    path: Path
    columns: tuple[str, ...]
    header: Place
    places: dict[str, Place] = field(default_factory=dict)
    """index -> where that row begins, of every row that was read"""

    @property
    def is_multiple_choice(self) -> bool:
        """By VLMEvalKit's rule for data it does not know."""
        return {"A", "B"} <= set(self.columns)


def read_tsv(name: str, count: int | None) -> Questions:
    """The first ``count`` questions (None: all) of a table.

    Where the table has options (columns A and B), questions are worded as VLMEvalKit's ImageMCQDataset does, else they
    are asked as they stand, as its CustomVQADataset does. Rows without an image are left out where there is a column
    for images, as there.

    :raises DataError: the file or its header cannot be read; and, while the questions are iterated, a row
    """
    path = Path(name)
    found = contents(path)
    table = _open(path)
    most = found.lines - 1 if count is None else min(count, found.lines - 1)
    metrics = ("exact", "choice") if table.is_multiple_choice else ("exact", "anls", "vqa")
    origin = {"source": "tsv", "file": path.name, "sha256": found.sha256}
    return Questions(origin, most, islice(_questions(table), count), metrics)


def multiple_choice_prompt(question: str, choices: Sequence[tuple[str, str]], hint: str = "") -> str:
    """What VLMEvalKit's ImageMCQDataset.build_prompt asks, to the last space and line break."""
    lines_of_options = "".join(f"{letter}. {text}\n" for letter, text in choices)
    options = f"Options:\n{lines_of_options}Please select the correct answer from the options above. \n"
    before = f"Hint: {hint}\n" if hint else ""
    return f"{before}Question: {question}\n{options if choices else ''}"


def _open(path: Path) -> Table:
    begin, header = next(_rows(path, START), (START, [""]))
    columns = tuple(name.strip() for name in header)
    with located(label(path, begin.number), DataError):
        if len(columns) > MAX_COLUMNS:
            raise DataError(f"more than the {MAX_COLUMNS} columns that are read")
        for name in NEEDED:
            if name not in columns:
                raise DataError(f"the header has no column {name}; columns are separated by tabs")
        if repeated := next((name for name in columns if name and columns.count(name) > 1), None):
            raise DataError(f"the header has two columns {one_line(repr(repeated), 80)}")
    return Table(path, columns, begin)


def _rows(path: Path, start: Place) -> Iterator[tuple[Place, list[str]]]:
    """Rows that are not blank, each with the place where it begins."""
    stream = lines(path, MAX_ROW, start)
    for begin, line in stream:
        if line.strip():
            yield begin, _fields(path, begin, line, stream)


def _fields(path: Path, begin: Place, line: str, following: Iterator[tuple[Place, str]]) -> list[str]:
    """A row's fields; a field in quotes may go on over the following lines."""
    if '"' not in line:
        return line.rstrip("\r\n").split("\t", MAX_COLUMNS)
    # Process-wide, so it is only ever raised; what bounds memory is the row's length.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
    text = _bounded(chain([line], (more for _, more in following)))
    with located(label(path, begin.number), DataError):
        try:
            return next(csv.reader(text, delimiter="\t", strict=True))
        except csv.Error as error:
            raise DataError(f"not a row of a table ({one_line(error, 80)})") from error


def _bounded(text: Iterator[str]) -> Iterator[str]:
    """Lines that a row may have."""
    taken = tabs = 0
    for line in text:
        taken, tabs = taken + len(line), tabs + line.count("\t")
        if taken > MAX_ROW or tabs > MAX_TABS:
            raise DataError(f"a row of more than {MAX_ROW} bytes or {MAX_TABS} tabs; is a quote left open?")
        yield line


def _read(table: Table, start: Place) -> Iterator[tuple[Place, Row]]:
    """Rows by column, noting where each begins."""
    for begin, fields in _rows(table.path, start):
        if begin != table.header:
            with located(label(table.path, begin.number), DataError):
                row = _by_column(table, fields)
                _note(table.places, row.get("index", ""), begin)
            yield begin, row


def _by_column(table: Table, fields: Sequence[str]) -> Row:
    if len(fields) > len(table.columns):
        raise DataError(f"more fields than the header's {len(table.columns)}")
    return dict(zip(table.columns, fields, strict=False))


def _note(places: dict[str, Place], index: str, begin: Place) -> None:
    if not 0 < len(index) <= MAX_INDEX:
        raise DataError(f"the index is empty or has more than {MAX_INDEX} characters")
    if len(places) == MAX_ROWS and index not in places:
        raise DataError(f"more than the {MAX_ROWS} rows that are read")
    if places.setdefault(index, begin) != begin:
        raise DataError(f"a second row of index {one_line(repr(index), 80)}")


def _questions(table: Table) -> Iterator[Question]:
    for begin, row in _read(table, START):
        where = label(table.path, begin.number)
        with located(where, DataError):
            question = _question(table, row, where)
        if question is not None:
            yield question


def _question(table: Table, row: Row, where: str) -> Question | None:
    pictures = _pictures(table, row)
    if not pictures and {"image", "image_path"} & set(table.columns):
        return None
    text = check_text(row.get("question", ""), "question", MAX_QUESTION)
    kind = check_kind(row["category"], "category") if row.get("category") else ""
    choices = _choices(row) if table.is_multiple_choice else ()
    answers = _letter(row, choices) if choices else check_answers(_listed(row.get("answer", "")), "answer")
    if table.is_multiple_choice:
        text = multiple_choice_prompt(text, choices, row.get("hint", ""))
        check_text(text, "question with its options", MAX_QUESTION)
    return Question(text, answers, open_pictures(pictures), choices, kind, where=where)


def _choices(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((letter, row[letter]) for letter in string.ascii_uppercase if row.get(letter, "").strip())


def _letter(row: Row, choices: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The right letter and what says the same: its option as it stands in the prompt, or the option's text."""
    letter, texts = row.get("answer", "").strip(), dict(choices)
    if letter not in texts:
        raise DataError(f"the answer {one_line(repr(letter), 40)} is none of the options {', '.join(texts)}")
    return letter, f"{letter}. {texts[letter]}", texts[letter]


def _listed(text: str) -> list[str]:
    """The members of a text that is a Python list of texts, else the text alone."""
    if not (text.startswith("[") and text.endswith("]")) or len(text) > MAX_LIST:
        return [text]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return found if isinstance(found, list) and found and all(isinstance(item, str) for item in found) else [text]


def _pictures(table: Table, row: Row) -> list[Path | bytes]:
    """Encoded images, or where they lie; a column ``image`` goes before ``image_path``."""
    if image := row.get("image", "").strip():
        if len(image) <= MAX_INDEX:
            image = _image_of(table, image)
        return [_decoded(part) for part in _parts(image)]
    return [picture_path(table.path.parent, name) for name in _listed(row.get("image_path", "").strip()) if name]


def _image_of(table: Table, index: str) -> str:
    """The image field of the row of this index, which may stand anywhere in the table."""
    shown = one_line(repr(index), 80)
    if index not in table.places:
        _find(table, index)
    if index not in table.places:
        raise DataError(f"the image {shown} is neither base64 of one nor the index of a row")
    _, row = next(_read(table, table.places[index]))
    image = row.get("image", "").strip()
    if len(image) <= MAX_INDEX:
        raise DataError(f"the row of index {shown} has no image of its own")
    return image


def _find(table: Table, index: str) -> None:
    """Note where rows begin, up to that of ``index`` or to the end."""
    # Rows are noted in their order: the last one is the furthest that was read.
    furthest = next(reversed(table.places.values()), START)
    for _, row in _read(table, furthest):
        if row.get("index") == index:
            return


def _parts(image: str) -> list[str]:
    """A list of quoted base64 texts as its members, else the text alone."""
    if not (image.startswith("[") and image.endswith("]")):
        return [image]
    if image.count(",") >= MAX_IMAGES:
        raise DataError(f"more than {MAX_IMAGES} images")
    return [part.strip().strip("'\"") for part in image[1:-1].split(",")]


def _decoded(text: str) -> bytes:
    try:
        # Line breaks and blanks as MIME's encoders write them every 76 letters (RFC 2045, section 6.8).
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"the image is not base64 ({one_line(error, 80)})") from error
