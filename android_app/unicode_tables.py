"""Write the Kotlin library's Unicode tables: what the installed tokenizers library says of every code point.

    python -m android_app.unicode_tables

Patterns of a tokenizer are matched by Oniguruma there, digits told by Rust, texts composed by a crate of its own: three
versions of Unicode, none of them that of a given JVM or Android. So each is asked, and Kotlin asks no platform.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

FOLDER = Path(__file__).parent / "pocketvlm-core/src/main/kotlin/dev/pocketvlm/text"
POINTS = [*range(0xD800), *range(0xE000, 0x110000)]
TEXT = "".join(map(chr, POINTS))
#: The order is that of Kotlin's CATEGORIES. What has none of them is separators, controls, and what is not assigned.
CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"),
)
NONE, NEW_DIGIT = len(CATEGORIES), len(CATEGORIES) + 1
CLASSES = len(CATEGORIES) + 2
HANGUL = range(0xAC00, 0xD7A4)
#: Printable ASCII without what Kotlin's strings escape: the first half ends a number, the second goes on.
LETTERS = "".join(chr(code) for code in range(32, 127) if chr(code) not in '"\\$')
BASE = len(LETTERS) // 2
WIDTH = 110

_NFC, _NFD = normalizers.NFC(), normalizers.NFD()


@functools.cache
def class_of_points() -> list[int]:
    """For each of POINTS its category's number, NONE, or NEW_DIGIT: a digit of Rust's that patterns do not know yet."""
    any_category = "|".join(rf"\p{{{name}}}+" for name in CATEGORIES)
    runs = _spans(any_category, "isolated", TEXT)
    firsts = "".join(TEXT[begin] for begin, _ in runs)
    of_run = [NONE] * len(runs)
    for number, name in enumerate(CATEGORIES):
        for begin, end in _matches(rf"\p{{{name}}}+", firsts):
            of_run[begin:end] = [number] * (end - begin)
    classes = [of_run[index] for index, (begin, end) in enumerate(runs) for _ in range(begin, end)]
    for index in _digits():
        if classes[index] == NONE:
            classes[index] = NEW_DIGIT
        elif CATEGORIES[classes[index]][0] != "N":
            raise ValueError(f"U+{POINTS[index]:04X} is a digit and of category {CATEGORIES[classes[index]]}")
    return classes


@functools.cache
def combining_classes() -> dict[int, int]:
    """Code points that are reordered, each with a number that grows with its combining class.

    The library does not tell classes; it shows them by the order into which it brings two marks.
    """
    last, first = "\u0345", "\u0334"  # of the highest and of the lowest class
    marks = [point for point in POINTS if chr(point) not in (first, last) and _is_mark(chr(point), first, last)]
    marks += [ord(first), ord(last)]
    representatives: list[int] = []
    for mark in marks:  # an insertion into what is sorted already
        low, high = 0, len(representatives)
        while low < high:
            middle = (low + high) // 2
            other = representatives[middle]
            if _swaps(other, mark):
                high = middle
            elif _swaps(mark, other):
                low = middle + 1
            else:
                break
        else:
            representatives.insert(low, mark)
    return {
        mark: 1
        + next(at for at, other in enumerate(representatives) if not (_swaps(mark, other) or _swaps(other, mark)))
        for mark in sorted(marks)
    }


@functools.cache
def decompositions() -> dict[int, tuple[str, bool]]:
    """Code points but Hangul's: the pair that composes to each (true), or what it becomes for good (false)."""
    found: dict[int, tuple[str, bool]] = {}
    for point in POINTS:
        if point in HANGUL:
            continue
        whole = _NFD.normalize_str(chr(point))
        if whole == chr(point):
            continue
        composes = _NFC.normalize_str(whole) == chr(point)
        if composes:
            pair = _NFC.normalize_str(whole[:-1]) + whole[-1]
            if len(pair) != 2 or _NFC.normalize_str(pair) != chr(point):
                raise ValueError(f"U+{point:04X} is not composed of two code points")
            found[point] = pair, True
        else:
            found[point] = whole, False
    return found


def categories_source() -> str:
    """The content of CategoryData.kt."""
    runs = ((number, sum(1 for _ in run)) for number, run in itertools.groupby(class_of_points()))
    numbers = ((length - 1) * CLASSES + number for number, length in runs)
    about = "Runs of code points but surrogates: (length - 1) * " + f"{CLASSES} + category. "
    return _file("CATEGORY_RUNS", about + "Read by [Categories].", numbers)


def composition_source() -> str:
    """The content of CompositionData.kt."""
    marks = combining_classes()
    entries: list[int] = []
    last = 0
    for point, (text, composes) in decompositions().items():
        entries += [point - last, 2 * len(text) + composes, *map(ord, text)]
        last = point
    runs: list[int] = []
    last = 0
    for (_, rank), run in itertools.groupby(enumerate(marks), lambda at: (at[1] - at[0], marks[at[1]])):
        points = [point for _, point in run]
        runs += [points[0] - last, len(points), rank]
        last = points[-1]
    decomposed = "Code point less the one before, 2 * length + whether it is composed again, what it becomes."
    marked = "First code point less the last before, how many, the rank of their combining class."
    return _file("DECOMPOSITIONS", decomposed, entries) + _constant("MARKS", marked, runs)


def _spans(pattern: str, behavior: str, text: str) -> list[tuple[int, int]]:
    return [span for _, span in pre_tokenizers.Split(Regex(pattern), behavior).pre_tokenize_str(text)]


def _matches(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    """What the pattern finds: what is not left where that is removed."""
    end = 0
    for begin, next_end in [*_spans(pattern, "removed", text), (len(text), len(text))]:
        if begin > end:
            yield end, begin
        end = next_end


def _digits() -> Iterator[int]:
    """Indices in POINTS. Each run of digits is a piece, and so is what stands between: the first one is no digit."""
    pieces = pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str(TEXT)
    for _, (begin, end) in pieces[1::2]:
        yield from range(begin, end)


def _is_mark(letter: str, first: str, last: str) -> bool:
    return _NFD.normalize_str(last + letter) == letter + last or _NFD.normalize_str(letter + first) == first + letter


def _swaps(before: int, after: int) -> bool:
    """Whether the class of ``after`` is the lower one."""
    return before != after and _NFD.normalize_str(chr(before) + chr(after)) == chr(after) + chr(before)


def _packed(numbers: Iterable[int]) -> str:
    """Each number by its low digit last, digits before it marked as going on."""
    written: list[str] = []
    for number in numbers:
        digits = [LETTERS[number % BASE]]
        while number := number // BASE:
            digits.append(LETTERS[BASE + number % BASE])
        written += reversed(digits)
    return "".join(written)


def _constant(name: str, about: str, numbers: Iterable[int]) -> str:
    text = _packed(numbers)
    lines = " +\n        ".join(f'"{text[at : at + WIDTH]}"' for at in range(0, len(text), WIDTH))
    return f"\n/** {about} */\ninternal const val {name}: String =\n    {lines}\n"


def _file(name: str, about: str, numbers: Iterable[int]) -> str:
    head = "// Written by `python -m android_app.unicode_tables`: what the tokenizers library says of every code point."
    return f"{head}\npackage dev.pocketvlm.text\n{_constant(name, about, numbers)}"


SOURCES = {"CategoryData.kt": categories_source, "CompositionData.kt": composition_source}


def main() -> None:
    """Write the files anew."""
    for name, source in SOURCES.items():
        (FOLDER / name).write_text(source())


if __name__ == "__main__":
    main()
