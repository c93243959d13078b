"""The command line: one command, one file, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click

from pocketvlm import __version__
from pocketvlm.cli.printing import shown_as_text
from pocketvlm.errors import PocketVlmError

#: command name -> the module of ``commands`` that defines it as ``command``
COMMANDS = {
    "export": "export",
    "run": "run",
    "serve": "serve",
    "inspect": "inspect",
    "tile": "tile",
    "eval": "eval",
    "questions": "questions",
    "tune": "tune",
    "bench": "bench",
    "doctor": "doctor",
    "compare": "compare",
    "report": "report",
    "plan": "plan",
    "init": "init",
    "litertlm": "litertlm",
    "cluster": "cluster",
}

#: package that the runtime does without -> the extra that brings it
EXTRAS = {
    **dict.fromkeys(("torch", "onnx", "onnx_ir", "safetensors", "jinja2", "tomli_w", "huggingface_hub"), "export"),
    **dict.fromkeys(("scipy", "rapidfuzz"), "bench"),
    **dict.fromkeys(("httpx2", "prometheus_client", "sse_starlette", "starlette", "uvicorn"), "serve"),
    "ray": "cluster",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is asked for, so that ``--help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pocketvlm.cli.commands.{COMMANDS[cmd_name]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with the whole first sentence of its help, which click would cut off."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(found.help or "")) for name, found in commands if found])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Also a full disk behind stdout, and whatever else the system refuses, is one line; also of ``--help``."""
        with shown_as_text():
            try:
                try:
                    return super().main(*args, **kwargs)
                finally:
                    sys.stdout.flush()
            except OSError as error:
                if "--debug" in sys.argv[1:]:
                    raise
                with suppress(OSError):
                    click.echo(f"error: {_refused(error)}", err=True)
                sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Turn errors meant for people into one line on stderr and exit status 1."""
        try:
            return super().invoke(ctx)
        except (PocketVlmError, ModuleNotFoundError, MemoryError) as error:
            if ctx.params.get("debug"):
                raise
            message = " ".join((error.typed if isinstance(error, PocketVlmError) else str(error)).split())
            if isinstance(error, MemoryError):
                message = f"not enough memory. {message}".strip()
            if isinstance(error, ModuleNotFoundError):
                if error.name not in EXTRAS:
                    raise
                message = f"this command needs {error.name}: pip install 'pocketvlm[{EXTRAS[error.name]}]'"
            click.echo(f"error: {message}", err=True)
            ctx.exit(1)


def first_sentence(text: str) -> str:
    """What a command's help begins with, on one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _refused(error: OSError) -> str:
    """What the system refused, in its words. What names no file was printed, or written into one that was open."""
    from pocketvlm.files import label, reason

    if error.filename is not None:
        return f"{label(error.filename)}: {reason(error)}"
    with suppress(OSError, ValueError):  # or Python would try it again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return f"the output cannot be written ({reason(error)})"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pocketvlm")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def main(debug: bool) -> None:
    """Vision-language models on a phone: export, run, inspect."""


if __name__ == "__main__":
    sys.exit(main())
