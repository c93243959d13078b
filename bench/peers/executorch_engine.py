"""pocketvlm's own ExecuTorch engine on the bundle's program."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pocketvlm.bench.peers import PeerJob
from pocketvlm.bench.peers.own_engine import OwnEngine, check_parts, open_own
from pocketvlm.runtime.engines.executorch_library import load_library

ENGINE = "executorch"


def prepare(job: PeerJob) -> None:
    """
    :raises PeerError: the bundle has no program
    :raises PocketVlmError: ExecuTorch is not installed, or its C interface cannot be compiled
    """
    check_parts(job, ENGINE)
    load_library()  # compiled at the first use


def open_peer(job: PeerJob) -> AbstractContextManager[OwnEngine]:
    """All of the bundle's program, its vision part as well."""
    return open_own(job, ENGINE)
