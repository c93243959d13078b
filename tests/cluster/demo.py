"""`make farm-demo`: a cluster of two nodes on this machine with a fake phone each, measured by one command."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from android_app.runner import dependencies
from android_app.runner.build import ABIS, PACKAGES
from tests.cluster import farm
from tests.cluster.farm import Farm
from tests.device.commands import WORK
from tests.runner.native import packed
from tests.support.phone import fake


def main(bundle: Path) -> int:
    """The exit status is that of the command that measures."""
    dependencies.require("phone")
    lacking = fake.missing()
    if lacking is not None:
        sys.stderr.write(f"error: {lacking}\n")
        return 1
    packed(ABIS["x86_64"])
    with (
        tempfile.TemporaryDirectory() as directory,
        farm.started() as cluster,
        farm.with_phone(cluster, "left", Path(directory, "left")) as left,
        farm.with_phone(cluster, "right", Path(directory, "right")) as right,
    ):
        left.node.ready()
        right.node.ready()
        return show(cluster, bundle, Path(directory, "phone.json"))


def show(cluster: Farm, bundle: Path, save: Path) -> int:
    """Type the commands that a user would; their output goes where this process' goes."""
    measure = ["bench", str(bundle), "--cluster", cluster.address, "--target", "adb:all", *WORK]
    for words in (["cluster", "show", cluster.address], [*measure, "--runner", str(PACKAGES), "--save", str(save)]):
        sys.stdout.write(f"$ pocketvlm {' '.join(words)}\n")
        sys.stdout.flush()
        command = [sys.executable, "-m", "pocketvlm", *words]
        done = subprocess.run(command, env={**os.environ, **cluster.environment}, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
