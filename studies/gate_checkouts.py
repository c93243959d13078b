"""Does ``make bench-gate`` run each checkout's own code, and leave equal ones in peace on a busy machine?

python -m studies.gate_checkouts --output bench/results/gate-checkouts.json

Copies of this checkout: one that cannot be imported, one whose engine spends a millisecond more in each step (as the
base and as the new one), and an equal one while other tasks keep all cores busy. What the gate said, by exit status.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pocketvlm.bench.gate.compare import compare_interleaved
from pocketvlm.bench.gate.gate import DEFAULT, load_gate
from pocketvlm.bench.gate.interleaved import read_interleaved
from studies.reader.study import provenance, write

ROOT = Path(__file__).parents[1]
#: What the gate needs of a checkout.
ROOMS = ("pocketvlm", "bench", "runtime", "quant", "export", "studies", "examples")
STEP = "    def step(self, embeddings: Floats, cache: Cache, keep: int) -> Floats:\n"
#: On the CPU, so that other work does not hide it.
BUSY = """
        import time
        ends = time.thread_time() + {seconds}
        while time.thread_time() < ends: pass
"""
OPTIONS = ("--image", "none", "-p", "64", "-n", "16", "-t", "1")
#: The default gate, which ends after so many pairs.
MOST_PAIRS = 40


def copy_checkout(directory: Path) -> Path:
    """A checkout whose code is this one's."""
    leave = shutil.ignore_patterns("__pycache__", "results", "*.html", "*.png")
    for room in ROOMS:
        shutil.copytree(ROOT / room, directory / room, symlinks=True, ignore=leave)
    return directory


def plant(checkout: Path, seconds: float) -> Path:
    """Let each step of a checkout's engine take so much longer."""
    engine = checkout / "runtime" / "engines" / "onnx.py"
    head, line, body = engine.read_text().partition(STEP)
    assert line, f"{engine} has no step"
    engine.write_text(head + line + BUSY.format(seconds=seconds) + body)
    return checkout


def gate(base: Path, new: Path, cache: Path) -> dict[str, Any]:
    """What ``make bench-gate BASE=base`` says in the checkout ``new``: exit status, and verdicts of what was timed."""
    saved = cache / "gate.json"
    saved.unlink(missing_ok=True)
    bounds = cache / "gate.toml"
    bounds.write_text(DEFAULT.read_text().replace("most = 320", f"most = {MOST_PAIRS}"))
    command = [sys.executable, "-m", "studies.bench", "--cache", str(cache), "gate", "--base", str(base), "--"]
    command += [*OPTIONS, "--gate", str(bounds)]
    done = subprocess.run(command, cwd=new, capture_output=True, text=True, check=False)
    if not saved.is_file():
        return {"status": done.returncode, "said": done.stderr.strip().splitlines()[-1].replace(str(base), "BASE")}
    measured, held = read_interleaved(saved), load_gate(bounds)
    timed = [one for one in compare_interleaved(measured, held).findings if one.unit == "s"]
    return {
        "status": done.returncode,
        "verdicts": {one.metric: f"{one.verdict}{'' if one.gated else ', not gated'}" for one in timed},
        "ratios": {one.metric: one.ratio for one in timed},
        "waited": {row.name: row.waiting for row in measured.rows},
    }


@contextmanager
def busy(tasks: int) -> Iterator[None]:
    """So many other tasks run meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(tasks)]
    try:
        yield
    finally:
        for task in running:
            task.kill()
            task.wait()


@click.command(help=__doc__)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="The report, JSON.")
@click.option("--trials", default=5, show_default=True, help="Of equal checkouts on a busy machine.")
@click.option("--tasks", default=13, show_default=True, help="That keep it busy.")
@click.option("--planted", default=0.001, show_default=True, help="Seconds more of each step.")
def main(output: Path, trials: int, tasks: int, planted: float) -> None:
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place)
        equal, slow, broken = (copy_checkout(cache / name) for name in ("equal", "slow", "broken"))
        plant(slow, planted)
        (broken / "pocketvlm" / "__init__.py").write_text("raise RuntimeError('this base cannot be imported')\n")
        found = {
            "base cannot be imported": [gate(broken, ROOT, cache)],
            "planted in the new one": [gate(equal, slow, cache)],
            "planted in the base": [gate(slow, equal, cache)],
        }
        with busy(tasks):
            found[f"equal, {tasks} other tasks"] = [gate(equal, ROOT, cache) for _ in range(trials)]
    about = provenance(f"python -m studies.gate_checkouts --trials {trials} --tasks {tasks} --planted {planted}", 1)
    write({**about, "found": found}, output)
    for what, results in found.items():
        verdicts = Counter(verdict for one in results for verdict in one.get("verdicts", {}).values())
        statuses = Counter(one["status"] for one in results)
        click.echo(f"{what}: exit status {dict(statuses)}; {dict(verdicts) or results[0]['said']}")


if __name__ == "__main__":
    main()
