"""Part 6, hostile chat templates: what a template's author can write to hang, fill, break or fool an export."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pocketvlm.errors import PocketVlmError
from pocketvlm.export.read import chat_template, dialogues, literals
from pocketvlm.export.read.jinja import process
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.support.chat_templates import REFUSED, TEMPLATES, TOKENS

#: Of the process that waits; importing transformers to compare with is the most that it does.
LIMITS = Limits(seconds=20.0, peak_bytes=1 << 30, address_bytes=16 << 30)
#: A loop without end shall not take a campaign's night.
CPU_SECONDS = 1
#: A refusal has a dialogue and two renderings in it.
MOST_LINE = 1000

#: What becomes as large as n says.
GROWN = (
    "'x' * n", "[0] * n", "'x'.center(n)", "'x'.ljust(n)", "'%*d' % (n, 1)", "'{:{}}'.format(1, n)", "'x' | indent(n)",
    "'a' * 1000 | replace('a', 'a' * n)", "'a' | center(n)", "('x' * 1000000).split('') * n", "range(n) | list",
    "('a,' * n).split(',')", "dict(a='x' * n)", "'x'.zfill(n)", "'a' | list * n", "{'a': 'x' * n} | tojson(indent=n)",
    "'x' | wordwrap(n) * n", "range(n) | join(',')", "'x'.expandtabs(n) * n", "lipsum(n)", "'x' | truncate(n) * n",
    "n | string * n",
)  # fmt: skip
#: Where a way out of a sandbox begins, and its steps.
STARTS = (
    "''", "messages", "messages[0]", "cycler", "joiner", "lipsum", "namespace", "dict", "range", "loop", "self", "_",
    "raise_exception", "strftime_now", "bos_token", "caller", "varargs", "[].append", "''.format", "{}.items()",
    "()|attr('__class__')",
)  # fmt: skip
STEPS = (
    ".__class__", ".__mro__", ".__subclasses__()", "['__init__']", ".__globals__", "|attr('__globals__')", ".os", "[1]",
    ".popen('id').read()", ".mro()", ".__builtins__", ".__import__('os')", ".f_back", ".gi_frame", ".__dict__", "()",
    "|map(attribute='__class__')|list", ".format", ".__self__", ".__code__", ".environment", ".__func__",
)  # fmt: skip
PIECES = (
    "{{", "}}", "{%", "%}", "{#", "#}", " if ", " for a in ", "messages", "'", '"', "\\", "\0", "\ud800", "\x1b[2J",
    "%", "\u202e", "endif", "é" * 100, "-%}", "{%-", "raw", "|", "(", ")", "1", "\n", "generation", "set x = ",
)  # fmt: skip
Template = Callable[[random.Random], str]


def cases(setup: Setup) -> Cases:
    """The kinds take turns."""
    process.CPU_SECONDS = CPU_SECONDS

    def case(index: int) -> Case:
        random_ = setup.random("templates", index)
        kind = list(KINDS)[index % len(KINDS)]
        template = KINDS[kind](random_)
        return Case(f"{kind}: {repr(template)[:100]}", lambda: check(template, random_))

    def check(template: str, random_: random.Random) -> Found:
        folder = setup.sandbox / "template"
        folder.mkdir(exist_ok=True)
        (folder / "chat_template.jinja").write_text(template, errors="surrogatepass")
        (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
        return checked(lambda: chat_template.read_chat(folder), template, random_)

    return case


def checked(read: Callable[[], chat_template.FoundChat], template: str, random_: random.Random) -> Found:
    """A layout that says what transformers says, or one line, and no process left behind."""
    before = _children()
    try:
        found = read()
    except PocketVlmError as error:
        verdict = refusal(error, most=MOST_LINE)
    else:
        verdict = _compared(found, template, random_)
    if _children() <= before:
        return verdict
    return Found("wrong", f"a process is left, then: {verdict.verdict} {verdict.line}")


def _children() -> set[str]:
    """This process's own, by number: those that run and those that nobody has waited for."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that ended since
            found.update((task / "children").read_text().split())
    return found


