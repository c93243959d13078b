"""``pocketvlm run``: an answer about images on the terminal, or a chat."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pocketvlm.cli.console import (
    INTERRUPTED,
    engine_option,
    finite,
    generation_options,
    prefix_cache,
    prepacked_cache,
    print_table,
    running,
)
from pocketvlm.cli.line_editing import edited_lines, file_name
from pocketvlm.cli.options import headed
from pocketvlm.cli.printing import rich_console
from pocketvlm.errors import ChatError, PocketVlmError, one_line
from pocketvlm.files import check_writable, label

if TYPE_CHECKING:
    from pocketvlm.runtime import Answer, Chat, GenerationConfig, PocketVlm, Stats

HELP = """\
/image FILE   show the model an image, before the next question (Tab completes its name)
/save FILE    write the conversation to a file (--conversation FILE goes on with it)
/reset        start the conversation anew
/quit         leave (so does Ctrl-D)
/help         this text
Ctrl-C ends an answer. Anything else is a question."""
COMMANDS = ("/image", "/save", "/reset", "/quit", "/help")


@headed("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--image", "images", multiple=True, type=click.Path(), metavar="FILE", help="An image; may be repeated.")
@click.option("--prompt", help="The question. Without it: a chat on the terminal.")
@generation_options
@running("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@prepacked_cache
@prefix_cache
@running("--tuning", type=click.Path(path_type=Path), metavar="FILE", help="Settings of pocketvlm bench --autotune.")
@running(
    "--conversation",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go on with the conversation in this file, and write it there at the end; one that is not there begins.",
)
@running("--drop-oldest", is_flag=True, help="In a chat: forget the oldest turns where a question does not fit.")
@running("--free-vision", is_flag=True, help="Have the vision part in memory only while an image is encoded.")
@running(
    "--memory-budget-mb",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    metavar="MB",
    help="Refuse a bundle that needs more memory.",
)
@engine_option
@click.option("--stats", is_flag=True, help="Print times and memory on stderr.")
@click.option("--json", "as_json", is_flag=True, help="Print each answer as one line of JSON, when it is complete.")
def command(
    *,
    bundle: Path,
    images: tuple[str, ...],
    prompt: str | None,
    config: GenerationConfig,
    threads: int | None,
    prepacked_cache: Path | None,
    prefix_cache: Path | None,
    tuning: Path | None,
    conversation: Path | None,
    drop_oldest: bool,
    free_vision: bool,
    memory_budget_mb: float | None,
    engine: str | None,
    stats: bool,
    as_json: bool,
) -> None:
    """Answer a question about images, streamed; without --prompt, chat.

    pocketvlm run dist/android/reader-gptq-g32 --image receipt.png --prompt "What is the total?"
    """
    from pocketvlm.runtime import load

    for stream in (sys.stdin, sys.stdout):
        # An answer must not end in an encoding error, whatever the locale.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    budget = None if memory_budget_mb is None else int(memory_budget_mb * 1e6)
    with load(
        bundle,
        threads=threads,
        engine=engine,
        memory_budget=budget,
        keep_vision=not free_vision,
        prepacked_cache=prepacked_cache,
        tuning=tuning,
    ) as vlm:
        if (limits := vlm.manifest.model.limits) is not None and not as_json:
            click.echo(f"note: {one_line(limits, 500)}", err=True)
        for name, reason in vlm.skipped_engines if not as_json else ():
            click.echo(f"note: not by the engine {name}: {one_line(reason, 500)}", err=True)
        if prefix_cache is not None:
            vlm.keep_prefixes(prefix_cache)
        show = _printer(stats=stats, as_json=as_json)
        if prompt is None or conversation is not None:
            with _opened(vlm, conversation, drop_oldest=drop_oldest) as chat:
                for image in images:
                    _add_image(chat, image)
                if prompt is None:
                    _talk(vlm, chat, config, show)
                complete = prompt is None or show(chat.stream(prompt, config))
                if conversation is not None:
                    chat.save(conversation)
            if not complete:
                sys.exit(INTERRUPTED)
        elif not show(vlm.stream(prompt, images=images, config=config)):
            sys.exit(INTERRUPTED)


def _opened(vlm: PocketVlm, conversation: Path | None, *, drop_oldest: bool) -> Chat:
    """The conversation of a file, or a new one."""
    if conversation is None or not conversation.exists():
        if conversation is not None:
            check_writable(conversation)
        return vlm.chat(drop_oldest=drop_oldest)
    return vlm.restore(conversation)


def _printer(*, stats: bool, as_json: bool) -> Callable[[Answer], bool]:
    """A function that shows an answer while it comes; False if Ctrl-C ended it."""

    def show(answer: Answer) -> bool:
        token_ids = []
        complete = True
        with answer:
            try:
                for piece in answer:
                    token_ids.append(piece.token_id)
                    if not as_json:
                        _write(piece.text)
            except KeyboardInterrupt:
                complete = False
        if as_json:
            click.echo(json.dumps({"text": answer.text, "token_ids": token_ids, "stats": answer.stats.as_dict()}))
        else:
            _write("\n")
        if stats:
            _print_stats(answer.stats)
        return complete

    return show


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _talk(vlm: PocketVlm, chat: Chat, config: GenerationConfig, show: Callable[[Answer], bool]) -> None:
    """Questions and commands, a line each. An error is shown and the chat goes on; in a script it ends."""
    terminal = sys.stdin.isatty()
    if terminal:
        edited_lines(COMMANDS, with_file="/image")
        click.echo(f"{vlm.manifest.model.name} ({vlm.engine_description}). /help lists the commands.", err=True)
    while True:
        try:
            line = _read_line(terminal)
            if line is None or line == "/quit":
                return
            if line.startswith("/"):
                _obey(chat, line)
            elif line and not show(chat.stream(line, config)) and not terminal:
                sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            if not terminal:
                raise
            click.echo("\nCtrl-D leaves.", err=True)
        except PocketVlmError as error:
            if not terminal:
                raise
            click.echo(f"error: {' '.join(error.typed.split())}", err=True)


def _read_line(terminal: bool) -> str | None:
    """The next line without white space around it; None at the end."""
    if terminal:
        try:
            return input("> ").strip()
        except EOFError:
            click.echo()
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _obey(chat: Chat, line: str) -> None:
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if name == "/image" and argument:
        _add_image(chat, file_name(argument))
    elif name == "/save" and argument:
        chat.save(file_name(argument))
    elif name == "/reset" and not argument:
        chat.reset()
    elif name == "/help" and not argument:
        click.echo(HELP, err=True)
    else:
        raise ChatError(
            f"{name[:40]!r} is not a command, or wants another argument: /image FILE, /save FILE, /reset, /quit, /help"
        )


def _add_image(chat: Chat, image: str) -> None:
    chat.add_image(image)
    if sys.stdin.isatty():
        click.echo(f"shown with the next question: {label(image)}", err=True)


def _print_stats(stats: Stats) -> None:
    from rich.table import Table

    table = Table("phase", "seconds", "tokens", "tokens/s", title="")
    for column in table.columns[1:]:
        column.justify = "right"
    rows: list[tuple[str, float, int | None, float | None]] = [
        ("load", stats.load_s, None, None),
        ("preprocess", stats.preprocess_s, stats.prompt_tokens, None),
        ("encode images", stats.encode_s, stats.image_tokens, None),
        ("prefill", stats.prefill_s, stats.prefill_tokens, stats.prefill_tps),
        ("decode", stats.decode_s, stats.decode_tokens, stats.decode_tps),
        ("first token after", stats.time_to_first_token_s, None, None),
    ]
    for name, seconds, tokens, rate in rows:
        shown = "" if tokens is None else str(tokens)
        table.add_row(name, f"{seconds:.3f}", shown, f"{rate:.1f}" if rate else "")
    console = rich_console(stderr=True)
    print_table(console, table)
    console.print(f"finished: {stats.finish_reason or 'interrupted'}; peak memory {stats.peak_rss_bytes / 1e6:.0f} MB")
