"""Ask a real adbd what the fake phone is asked: python -m tests.device.cross_check ADBD [--record FILE].

ADBD is a folder into which Debian 13's package adbd and those that it depends on were unpacked (docs/device-runs.md).
It listens on all addresses: so all of this runs in a network of its own, as root there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from tests.device import phone as phones
from tests.device.adbd import CHROOT, mount
from tests.device.transcript import transcript

INSIDE = "POCKETVLM_CROSS_CHECK"
PORT = 5555
PROGRAM = "/usr/lib/android-sdk/platform-tools/adbd"
LIBRARIES = "/usr/lib/x86_64-linux-gnu/android"


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adbd", type=Path)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    stage = os.environ.get(INSIDE)
    if stage == "device":
        _be_the_device(options.adbd)
    if stage is None:
        command = [*phones.namespace(), "--net", sys.executable, "-m", "tests.device.cross_check", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "host"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        said = _ask_real(Path(scratch), options.adbd)
    lines = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    if options.record:
        options.record.write_text(lines, encoding="utf-8")
    else:
        sys.stdout.write(lines)


def _ask_real(scratch: Path, adbd: Path) -> list[dict[str, object]]:
    root = phones.lay_out(scratch / "root")
    shutil.copytree(adbd / "usr", root / "usr", symlinks=True)
    for name in ("lib64", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    home, here, serial = scratch / "home", scratch / "here", f"127.0.0.1:{PORT}"
    home.mkdir()
    here.mkdir()
    # What it mounts is seen by it alone: nothing that removes the root walks into this machine's /dev.
    command = [*phones.namespace(), sys.executable, "-m", "tests.device.cross_check", str(root)]
    with phones.adb_server(home) as server:
        os.environ.update(server)
        with subprocess.Popen(command, env={**os.environ, INSIDE: "device"}) as process:
            try:
                phones.plug_in(serial, server)
                return [asdict(one) for one in transcript(serial, here)]
            finally:
                process.kill()


def _be_the_device(root: Path) -> NoReturn:
    settings = {"ADBD_PORT": str(PORT), "SHELL": "/system/bin/sh", "LD_LIBRARY_PATH": LIBRARIES}
    os.execve(CHROOT, [CHROOT, str(root), PROGRAM], {**mount(root, None), **settings})


if __name__ == "__main__":
    main()
