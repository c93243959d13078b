"""A stranger's template in a process with limits: one line for what loops, fills the memory, breaks the interpreter."""

from __future__ import annotations

import resource
import sys
from datetime import datetime

import pytest

from pocketvlm.errors import ExportError
from pocketvlm.export.read.jinja import process
from pocketvlm.export.read.jinja.process import Rendering, TemplateFailsError

HI = [{"role": "user", "content": "hi"}]
HOSTILE = [
    (
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "takes more than 1 s of the processor",
    ),
    ("{% set n = 100000000 %}{{ ('x' * n) * n }}", "needs more memory than a template may have"),
    ("{{ 'x' * 2000000 }}", "more than 1048576 characters"),
    ("{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}", "more than 1048576 characters"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", ""),
    ("{% if a %}" * 150 + "{% endif %}" * 150, ""),
    ("{% for a in [1] %}" * 60 + "{% endfor %}" * 60, "nested"),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ("{% set n = 9 %}{{ n ** (n ** (n ** n)) }}", "more than 1 s of the processor"),
    ("{{ raise_exception('x' * 100000) }}", "x"),
    ("{{ '%1000000000d' % 1 }}", "memory"),
    ("{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory"),
]


@pytest.mark.parametrize(("source", "words"), HOSTILE, ids=[one[0][:30] for one in HOSTILE])
def test_a_hostile_template_is_one_line(monkeypatch: pytest.MonkeyPatch, source: str, words: str) -> None:
    monkeypatch.setattr(process, "CPU_SECONDS", 1)
    with pytest.raises(ExportError, match=r"^the chat template") as caught, Rendering(source, {}) as render:
        render(HI, True)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_what_has_no_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WALL_SECONDS", 0.5)
    with pytest.raises(ExportError, match="did not end within"), Rendering(HOSTILE[0][0], {}) as render:
        render(HI, True)


def test_a_process_that_cannot_start_or_dies_at_once_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ExportError, match="no process for the chat template can be started: No such file"):
        Rendering("x", {})
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ExportError, match=r"breaks the process that renders it \(1\)"), Rendering("x" * 500_000, {}):
        pass


def test_one_process_renders_all_and_ends_with_the_block() -> None:
    with Rendering("{{ a_token }}{{ messages[0].content }}", {"a_token": "<a>"}) as render:
        assert [render([{"role": "user", "content": text}], False) for text in ("x", "\ud800é\n", "")] == [
            "<a>x",
            "<a>\ud800é\n",
            "<a>",
        ]
        with pytest.raises(TemplateFailsError):
            render([], False)
        assert render(HI, False) == "<a>hi"
        running = render._process
        limits = {kind: resource.prlimit(running.pid, kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU)}
    assert running.returncode is not None
    most, seconds = process.MEMORY_BYTES, process.CPU_SECONDS
    assert limits == {resource.RLIMIT_AS: (most, most), resource.RLIMIT_CPU: (seconds, seconds)}


def test_a_name_that_nobody_defines_is_an_error_where_it_is_printed_alone() -> None:
    shown = "{{ gone is defined }}{{ 1 if gone else 2 }}{{ gone | default('d') }}{{ gone == 1 }}{{ null }}{{ m.no }}"
    with Rendering("{% set m = {} %}" + shown, {}, ["null"]) as render:
        assert render(HI, True) == "False2dFalse"
    for printing in ("{{ gone }}", "{{ 'a' ~ gone }}", "{{ gone | trim }}", "{{ '%s' % gone }}", "{{ [gone] | join }}"):
        with pytest.raises(TemplateFailsError, match="prints gone, which no file"), Rendering(printing, {}) as render:
            render(HI, True)


def test_the_clock_is_the_one_that_is_given() -> None:
    with Rendering("{{ strftime_now('%d %b %Y') }}", {}, today=datetime(2026, 2, 3)) as render:
        assert render(HI, True) == "03 Feb 2026"
    with (
        pytest.raises(TemplateFailsError, match="'strftime_now' is undefined"),
        Rendering("{{ strftime_now('') }}", {}) as render,
    ):
        render(HI, True)
