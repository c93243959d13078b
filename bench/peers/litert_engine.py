"""pocketvlm's own LiteRT engine on the bundle's .tflite files."""

from __future__ import annotations

from contextlib import AbstractContextManager

from pocketvlm.bench.peers import PeerJob
from pocketvlm.bench.peers.own_engine import OwnEngine, check_parts, open_own

ENGINE = "litert"


def prepare(job: PeerJob) -> None:
    """:raises PeerError: the bundle has no LiteRT parts"""
    check_parts(job, ENGINE)


def open_peer(job: PeerJob) -> AbstractContextManager[OwnEngine]:
    """All of the bundle's LiteRT parts, its vision part as well.

    :raises PocketVlmError: LiteRT is not installed
    """
    return open_own(job, ENGINE)
