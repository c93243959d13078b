"""The host's end of a phone's cable: an adb server of its own, and what is plugged in there.

Every call speaks to the adb server that the environment names (the fixture ``adb_environment`` sees to it).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pocketvlm.bench.targets.adb.client import find_adb
from pocketvlm.bench.targets.adb.parsing import Attached, parse_devices
from tests.support.phone.fake import DIES_WITH_US, FakePhone
from tests.support.waiting import SECONDS, ended, until


@contextlib.contextmanager
def adb_server(home: Path) -> Iterator[dict[str, str]]:
    """An adb server that is nobody else's, and ends with these tests; the environment in which adb speaks to it.

    It listens on a socket in ``home``: no port that somebody else could take.
    """
    place = home.resolve() / "adb"
    private = {
        "ADB_SERVER_SOCKET": f"localfilesystem:{place}", "HOME": str(home), "ADB_MDNS": "0",
        "ANDROID_USER_HOME": str(home),
    }  # fmt: skip
    server = subprocess.Popen(
        [*DIES_WITH_US, find_adb().program, "server", "nodaemon"], env={**os.environ, **private},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with ended(server):
        until(lambda: listening(place) or server.poll() is not None)
        assert server.poll() is None, "adb's server does not start"
        yield private


def listening(place: Path | int) -> bool:
    """Whether somebody listens on this socket, or on this port of this machine."""
    family, address = (socket.AF_INET, ("127.0.0.1", place)) if isinstance(place, int) else (socket.AF_UNIX, str(place))
    with socket.socket(family) as tried:
        return tried.connect_ex(address) == 0


def connect(phone: FakePhone, state: str = "device") -> None:
    """Plug it in, again where it was before (adb keeps a connection that was lost), until adb sees it so."""
    plug_in(phone.serial, state)


def plug_in(serial: str, state: str = "device") -> None:
    """The same of anything that listens there."""
    _adb("disconnect", serial)

    def connected() -> tuple[Attached, ...]:
        seen = _attached()
        if serial not in [one.serial for one in seen]:
            _adb(
                "connect", serial
            )  # adb may still be busy with forgetting a connection that was lost, and this with it
            seen = _attached()
        return seen

    until(connected, lambda seen: Attached(serial, state) in seen)


def wait_for(serial: str, state: str) -> None:
    """Until adb says this of the phone, as "unauthorized"."""
    until(_attached, lambda seen: Attached(serial, state) in seen)


def disconnect(phone: FakePhone) -> None:
    """Unplug it, until adb has forgotten it."""
    _adb("disconnect", phone.serial)
    until(_attached, lambda seen: phone.serial not in [one.serial for one in seen])


def _attached() -> tuple[Attached, ...]:
    return parse_devices(_adb("devices"))


def _adb(*arguments: str) -> str:
    command = [find_adb().program, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=SECONDS).stdout
