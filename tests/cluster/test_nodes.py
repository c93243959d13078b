"""``--cluster`` on real nodes of Ray, processes of this machine, with fake phones: one machine's report, what is lost.

Commands are those of docs/cluster.md. Nothing waits for a time: a worker is stopped in the middle of its questions
before it, or its node, is killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from android_app.runner import dependencies
from android_app.runner.build import ABIS, PACKAGES
from pocketvlm.bench.report.schema import read_report
from pocketvlm.cluster.nodes import QUIET
from pocketvlm.scenes import held_out
from tests.cluster import demo, farm
from tests.cluster.commands import DOCUMENTED, documented, run, same, started
from tests.cluster.farm import Farm, Host, Node
from tests.device.commands import PROGRAM, WORK
from tests.runner.native import packed
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.phone import fake
from tests.support.phone.adbd import Faults
from tests.support.waiting import ended, until

SHORT = ("--questions", "24")
QUESTIONS = ("generated:test", *SHORT, "--threads", "1")
EVAL = "pocketvlm eval BUNDLE generated:test --threads 1 --cluster 127.0.0.1:6379 --save int4.json"
TUNE = "pocketvlm tune CHECKPOINT --budget-mb 400 --cluster 127.0.0.1:6379"
BENCH = "pocketvlm bench BUNDLE --cluster 127.0.0.1:6379 --target adb:all --save phone.json"
TEXT = "Tea 2.40, cake 3.10, total 5.50. Thank you for your visit, and come again soon. " * 60
EVAL_HERE = "pocketvlm eval BUNDLE generated:test --threads 1 --cluster local"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, Host, Host]]:
    """A cluster: where commands are typed, and two nodes of a CPU and a phone each."""
    assert importlib.util.find_spec("ray") is not None, "there is no ray: make setup installs it"
    dependencies.require("phone")
    lacking = fake.missing()
    assert lacking is None, lacking
    place = tmp_path_factory.mktemp("phones")
    with (
        farm.started() as cluster,
        farm.with_phone(cluster, "left", place / "left") as left,
        farm.with_phone(cluster, "right", place / "right") as right,
    ):
        left.node.ready()
        right.node.ready()
        yield cluster, left, right


@pytest.fixture(scope="module")
def cluster(hosts: tuple[Farm, Host, Host]) -> Farm:
    return hosts[0]


@pytest.fixture(scope="module")
def left(hosts: tuple[Farm, Host, Host]) -> Node:
    return hosts[1].node


@pytest.fixture(scope="module")
def bundle(reader_bundles: dict[str, Path]) -> Path:
    """Of the built-in model, which answers something."""
    return reader_bundles["int4-g128"]


@pytest.fixture(scope="module")
def alone(cluster: Farm, bundle: Path) -> dict[str, Any]:
    """The report of a single machine."""
    report: dict[str, Any] = json.loads(run(cluster, "eval", bundle, *QUESTIONS, "--json")[0])
    assert len({one["got"] for one in report["answers"]}) > 10, "answers that are all alike would hide a wrong order"
    return report


@contextmanager
def evaluating(cluster: Farm, bundle: Path, save: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """An evaluation that goes on meanwhile."""
    with ended(
        started(cluster, "eval", bundle, *QUESTIONS, "--cluster", DOCUMENTED, "--save", save, *options)
    ) as process:
        yield process


def hold_at_work(node: Node, process: subprocess.Popen[str]) -> int:
    """Stop a worker of the node in the middle of questions, which are not the first; its process id."""

    def caught() -> int | None:
        for pid, line in node.working().items():
            if "answers" in line and "answers 1-" not in line:
                os.kill(pid, signal.SIGSTOP)
                if farm.command_line(pid) == line:  # Ray names a process that has nothing to do otherwise
                    return pid
                os.kill(pid, signal.SIGCONT)
        assert process.poll() is None, process.communicate()
        return None

    pid = until(caught)
    assert pid is not None
    return pid


def result(process: subprocess.Popen[str], save: Path, status: int = 0) -> tuple[dict[str, Any], str]:
    """The report that was saved, and the last line of errors."""
    _, said = process.communicate()
    assert process.returncode == status, said
    report: dict[str, Any] = json.loads(save.read_text())
    return report, said.splitlines()[-1] if said else ""


def test_the_report_is_that_of_one_machine_digit_for_digit(
    cluster: Farm, bundle: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    shown, _ = run(cluster, *documented(EVAL, BUNDLE=bundle), *SHORT, cwd=tmp_path)
    report = json.loads((tmp_path / "int4.json").read_text())
    assert same(report) == same(alone)
    assert "answered by workers of 1 thread in " in shown
    found = report["cluster"]
    assert (found["missing"], found["retried"]) == ([], [])
    assert sum(one["questions"] for one in found["hosts"]) == 24
    assert {one["host"] for one in found["hosts"]} <= {"left", "right"}
    assert all(one["workers"] == 1 for one in found["hosts"])


def test_a_worker_that_is_killed_is_made_good(
    cluster: Farm, left: Node, bundle: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    save = tmp_path / "report.json"
    with evaluating(cluster, bundle, save) as process:
        os.kill(hold_at_work(left, process), signal.SIGKILL)
        report, _ = result(process, save)
    assert same(report) == same(alone)
    (retried,) = report["cluster"]["retried"]
    assert retried["reason"].startswith("left: ")
    assert 1 <= len(retried["questions"]) <= 4


def test_hosts_that_do_not_fit_are_named_and_one_that_is_gone_is_made_good(
    cluster: Farm, bundle: Path, reader_bundles: dict[str, Path], alone: dict[str, Any], tmp_path: Path
) -> None:
    save, lacking, another, empty = (tmp_path / name for name in ("report.json", "lacking", "another", "empty"))
    shutil.copytree(bundle, lacking)
    shutil.copytree(bundle, another)
    empty.mkdir()
    with cluster.joined("third", instead={lacking: empty, another: reader_bundles["bluelm-v-3b"]}) as third:
        third.ready()
        for path, complaint in ((lacking, "is not a bundle"), (another, "is another bundle")):
            _, line = run(cluster, "eval", path, *QUESTIONS, "--cluster", DOCUMENTED, status=1)
            assert line.startswith(f"error: third: {path} {complaint}")
            assert "left" not in line and "right" not in line
        with evaluating(cluster, bundle, save) as process:
            hold_at_work(third, process)
            third.kill()
            report, _ = result(process, save)
    assert same(report) == same(alone)
    retried = report["cluster"]["retried"]
    assert retried and all(one["reason"].startswith("third: ") for one in retried)


def test_what_nobody_is_left_to_answer_is_missing(
    cluster: Farm, bundle: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    """Workers of two threads: one host alone has the CPUs."""
    save = tmp_path / "report.json"
    with cluster.joined("large", cpus=2) as large:
        large.ready()
        with evaluating(cluster, bundle, save, "--threads", "2") as process:
            hold_at_work(large, process)
            large.kill()
            report, line = result(process, save, status=1)
    found = report["cluster"]
    lost = [number for one in found["missing"] for number in one["questions"]]
    assert line.startswith(f"error: {len(lost)} questions have no answer (number ")
    assert line.endswith("no host is left that could do it")
    assert report["questions"] + len(lost) == 24
    kept = [one for number, one in enumerate(alone["answers"], 1) if number not in lost]
    assert [one["question"] for one in report["answers"]] == [one["question"] for one in kept]


def test_this_machine_alone_is_a_cluster_too_and_a_files_pictures_are_sent(
    cluster: Farm, bundle: Path, tmp_path: Path
) -> None:
    lines = []
    for number, one in enumerate(held_out("files", 9)):
        one.image.save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "question": one.question, "answer": one.answer}))
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(lines))
    words = [*documented(EVAL_HERE, BUNDLE=bundle, **{"generated:test": data}), "--json"]
    here, _ = run(cluster, *(word for word in words if word not in ("--cluster", "local")))
    there, _ = run(cluster, *words)
    assert same(json.loads(there)) == same(json.loads(here))


def test_nodes_listen_on_this_machine_alone(cluster: Farm, left: Node) -> None:
    assert QUIET["RAY_USAGE_STATS_ENABLED"] == "0"
    inodes = {
        socket
        for pid in farm.family(cluster.head.process.pid) + farm.family(left.process.pid)
        for socket in sockets(pid)
    }
    heard = [address for address, inode in listening() if inode in inodes]
    assert heard
    assert set(heard) <= {"0100007F", "0000000000000000FFFF00000100007F"}, "127.0.0.1, of either version"


def sockets(pid: int) -> set[str]:
    """Inodes of a process' sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listening() -> Iterator[tuple[str, str]]:
    """Addresses that something listens on by TCP, as the kernel writes them, and the socket's inode."""
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[1].partition(":")[0], fields[9]


