"""``pocketvlm`` on a phone, and how it ended: one line where it failed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pocketvlm.cli import main
from tests.support.phone.fake import DIES_WITH_US

#: The least that a bench measures.
WORK = ("-t", "1", "-p", "16", "-n", "4", "-d", "0", "--image", "40x20", "-r", "2", "--warmups", "0")
#: The runner on a phone, and its first argument: files are looked at by commands that have its name too.
PROGRAM = "pocketvlm-runner /data/local/tmp/pocketvlm/bundles/"


@dataclass(frozen=True)
class Done:
    """An ended command."""

    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that says what went wrong, behind those of progress."""
        *_, last = self.stderr.splitlines()
        assert last.startswith("error: "), self.stderr
        assert sum(line.startswith("error: ") for line in self.stderr.splitlines()) == 1, self.stderr
        return last.removeprefix("error: ")


def pocketvlm(*arguments: str) -> Done:
    """Run it to its end."""
    done = CliRunner().invoke(main, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return Done(done.exit_code, done.stdout, done.stderr)


def started(*arguments: str) -> subprocess.Popen[str]:
    """It as a process of its own, which ends with these tests, even where they are killed."""
    command = [*DIES_WITH_US, sys.executable, "-m", "pocketvlm", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def doctor() -> list[dict[str, Any]]:
    """The phones that ``pocketvlm doctor`` sees."""
    done = pocketvlm("doctor", "--phones", "--json")
    assert done.status == 0, done.stderr
    phones: list[dict[str, Any]] = json.loads(done.stdout)["phones"]
    return phones


class Bench:
    """``pocketvlm bench`` of a bundle on a phone."""

    def __init__(self, bundle: Path, packages: Path, save: Path, target: str) -> None:
        self.bundle, self.packages, self.save, self.target = bundle, packages, save, target

    def of(self, target: str) -> Bench:
        """The same of another target."""
        return Bench(self.bundle, self.packages, self.save, target)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of ``pocketvlm``."""
        options = ("--target", self.target, "--runner", str(self.packages), "--save", str(self.save))
        return ("bench", str(self.bundle), *options, *WORK)

    def __call__(self, *options: str) -> Done:
        return pocketvlm(*self.arguments, *options)

    def refused(self, *options: str) -> str:
        """The line that it ends with; there is no result."""
        done = self(*options)
        assert done.status == 1, done.stderr
        assert not done.stdout
        assert not list(self.save.parent.glob("*.json"))
        return done.error
