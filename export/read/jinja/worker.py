"""The process that renders a stranger's chat template: ``python -P worker.py``, a line of JSON each way.

The first line has the template and the limits, each further one a dialogue; each is answered by ``{"text": ...}`` or
``{"error": ...}``. It imports nothing of this project, whose rooms would take seconds and gigabytes to import. What a
template sees is what transformers' ``render_jinja_template`` (utils/chat_template_utils.py) shows it, but that a name
which nothing defines cannot be printed as if it were empty.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, Undefined, UndefinedError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

#: Characters of one rendered dialogue, and of an error's text.
MOST_TEXT, MOST_ERROR = 1 << 20, 2000


class GenerationTag(Extension):
    """``{% generation %}``: what training counts stands between the two tags, which print nothing."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def undefined_names(silent: frozenset[str]) -> type[Undefined]:
    """As jinja2's own, but to print a name is an error. ``silent``: those that print nothing nevertheless."""

    class Unknown(Undefined):
        __slots__ = ()

        def __str__(self) -> str:
            if self._undefined_obj is missing and self._undefined_name not in silent:
                raise UndefinedError(
                    f"it prints {self._undefined_name}, which no file of the checkpoint defines (a token's name: say "
                    "it in tokenizer_config.json, null where there is none)"
                )
            return ""

    return Unknown


def environment(silent: frozenset[str], today: datetime | None) -> ImmutableSandboxedEnvironment:
    """The template's surroundings; without ``today`` they have no clock."""
    surroundings = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=undefined_names(silent),
        extensions=[GenerationTag, "jinja2.ext.loopcontrols"],
    )

    def raise_exception(message: object) -> None:
        raise TemplateError(str(message))

    def tojson(
        value: object, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    surroundings.filters["tojson"] = tojson
    surroundings.globals["raise_exception"] = raise_exception
    if today is not None:
        surroundings.globals["strftime_now"] = today.strftime
    return surroundings


def compiled(request: dict[str, Any]) -> Template:
    """The template; names that it assigns somewhere itself are empty where it did not, as in jinja2."""
    source, silent = request["source"], set(request["silent"])
    tree = environment(frozenset(), None).parse(source)
    silent |= {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    today = request["today"] and datetime.fromisoformat(request["today"])
    return environment(frozenset(silent), today).from_string(source)


def rendered(template: Template, values: dict[str, Any]) -> str:
    """A dialogue as text.

    :raises ValueError: it is longer than any prompt
    """
    parts, size = [], 0
    for part in template.generate(**values):
        parts.append(part)
        size += len(part)
        if size > MOST_TEXT:
            raise ValueError(f"it gives more than {MOST_TEXT} characters")
    return "".join(parts)


def limit(seconds: int, most_bytes: int) -> None:
    """Bound this process, where the system can: it is killed after so much of the processor's time."""
    try:
        import resource
    except ImportError:  # Windows: the clock of the process that waits is the only limit
        return
    for kind, value in (
        (resource.RLIMIT_AS, most_bytes), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)
    ):  # fmt: skip
        resource.setrlimit(kind, (value, value))


def says(error: Exception) -> str:
    """What went wrong, in words."""
    if isinstance(error, MemoryError):
        return "it needs more memory than a template may have"
    return str(error)[:MOST_ERROR] or type(error).__name__


def reply(**words: str) -> None:
    """Answer a line."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Render dialogues until nobody asks for any more."""
    request = json.loads(sys.stdin.readline())
    limit(request["seconds"], request["bytes"])
    try:
        template = compiled(request)
    except Exception as error:  # noqa: BLE001 - Python's compiler refuses what is nested too deeply in several ways
        reply(error=says(error))
        return
    reply(text="")
    for line in sys.stdin:
        try:
            text = rendered(template, {**request["values"], **json.loads(line)})
        except Exception as error:  # noqa: BLE001 - whatever its code and jinja2's raise
            reply(error=says(error))
        else:
            reply(text=text)


if __name__ == "__main__":
    main()