def test_an_address_where_nobody_is(cluster: Farm, bundle: Path) -> None:
    _, line = run(cluster, "eval", bundle, *QUESTIONS, "--cluster", f"127.0.0.1:{farm.free_port()}", status=1)
    assert "no cluster answers at 127.0.0.1:" in line
    _, line = run(cluster, "eval", bundle, *QUESTIONS, "--cluster", "nowhere", status=2)
    assert "is neither HOST:PORT nor local" in line


# --- tune, bench ------------------------------------------------------------------------------------------------------


def test_the_recipe_is_that_of_one_machine(cluster: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reads, text = tmp_path / "reads", tmp_path / "text.txt"
    write_checkpoint(reads, tiny_config("qwen2", vision=False, tie_word_embeddings=False))
    text.write_text(TEXT, encoding="utf-8")
    words = documented(TUNE, CHECKPOINT=reads)
    found = []
    for name, command in (("alone", words[:-2]), ("together", words)):
        recipe = tmp_path / f"{name}.toml"
        options = ("--calibration", text, "--sequences", "8", "--points", "2", "-o", recipe)
        report = json.loads(run(cluster, *command, *options, "--json")[0])
        assert report.pop("recipe_file") == str(recipe)
        found.append((json.dumps(report), recipe.read_bytes()))
    assert found[0] == found[1]


@pytest.fixture(scope="module")
def packages() -> Path:
    if platform.machine() != "x86_64":
        pytest.skip("the fake emulator is one of x86-64")
    packed(ABIS["x86_64"])
    return PACKAGES


def test_the_demo_measures_two_phones_at_once(
    hosts: tuple[Farm, Host, Host],
    tiny_bundles: dict[str, Path],
    packages: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert demo.show(hosts[0], tiny_bundles["bluelm-v-3b"], tmp_path / "phone.json") == 0
    out = capfd.readouterr().out
    *_, table = out.split("phone ")
    assert "left" in table and "right" in table and "pp16" in table
    reports = [read_report(path) for path in tmp_path.glob("phone-*.json")]
    assert sorted((report.host, report.target) for report in reports) == [
        (host.node.name, f"adb:{host.phone.serial}") for host in hosts[1:]
    ]


def test_a_phone_that_is_pulled_out_is_missing_and_the_other_is_measured(
    hosts: tuple[Farm, Host, Host], tiny_bundles: dict[str, Path], packages: Path, tmp_path: Path
) -> None:
    cluster, kept, pulled = hosts[0], hosts[1].phone, hosts[2].phone
    bundle, options = tiny_bundles["bluelm-v-3b"], ("--runner", packages, *WORK)
    _, line = run(cluster, *documented(BENCH, BUNDLE=bundle, **{"adb:all": "adb:nobody"}), *options, status=1)
    assert line.startswith("error: nobody is on no host of the cluster; phones there: ")
    assert f"{kept.serial} on left" in line and f"{pulled.serial} on right" in line
    words = [*documented(BENCH, BUNDLE=bundle), *map(str, options), "-r", "20"]
    with ended(started(cluster, *words, cwd=tmp_path)) as process:
        until(lambda: pulled.runs(PROGRAM) or process.poll() is not None)
        pulled.inject(Faults(answered=False))
        out, said = process.communicate()
    assert process.returncode == 1, said
    pulled.inject(Faults())
    assert pulled.left_running() == []
    hosts[2].plug_in()
    *_, line = said.splitlines()
    assert line.startswith(f"error: 1 of 2 phones failed: right: {pulled.serial} ")
    assert "missing: right: " in out
    (saved,) = tmp_path.glob("phone-*.json")
    report = read_report(saved)
    assert (report.host, report.target) == ("left", f"adb:{kept.serial}")
    assert saved.name == f"phone-left-{kept.serial.replace(':', '-')}.json"
    assert report.agreement is not None
    assert report.agreement.holds
