"""The fake phone with the real adb: what it says must be what a phone would say, or the other tests prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm.bench.targets.adb import client
from pocketvlm.bench.targets.adb.client import Adb
from pocketvlm.errors import DeviceError
from tests.support.phone import cable, fake
from tests.support.phone.adbd import Faults
from tests.support.phone.fake import FakePhone
from tests.support.waiting import SECONDS, ended, until, until_equal

REMOTE = "/data/local/tmp/file"


def run_adb(adb: Adb, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(adb.command(*arguments), capture_output=True, check=False, timeout=SECONDS)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.sampled_from([0, 1, 65535, 65536, 65537, 1 << 20]) | st.integers(0, 3 << 20), seed=st.integers(0, 255))
def test_a_file_comes_back(adb: Adb, tmp_path: Path, size: int, seed: int) -> None:
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(bytes([seed]) * (size // 2) + os.urandom(size - size // 2))
    client.push(adb, local, REMOTE)
    client.pull(adb, REMOTE, back, size)
    assert back.read_bytes() == local.read_bytes()
    assert client.shell(adb, f"stat -c %s {REMOTE}") == (str(size), 0)


def test_a_tree_is_pushed_and_listed(adb: Adb, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "ümlaut $x").write_text("text")
    assert run_adb(adb, "push", str(tree), "/data/local/tmp/").returncode == 0
    assert b"mlaut" in run_adb(adb, "ls", "/data/local/tmp/tree/inner").stdout
    assert run_adb(adb, "pull", "/data/local/tmp/tree", str(tmp_path / "copy")).returncode == 0
    assert (tmp_path / "copy" / "inner" / "ümlaut $x").read_text() == "text"


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_exit_statuses_arrive(adb: Adb, status: int) -> None:
    done = run_adb(adb, "shell", f"echo out; echo err >&2; exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"out\n", b"err\n")
    assert client.shell(adb, f"(exit {status})")[1] == status


def test_much_output_from_several_shells(adb: Adb) -> None:
    """20 MB each, which no pipe and no window holds."""
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(run_adb, adb, "exec-out", "yes 0123456789 | head -c 20000000") for _ in range(3)]
        assert {len(one.result().stdout) for one in found} == {20_000_000}


def test_stdin_reaches_a_command(adb: Adb) -> None:
    done = subprocess.run(
        adb.command("shell", "cat"), input=b"typed", capture_output=True, check=False, timeout=SECONDS
    )
    assert done.stdout == b"typed"


@contextmanager
def open_shell(adb: Adb, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has said "here", and is ended at the end."""
    with ended(
        subprocess.Popen(adb.command("shell", command), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"here\n"
        yield shell


def wait_for(phone: FakePhone, *wanted: str) -> None:
    """Until this runs on the phone, and nothing else."""
    until_equal(lambda: sorted(phone.running()), sorted(wanted))


@pytest.mark.parametrize("how", ["client", "cable"])
def test_a_host_that_goes_away_is_heard_of_by_the_shell_alone(phone: FakePhone, adb: Adb, how: str) -> None:
    """As on a phone: what the shell started is told nothing, it sees at most that its output leads nowhere."""
    with open_shell(adb, "sleep 1001 & sleep 1000 >&2 & echo here; wait; echo never") as shell:
        until(phone.running, lambda lines: {"sleep 1000", "sleep 1001"} < set(lines) and len(lines) == 3)
        if how == "client":
            shell.kill()
        else:
            phone.inject(Faults(answered=False))
        wait_for(phone, "sleep 1000", "sleep 1001")
    phone.kill("sleep 100")
    assert phone.running() == []
    phone.inject(Faults())
    cable.connect(phone)


def test_a_writer_whose_host_goes_away_ends(phone: FakePhone, adb: Adb) -> None:
    with open_shell(adb, "(sleep 0.2; yes) & echo here; wait"):
        assert phone.running()
    assert phone.left_running() == []


def test_detached_processes_are_seen(phone: FakePhone, adb: Adb) -> None:
    """And can be ended: a runner that left its session, and its parents, would be one of them."""
    detach = "setsid sleep 1001 </dev/null >/dev/null 2>&1 &", "nohup sleep 1002 </dev/null >/dev/null 2>&1 &"
    client.shell(adb, f"{' '.join(detach)} true")
    client.shell(adb, "(setsid sh -c 'sleep 1003 & exec true' &) </dev/null >/dev/null 2>&1")
    wait_for(phone, "sleep 1001", "sleep 1002", "sleep 1003")
    phone.kill("sleep 100")
    assert phone.running() == []


def test_links_lead_within_the_phone(phone: FakePhone, adb: Adb, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("the host's")
    client.tell(adb, f"ln -s {outside} /data/local/tmp/out && ln -s / /data/local/tmp/root", "")
    with pytest.raises(DeviceError, match="cannot be pulled"):
        client.pull(adb, "/data/local/tmp/out", tmp_path / "back", 100)
    client.push(adb, Path(__file__), "/data/local/tmp/out")
    client.push(adb, Path(__file__), "/data/local/tmp/root/data/pushed")
    assert outside.read_text() == "the host's"
    assert (phone.root / "data" / "pushed").read_bytes() == Path(__file__).read_bytes()


HOLDER = """
import os, sys, time
from pathlib import Path
from tests.support.phone import cable, fake
home = Path(sys.argv[1])
with cable.adb_server(home) as environment, fake.switched_on(home) as made:
    os.environ.update(environment)
    cable.connect(made)
    print(made.port, flush=True)
    time.sleep(1000)
"""


def test_nothing_outlives_tests_that_are_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(fake.ROOT)}
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=fake.ROOT, env=environment)) as holder:
        assert holder.stdout is not None
        places: list[Path | int] = [tmp_path / "adb", int(holder.stdout.readline())]
        assert all(map(cable.listening, places))
        holder.kill()
    until(lambda: not any(map(cable.listening, places)))


