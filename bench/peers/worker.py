"""A peer's process, requests and answers by lines: python -m pocketvlm.bench.peers.worker NAME JOB [prepare]."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import IO, Any

import numpy as np

from pocketvlm.bench.peers import ONLY_PREPARE, PEERS, AskedAhead, OpenPeer, PeerJob, PeerModule, SeesPictures
from pocketvlm.bench.speed.process import answers_of_this_process, settle, write_answer
from pocketvlm.errors import one_line
from pocketvlm.runtime.memory import peak_rss_bytes

SEED = 0


def serve(peer: OpenPeer, job: PeerJob, requests: IO[str], answers: IO[str]) -> None:
    """Do what each line asks, until there are no more."""
    for line in requests:
        request = json.loads(line)
        if request["what"] == "peak":
            write_answer(answers, {"bytes": peak_rss_bytes()})
            continue
        run = _prepared(peer, job, request)
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        settle()
        write_answer(answers, {"seconds": seconds})


def _prepared(peer: OpenPeer, job: PeerJob, request: Mapping[str, Any]) -> Callable[[], None]:
    """What is to be timed, with the KV cache as it begins with."""
    if request["what"] == "image":
        assert isinstance(peer, SeesPictures)
        return partial(peer.encode_image, tuple(request["size"]))
    tokens, depth = request["tokens"], request["depth"]
    ids = np.random.default_rng(SEED).integers(0, job.shape.vocab_size, tokens + depth)
    if isinstance(peer, AskedAhead):
        peer.expect(request["what"], tokens)
    peer.start(ids[:depth])
    return partial(peer.prefill if request["what"] == "prefill" else peer.generate, ids[depth:])


def main(name: str, raw_job: str, *only: str) -> None:
    """Open the peer, say so, and serve; or only prepare what it needs."""
    answers = answers_of_this_process()
    job = PeerJob.from_dict(json.loads(raw_job))
    try:
        module: Any = importlib.import_module(PEERS[name].module)
        peer_module: PeerModule = module
        peer_module.prepare(job)
        if only == (ONLY_PREPARE,):
            write_answer(answers, {})
            return
        start = time.perf_counter()
        with peer_module.open_peer(job) as peer:
            seconds, sees_pictures = time.perf_counter() - start, isinstance(peer, SeesPictures)
            write_answer(answers, {"about": asdict(peer.about), "seconds": seconds, "sees_pictures": sees_pictures})
            serve(peer, job, sys.stdin, answers)
    except Exception as error:  # noqa: BLE001 - whatever a foreign library raises is said on one line
        write_answer(answers, {"error": f"{type(error).__name__}: {one_line(error)}"})


if __name__ == "__main__":
    main(*sys.argv[1:])
