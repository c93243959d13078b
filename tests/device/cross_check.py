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

from tests.device import phone as phones
from tests.device.adbd import mount
from tests.device.transcript import transcript

INSIDE = "POCKETVLM_CROSS_CHECK"
PORT = 5555


def main() -> None:
    """See the module's documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adbd", type=Path)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    if INSIDE not in os.environ:
        command = [*phones.namespace(), "--net", sys.executable, "-m", "tests.device.cross_check", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)
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
    environment = {
        **mount(root, None), "ADBD_PORT": str(PORT), "SHELL": "/system/bin/sh",
        "LD_LIBRARY_PATH": "/usr/lib/x86_64-linux-gnu/android",
    }  # fmt: skip
    command = ["chroot", str(root), "/usr/lib/android-sdk/platform-tools/adbd"]
    home, here = scratch / "home", scratch / "here"
    home.mkdir()
    here.mkdir()
    with phones.adb_server(home) as server, subprocess.Popen(command, env=environment) as process:
        os.environ.update(server)
        try:
            phones.plug_in(f"127.0.0.1:{PORT}", server)
            return [asdict(one) for one in transcript(f"127.0.0.1:{PORT}", here)]
        finally:
            process.kill()
            subprocess.run(["umount", "-l", str(root / "dev"), str(root / "sys"), str(root / "proc")], check=False)


if __name__ == "__main__":
    main()