def test_a_file_system_of_its_own(phone: FakePhone, adb: Adb) -> None:
    """Commands see the phone alone, its answers are those that were set."""
    assert client.ask(adb, "ls /").split() == ["answers", "bin", "data", "dev", "proc", "sys", "system"]
    phone.set_properties(ro__soc__model="MT6989")
    assert client.ask(adb, "getprop ro.soc.model") == "MT6989"
    assert "[ro.soc.model]: [MT6989]" in client.ask(adb, "getprop")
    phone.set_battery(level=12, temperature=44.4)
    assert "level: 12" in client.ask(adb, "dumpsys battery")
    assert "444" in client.ask(adb, "dumpsys battery")


# --- What goes wrong --------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(8 << 20))
    return path


def test_a_cable_pulled_in_a_push(phone: FakePhone, adb: Adb, large: Path) -> None:
    phone.inject(Faults(drop_push=3 << 20))
    with pytest.raises(DeviceError, match="cannot be pushed"):
        client.push(adb, large, REMOTE)
    phone.inject(Faults())
    cable.connect(phone)
    assert client.shell(adb, f"ls {REMOTE}*")[1] != 0
    client.push(adb, large, REMOTE)


def test_a_cable_pulled_in_a_pull(phone: FakePhone, adb: Adb, large: Path, tmp_path: Path) -> None:
    client.push(adb, large, REMOTE)
    phone.inject(Faults(drop_pull=3 << 20))
    with pytest.raises(DeviceError, match="cannot be pulled"):
        client.pull(adb, REMOTE, tmp_path / "back", 8 << 20)
    cable.connect(phone)


def test_a_cable_pulled_in_a_run(phone: FakePhone, adb: Adb) -> None:
    phone.inject(Faults(drop_output=1 << 20))
    with pytest.raises(DeviceError, match="went away in the middle"):
        list(client.lines(adb, "yes", 20))
    cable.connect(phone)


def test_no_space_and_a_file_cut_off(phone: FakePhone, adb: Adb, large: Path) -> None:
    phone.inject(Faults(space=3 << 20))
    with pytest.raises(DeviceError, match="No space left on device"):
        client.push(adb, large, REMOTE)
    phone.inject(Faults(cut_files=100))
    client.push(adb, large, REMOTE)
    assert client.shell(adb, f"stat -c %s {REMOTE}") == (str((8 << 20) - 100), 0)


def test_a_command_that_never_answers(phone: FakePhone, adb: Adb) -> None:
    phone.inject(Faults(hang_on="getprop"))
    with pytest.raises(DeviceError, match="does not answer"):
        client.shell(adb, "getprop", 1)
    assert client.shell(adb, "true") == ("", 0)


def test_a_program_that_is_killed(phone: FakePhone, adb: Adb) -> None:
    with ThreadPoolExecutor(1) as pool:
        shell = pool.submit(client.shell, adb, "sleep 1000")
        phone.kill("sleep 1000")
        assert shell.result()[1] in (137, 255)
