"""Ask a real adbd what the fake phone is asked: python -m tests.device.cross_check [--record FILE].

It is Debian 13's, downloaded by apt-get and started with its own C library. It listens on all addresses: so all of this
runs in a network of its own, as root there. What it said once is in adbd-34.json, to which ``test_transcript`` holds
the fake.
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

from android_app.runner import dependencies
from tests.device.transcript import transcript
from tests.support.phone import cable, fake
from tests.support.phone.adbd import CHROOT, mount

ITSELF = (sys.executable, "-m", "tests.device.cross_check")
PORT = 5555
PACKAGES = """
adbd android-libbase android-libboringssl android-libcutils android-liblog libbrotli1 libbsd0 libc6 libcap2 libgcc-s1
liblz4-1 libmd0 libprotobuf32t64 libstdc++6 libsystemd0 libxxhash0 libzstd1 zlib1g
"""
PROGRAM = "/usr/lib/android-sdk/platform-tools/adbd"
LIBRARIES = "/usr/lib/x86_64-linux-gnu/android"


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FILE", help="write it there, not on stdout")
    parser.add_argument("--as", dest="part", choices=["host", "device"], help=argparse.SUPPRESS)
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "device":
        _be_the_device(options.at)
    if options.part is None:
        with tempfile.TemporaryDirectory() as scratch:
            unpacked = dependencies.debian(Path(scratch), *PACKAGES.split())
            record = [] if options.record is None else ["--record", str(options.record)]
            command = [*ITSELF, "--as", "host", "--at", str(unpacked), *record]
            done = subprocess.run([*fake.namespace(), "--net", *command], check=False)
        sys.exit(done.returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as scratch:
        said = _ask_real(Path(scratch), options.at)
    lines = json.dumps(said, indent=1, ensure_ascii=False) + "\n"
    if options.record:
        options.record.write_text(lines, encoding="utf-8")
    else:
        sys.stdout.write(lines)


def _ask_real(scratch: Path, adbd: Path) -> list[dict[str, object]]:
    root = fake.lay_out(scratch / "root")
    shutil.copytree(adbd / "usr", root / "usr", symlinks=True)
    for name in ("lib64", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    home, here, serial = scratch / "home", scratch / "here", f"127.0.0.1:{PORT}"
    home.mkdir()
    here.mkdir()
    # What it mounts is seen by it alone: nothing that removes the root walks into this machine's /dev.
    command = [*fake.namespace(), *ITSELF, "--as", "device", "--at", str(root)]
    with cable.adb_server(home) as server:
        os.environ.update(server)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                cable.plug_in(serial)
                return [asdict(one) for one in transcript(serial, here)]
            finally:
                process.kill()


def _be_the_device(root: Path) -> NoReturn:
    settings = {"ADBD_PORT": str(PORT), "SHELL": "/system/bin/sh", "LD_LIBRARY_PATH": LIBRARIES}
    os.execve(CHROOT, [CHROOT, str(root), PROGRAM], {**mount(root, None), **settings})


if __name__ == "__main__":
    main()
