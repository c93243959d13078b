"""An adb program without a device, for tests of what pocketvlm does with one: python fake_adb.py -s SERIAL VERB ...

The folder $FAKE_PHONE is the phone: commands run in this machine's shell with /data/local/tmp below it, its bin/ first
on the PATH. ``fault.json`` there breaks things: {"verb": ..., "matching": text, "how": ...} for calls whose arguments
have that text, "after": so many of them that go well before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PHONE = Path(os.environ["FAKE_PHONE"])
TEMPORARY = "/data/local/tmp"


def here(path: str) -> str:
    return path.replace(TEMPORARY, f"{PHONE}{TEMPORARY}")


def fault(verb: str, arguments: str) -> str | None:
    """How this call is to go wrong."""
    place = PHONE / "fault.json"
    if not place.exists():
        return None
    said = json.loads(place.read_text())
    if said["verb"] != verb or said["matching"] not in arguments:
        return None
    if said.get("after", 0):
        place.write_text(json.dumps({**said, "after": said["after"] - 1}))
        return None
    if said.get("once"):
        place.unlink()
    return str(said["how"])


def shell(command: str) -> int:
    how = fault("shell", command)
    if how == "hang":
        time.sleep(60)
    if how == "gone":  # as adb 29
        sys.stdout.write("something\n")
        return 0
    if how == "fail":
        command = 'false; echo "__rc=$?"'
    environment = {"PATH": f"{PHONE}/bin:{os.environ['PATH']}", "HOME": "/"}
    return subprocess.run(["/bin/sh", "-c", here(command)], env=environment, check=False).returncode


def push(local: str, remote: str) -> int:
    how = fault("push", f"{local} {remote}")
    if how == "cut":
        content = Path(local).read_bytes()
        Path(here(remote)).write_bytes(content[: len(content) // 2])
        sys.stderr.write(f"adb: error: failed to copy '{local}' to '{remote}': device offline\n")
        return 1
    if how == "no space":
        sys.stderr.write(f"adb: error: failed to copy '{local}' to '{remote}': no space left on device\n")
        return 1
    content = Path(local).read_bytes()
    if how == "damage":
        content = content[:-1] + bytes([content[-1] ^ 1])
    Path(here(remote)).write_bytes(content)
    with (PHONE / "pushed").open("a") as log:
        log.write(f"{remote} {len(content)}\n")
    return 0


def main(arguments: list[str]) -> int:
    if arguments[0] == "-s":
        arguments = arguments[2:]
    verb, *rest = arguments
    if verb == "version":
        sys.stdout.write("Android Debug Bridge version 1.0.41\nVersion 0.0.0-fake\n")
    elif verb == "devices":
        sys.stdout.write("List of devices attached\n" + (PHONE / "devices").read_text())
    elif verb == "shell":
        return shell(rest[0])
    elif verb == "push":
        return push(*rest)
    elif verb == "pull":
        shutil.copyfile(here(rest[0]), rest[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