def _compared(found: chat_template.FoundChat, template: str, random_: random.Random) -> Found:
    """Dialogues of our own, rendered by transformers: the proof has seen that the template ends."""
    from transformers.utils.chat_template_utils import render_jinja_template

    if not all(note.isprintable() and len(note) < MOST_LINE for note in found.notes):
        return Found("wrong", f"a note is not one printable line: {found.notes!r}")
    layout, tokens = found.layout, {name: token for name, token in TOKENS.items() if token is not None}
    assert layout is not None
    if any("no clock" in note for note in found.notes):
        template = template.replace("strftime_now is defined", "false")
    seed = random_.randrange(1 << 30)
    for text in (dialogues.PLAIN, dialogues.REASONING, dialogues.EDGES):
        system = "system" in layout.roles and text is not dialogues.EDGES
        for messages in dialogues.dialogues(text, seed=seed, count=8, system=system):
            wanted, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **tokens)
            if literals.render_literals(layout, messages, True) != wanted[0]:
                return Found("wrong", f"another text than transformers': {messages!r}"[:MOST_LINE])
    return Found("right")


def nested(random_: random.Random) -> str:
    """Blocks, brackets, filters and names inside one another."""
    depth = random_.choice((5, 20, 21, 99, 100, 101, 500, 3000, 30_000))
    opening, middle, closing = random_.choice(
        (
            ("{% if a %}", "x", "{% endif %}"),
            ("{% for a in [1] %}", "x", "{% endfor %}"),
            ("{% set a %}", "x", "{% endset %}"),
            ("{% filter upper %}", "x", "{% endfilter %}"),
            ("{% generation %}", "x", "{% endgeneration %}"),
            ("{% macro m() %}", "x", "{% endmacro %}"),
            ("{% with %}", "x", "{% endwith %}"),
            ("{% if 1 %}{% for a in 'a' %}", "{{ a }}", "{% endfor %}{% endif %}"),
        )
    )
    inner, ending = random_.choice(
        (("(", ")"), ("[", "]"), ("{1:", "}"), ("-", ""), ("not ", ""), ("a[", "]"), ("'x' ~ ", ""))
    )
    return random_.choice(
        (
            opening * depth + middle + closing * depth,
            opening * depth,
            "{{ " + inner * depth + "1" + ending * depth + " }}",
            "{{ a" + random_.choice((".b", "|trim", "[0]", "()", " is defined")) * depth + " }}",
            "{{ " + random_.choice(("1+", "1 if a else ", "'a' == ", "'a' ~ ")) * depth + "1 }}",
        )
    )


def endless(random_: random.Random) -> str:
    """Loops over ranges and over what doubles."""
    many = random_.choice((99_999, 100_000, 10**6, 10**9, 10**30))
    body = random_.choice(("", "x", "{{ a }}", "{% set x = a %}", "{% if a == -1 %}{% break %}{% endif %}"))
    depth = random_.choice((1, 2, 3, 5))
    over = random_.choice((f"range({many})", f"'x' * {many}", f"[0] * {many}", f"range(99999) | batch({many})"))
    return random_.choice(
        (
            f"{{% for a in {over} %}}" * depth + body + "{% endfor %}" * depth,
            "{% set n = namespace(x=[1]) %}" + "{% for a in range(9999) %}{% set n.x = n.x + n.x %}{% endfor %}",
            "{% set n = namespace(x='a') %}" + "{% for a in range(9999) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "{% for a in messages recursive %}{{ loop(messages) }}{% endfor %}",
            f"{{% set n = {random_.choice((9, 99, 10**6))} %}}{{{{ n ** n ** n }}}}",
            "{{ range(99999) | map('string') | join | list | sort | length }}" * depth * 50,
            f"{{% set n = {many} %}}{{{{ (range(n) | list)[0] }}}}",
        )
    )


def large(random_: random.Random) -> str:
    """Strings and lists of gigabytes, in the many ways that there are."""
    many = random_.choice((10**6, 10**8, 2**31 - 1, 2**31, 2**63 - 1, 10**12, 10**20))
    grown = random_.choice(GROWN)
    shown = random_.choice(
        ("{{ %s }}", "{{ (%s) | length }}", "{%% set y = %s %%}{{ y[:1] }}", "{%% if %s %%}{%% endif %%}")
    )
    return f"{{% set n = {many} %}}" * random_.choice((0, 1)) + (shown % f"{grown}").replace(" n)", f" {many})")


