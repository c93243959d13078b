"""Real servers: processes of `pocketvlm serve` on 127.0.0.1, asked by OpenAI's own client and by bare sockets."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pocketvlm.bundle.open import read_manifest, write_manifest
from pocketvlm.runtime import PocketVlm, load
from tests.support.bundles import picture
from tests.support.tools import LAYOUT
from tests.support.waiting import ended, until_equal

REPOSITORY = Path(__file__).resolve().parents[2]
#: A model that takes its time: half a minute for an answer that nobody ends.
SLOW = """
import time
from pocketvlm.runtime.decoding import Decoding
after = Decoding.after
Decoding.after = lambda *arguments: (time.sleep(0.05), after(*arguments))[1]
"""


@dataclass(frozen=True)
class Served:
    """A server that can be asked."""

    process: subprocess.Popen[str]
    port: int
    key: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def client(self, key: str | None = None) -> Any:
        """OpenAI's client, which does not try again by itself. (Its types know OpenAI's models alone.)"""
        return openai.OpenAI(base_url=self.url, api_key=key or self.key or "none", max_retries=0, timeout=100)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=100)

    def raw(self, request: bytes) -> bytes:
        """What is replied to bytes, until the server closes the connection."""
        with closing(self.connect()) as connection:
            connection.sendall(request)
            return rest(connection)

    def metric(self, name: str, **labels: str) -> int:
        """A value of /metrics, 0 where there is none yet."""
        head = (
            f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.key}\r\nConnection: close\r\n\r\n"
        )
        reply = self.raw(head.encode())
        first, _, body = reply.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200"), reply
        samples = (one for family in text_string_to_metric_families(body.decode()) for one in family.samples)
        name = f"pocketvlm_{name}"
        return int(sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items()))

    def until_busy(self, count: int) -> None:
        """Wait until so many requests are answered now or wait."""
        until_equal(lambda: self.metric("requests_running") + self.metric("requests_waiting"), count)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


Start = Callable[..., Served]


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Starts servers that end with the run. ``before``: a line of Python that the process runs first."""
    with ExitStack() as stack:

        def begin(bundle: Path, *options: str | Path, before: str = "", key: str | None = None) -> Served:
            arguments = ["serve", str(bundle), "--port", "0", "--threads", "1", *map(str, options)]
            code = f"{before}\nfrom pocketvlm.cli import main\nmain({arguments!r}, prog_name='pocketvlm')"
            environment = {**os.environ, **({"POCKETVLM_API_KEY": key} if key else {})}
            process = subprocess.Popen(
                [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(ended(process))
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.fullmatch(r"serving .* at http://127\.0\.0\.1:([0-9]+)/v1 \(Ctrl-C ends it\)\n", said)
            assert found is not None, said + process.stderr.read()
            return Served(process, int(found[1]), key)

        yield begin


@pytest.fixture(scope="session")
def bundle(tiny_bundles: dict[str, Path]) -> Path:
    """Random weights, which say a variety of tokens when they are sampled, and never stop by themselves."""
    return tiny_bundles["int4-g32"]


@pytest.fixture(scope="session")
def with_tools(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same random weights, with a chat layout that has tools."""
    path = tmp_path_factory.mktemp("tools") / "bundle"
    shutil.copytree(bundle, path)
    manifest = read_manifest(path)
    assert manifest.chat is not None
    chat = manifest.chat.model_copy(update={"tools": LAYOUT})
    write_manifest(path, manifest.model_copy(update={"chat": chat, "format_version": 5}))
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with pictures, and beside it one that is nobody's business."""
    directory = tmp_path_factory.mktemp("served") / "pictures"
    (directory / "below").mkdir(parents=True)
    picture(140, 70, seed=1).save(directory / "wide.png")
    picture(140, 70).save(directory / "receipt.png")
    picture(70, 140, seed=2).save(directory / "below" / "tall picture.png")
    picture(70, 70, seed=3).save(directory.parent / "secret.png")
    return directory


@pytest.fixture(scope="session")
def served(start: Start, bundle: Path, pictures: Path) -> Served:
    """One server for all tests that leave it as it was."""
    return start(bundle, "--images", pictures)


@pytest.fixture(scope="session")
def tooled(start: Start, with_tools: Path) -> Served:
    """One whose model takes tools."""
    return start(with_tools)


@pytest.fixture(scope="session")
def slow(start: Start, bundle: Path) -> Served:
    """One that takes its time, has little room and no pictures."""
    return start(bundle, "--queue", "1", "--max-body-mb", "0.1", before=SLOW)


@pytest.fixture(scope="session")
def locked(start: Start, bundle: Path) -> Served:
    """One whose key is "the key"."""
    return start(bundle, key="the key")


@pytest.fixture(scope="session")
def vlm(bundle: Path) -> Iterator[PocketVlm]:
    """The same bundle here, for what has to be answered."""
    with load(bundle, threads=1) as vlm:
        yield vlm


@pytest.fixture(scope="session")
def model(with_tools: Path) -> Iterator[PocketVlm]:
    """That with tools here."""
    with load(with_tools, threads=1) as vlm:
        yield vlm
