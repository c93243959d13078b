"""Which regular expressions of a tokenizer are run: those whose time no text can make grow without end.

The tokenizers library searches with Oniguruma, which backtracks: ``(a+)+$`` takes twice as long for each letter, nested
repeats of large counts fill the memory when they are compiled, and at ten million steps of one match the library
panics. The patterns that tokenizers are published with (GPT-2, Llama 3, Qwen2, o200k, DeepSeek, BLOOM, ...) repeat
nothing that repeats. They are read here as Oniguruma reads Ruby's syntax, and what else it knows (names, recursion,
back references, conditions, callouts) is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: In one alternative: parts that are repeated without end, parts of more than one length.
MOST_ENDLESS, MOST_VARYING = 3, 8
#: Atoms, each as often as a count repeats it; levels of groups.
MOST_ATOMS, MOST_DEPTH = 4096, 16

GROUP = re.compile(r"\((?:\?(?:[imx-]{0,6}:|<?[=!]|>))?")
FLAGS = re.compile(r"\(\?[imx-]{1,6}\)")
ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[A-Za-z0-9_ ]{1,40}\}|x\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[dDsSwWhHbBAzZnrtfvaeR]"
    r"|[^A-Za-z0-9])",
    re.DOTALL,
)
COUNT = re.compile(r"\{(\d{0,6})(,?)(\d{0,6})\}", re.ASCII)


@dataclass(frozen=True)
class _Extent:
    """What a part of a pattern can cost."""

    endless: int = 0
    varying: int = 0
    atoms: int = 0

    def __add__(self, other: _Extent) -> _Extent:
        """One behind the other."""
        return _Extent(self.endless + other.endless, self.varying + other.varying, self.atoms + other.atoms)

    def __or__(self, other: _Extent) -> _Extent:
        """One or the other."""
        endless, varying = max(self.endless, other.endless), max(self.varying, other.varying)
        return _Extent(endless, varying, self.atoms + other.atoms)


def check_pattern(pattern: str) -> str:
    """The pattern itself.

    :raises ValueError: it could take more time or memory than its text explains, or is in another syntax
    """
    extent, at = _alternatives(pattern, 0, 0)
    if at < len(pattern):
        raise ValueError("a group of the pattern ends that did not begin")
    if extent.atoms > MOST_ATOMS:
        raise ValueError(f"the pattern has more than {MOST_ATOMS} parts")
    return pattern


def _alternatives(pattern: str, at: int, depth: int) -> tuple[_Extent, int]:
    """What stands up to the end of the group, and where that is."""
    if depth > MOST_DEPTH:
        raise ValueError("the pattern's groups are nested too deeply")
    whole = extent = _Extent()
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            whole, extent, at = whole | extent, _Extent(), at + 1
            continue
        atom, at = _atom(pattern, at, depth)
        repeated, at = _repeated(atom, pattern, at)
        extent += repeated
        if extent.endless > MOST_ENDLESS or extent.varying > MOST_VARYING:
            raise ValueError("the pattern repeats too many parts one behind the other")
    return whole | extent, at


def _atom(pattern: str, at: int, depth: int) -> tuple[_Extent, int]:
    if flags := FLAGS.match(pattern, at):
        return _Extent(), flags.end()
    if pattern[at] == "[":
        return _Extent(atoms=1), _class_end(pattern, at)
    if pattern[at] == "\\":
        return _Extent(atoms=1), _escape_end(pattern, at)
    if pattern[at] != "(":
        return _Extent(atoms=1), at + 1
    begins = GROUP.match(pattern, at)
    if begins is None or pattern[begins.end() : begins.end() + 1] in ("?", "*"):
        raise ValueError("the pattern has a kind of group that is not read")
    extent, end = _alternatives(pattern, begins.end(), depth + 1)
    if end == len(pattern):
        raise ValueError("a group of the pattern does not end")
    return extent, end + 1


def _class_end(pattern: str, at: int) -> int:
    r"""Behind a class such as ``[^\s[a-z]&&\p{L}]``."""
    depth = 0
    while at < len(pattern):
        if pattern[at] == "\\":
            at = _escape_end(pattern, at)
            continue
        if pattern[at] == "[":
            depth += 1
            # A bracket that begins a class is a letter of it.
            at += 1 + pattern.startswith("^", at + 1)
            at += pattern.startswith("]", at)
            continue
        depth -= pattern[at] == "]"
        at += 1
        if not depth:
            return at
    raise ValueError("a class of the pattern does not end")


def _escape_end(pattern: str, at: int) -> int:
    escape = ESCAPE.match(pattern, at)
    if escape is None:
        raise ValueError(f"the pattern has the escape {pattern[at : at + 2]!a}, which is not read")
    return escape.end()


def _repeated(atom: _Extent, pattern: str, at: int) -> tuple[_Extent, int]:
    """The atom as often as what stands behind it says."""
    least, most, end = _quantifier(pattern, at)
    if end == at:
        return atom, at
    if most != 1 and atom.varying:
        raise ValueError("the pattern repeats what repeats")
    if _quantifier(pattern, end)[2] != end:
        raise ValueError("the pattern repeats a repetition")
    atoms = atom.atoms * max(most or least, 1)
    return _Extent(atom.endless + (most is None), atom.varying + (least != most), atoms), end


def _quantifier(pattern: str, at: int) -> tuple[int, int | None, int]:
    """Least and most repetitions (None: no end), and where the quantifier ends: ``at`` where there is none."""
    letter = pattern[at : at + 1]
    if letter and letter in "*+?":
        # lazy or possessive
        end = at + 1 + (pattern[at + 1 : at + 2] in ("?", "+"))
        return (1 if letter == "+" else 0), (1 if letter == "?" else None), end
    count = COUNT.match(pattern, at)
    if count is None or not (count[1] or count[3]):
        return 1, 1, at
    least = int(count[1] or 0)
    most = (int(count[3]) if count[3] else None) if count[2] else least
    return least, most, count.end() + pattern.startswith("?", count.end())