def recursive(random_: random.Random) -> str:
    """Macros that call themselves and each other."""
    more = random_.choice(("", "x", "{{ a }}", "x" * 1000))
    return random_.choice(
        (
            "{% macro m(a) %}" + more + "{{ m(a) }}{% endmacro %}{{ m(1) }}",
            "{% macro m(a) %}" + more + "{{ m(a ~ a) }}{% endmacro %}{{ m('x') }}",
            "{% macro m(a) %}{{ k(a) }}{% endmacro %}{% macro k(a) %}{{ m(a) }}" + more + "{% endmacro %}{{ k(1) }}",
            "{% macro m() %}{{ caller() }}{% call m() %}"
            + more
            + "{% endcall %}{% endmacro %}{% call m() %}{% endcall %}",
            "{% macro m(d) %}{% if d %}{{ m(d - 1) }}{{ m(d - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
            "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}",
            "{{ self.a() }}{% block a %}{{ self.a() }}{% endblock %}",
            "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ [n, n.n.n.n] | tojson }}",
            "{% set a = {} %}{% set a = {'a': a} %}" * 3000 + "{{ a }}",
        )
    )


def walking(random_: random.Random) -> str:
    """Attributes by which a sandbox is left, and other files."""
    start = random_.choice(STARTS)
    steps = "".join(random_.choices(STEPS, k=random_.randint(1, 6)))
    return random_.choice(
        (
            "{{ " + start + steps + " }}",
            "{% set x = " + start + steps + " %}{{ x }}",
            "{{ '{0" + steps.split("(")[0].split("|")[0] + "}'.format(" + start + ") }}",
            "{% " + random_.choice(("include", "extends", "import")) + " '/etc/passwd' %}",
            "{% from 'os' import system %}{{ system('id') }}",
            "{% set messages = [] %}{{ messages.append(1) }}{{ messages.clear() }}{{ messages.__setitem__(0, 1) }}",
            "{% do messages.append(1) %}",
        )
    )


def junk(random_: random.Random) -> str:
    """Bytes, pieces of templates in any order, and what an error's line must not show as it is."""
    words = random_.choice(("\\x1b[2J\\x07", "\\u202eabc", "a\\nb\\rc", "x" * 100_000, "[bold]", "\\ud800", "{0}"))
    return random_.choice(
        (
            "".join(random_.choices(PIECES, k=random_.randint(1, 40))),
            "{{ raise_exception('" + words + "') }}",
            "{{ raise_exception(" + random_.choice(("messages", "1", "none", "", "1, 2", "nobody", "{}")) + ") }}",
            "{{ "
            + random_.choice(
                ("\uff58", "nobody", "a" * 5000, "tools", "loop", "true.x", "1/0", "none + 1", "[][5]", "{}.a.b")
            )
            + " }}",
            "{{ messages[0].content."
            + random_.choice(("nothing()", "index('q')", "encode('no')", "format(1)", "x.y"))
            + " }}",
            "",
            "x" * random_.choice((1, 1000, 1 << 20, (1 << 20) + 1)),
        )
    )


def changed(random_: random.Random) -> str:
    """An honest template with one or two places changed."""
    refused = [text for text, _ in REFUSED.values()]
    template = random_.choice([*[kind.template for kind in TEMPLATES.values()] * 3, *refused])
    for _ in range(random_.choice((1, 1, 2))):
        at = random_.randrange(len(template) + 1)
        end = min(len(template), at + random_.choice((1, 3, 10, 40)))
        template = random_.choice(
            (
                template[:at] + template[end:],
                template[:end] + template[at:],
                template[:at]
                + random_.choice(("-", "'", "}}", "{{ x }}", "|trim", " ", "\n", "{% if 0 %}", "é"))
                + template[at:],
                template.replace(
                    "content']", random_.choice(("content'] | trim", "content'].lstrip()", "content'][1:]"))
                ),
                template.replace("'user'", random_.choice(("'assistant'", "'system'", "'tool'"))),
                template.replace("loop.first", random_.choice(("loop.last", "loop.index == 3", "not loop.first"))),
                template.replace("messages[0]", random_.choice(("messages[-1]", "messages[1]"))),
            )
        )
    return template


def honest(random_: random.Random) -> str:
    """One as it is, with something that says nothing."""
    template = random_.choice(list(TEMPLATES.values())).template
    return template + random_.choice(
        ("", "{# x #}", "{{ '' }}", "{% if 0 %}" + "{{ x }}" * 1000 + "{% endif %}", f"{{# {datetime.min} #}}")
    )


KINDS: dict[str, Template] = {
    "nested": nested,
    "changed": changed,
    "endless": endless,
    "walking": walking,
    "large": large,
    "junk": junk,
    "recursive": recursive,
    "honest": honest,
}
