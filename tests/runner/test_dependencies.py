"""What the runner is compiled with: where this system's packages come from is read from apt's own lists."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from android_app.runner import dependencies
from android_app.runner.dependencies import mirror_in

PLACE = "http://mirror.example/debian"
STANZA = f"Types: deb\n# http://snapshot.example\nURIs: {PLACE}\nSuites: bookworm\nComponents: main\n"


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (f"deb {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/usr/share/keyrings/a.gpg] {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/usr/share/keyrings/a.gpg arch=amd64] {PLACE} trixie main contrib", PLACE),
        (f"deb [ arch=amd64,arm64 signed-by=/a/b.gpg ] {PLACE} trixie main # mirror", PLACE),
        (f"deb [arch=amd64 trusted=yes]{PLACE} trixie main", PLACE),
        (
            f"# deb http://old.example trixie main\ndeb-src http://src.example sid main\n\tdeb\t{PLACE} sid main",
            PLACE,
        ),
        (f"deb cdrom:[Debian GNU/Linux 12]/ bookworm main\ndeb {PLACE} trixie main", PLACE),
        (f"deb [signed-by=/a/b.gpg] https://other.example/linux bookworm stable\ndeb {PLACE} trixie main", PLACE),
        ("deb mirror+file:/etc/apt/mirrors/debian.list bookworm main", "mirror+file:/etc/apt/mirrors/debian.list"),
        (STANZA, PLACE),
        (STANZA.replace("URIs: ", "URIs:\n  "), PLACE),
        (STANZA.replace(PLACE, f"{PLACE} http://second.example/debian"), PLACE),
        (STANZA.replace(PLACE, "http://off.example") + "Enabled: no\n\n" + STANZA, PLACE),
        (STANZA.replace("Types: deb", "Types: deb-src"), None),
        ("deb [signed-by=/a/b.gpg", None),
        ("deb", None),
        ("", None),
    ],
)
def test_the_first_place_of_the_systems_own_packages(sources: str, wanted: str | None) -> None:
    assert mirror_in(sources) == wanted


APT_GET = """#!/bin/sh
echo "begin $*" >> "$0.log"
while [ "$(grep -c . "$0.$WAITS_FOR")" -lt 2 ]; do :; done
echo end >> "$0.log"
"""


@pytest.mark.parametrize("locks", [True, False])
def test_two_that_install_packages_wait_for_one_another(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dpkg refuses the second, as two workers of the tests saw on a new machine."""
    program = tmp_path / "apt-get"
    program.write_text(APT_GET)
    program.chmod(0o755)
    # No package is installed before both are asked for; without the lock, before both programs run.
    monkeypatch.setenv("WAITS_FOR", "asked" if locks else "log")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(dependencies, "APT", tmp_path / "lock")
    if not locks:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)

    def install(package: str) -> None:
        with program.with_suffix(".asked").open("a") as file:
            file.write(f"{package}\n")
        dependencies._install([package])

    threads = [threading.Thread(target=install, args=(package,)) for package in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words = [line.split()[0] for line in program.with_suffix(".log").read_text().splitlines()]
    assert len(words) == 8
    assert (words == ["begin", "end"] * 4) == locks
