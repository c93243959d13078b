"""A bundle's prefill and decode in turns with peers: what a busy machine takes from one it takes from the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pocketvlm.bench.peers import PEERS, PeerError, PeerJob, PeerProcess, prepare_peer, shape_of
from pocketvlm.bench.report.schema import Peer, Row
from pocketvlm.bench.speed.cases import Case, measure_cases
from pocketvlm.bench.speed.process import settle
from pocketvlm.bench.speed.workload import image_name
from pocketvlm.errors import one_line

if TYPE_CHECKING:
    from pocketvlm.bench.speed.watch import Watch
    from pocketvlm.bench.speed.workload import Workload
    from pocketvlm.bundle.open import Bundle

#: Phases that a peer without tiles and without pictures of this kind has.
SHARED = ("prefill", "decode")
NO_PICTURES = "runs the text decoder alone: no tiles, no pictures"
NO_SWEEP = "takes tiles as the bundle says, in no other way"


@dataclass(frozen=True)
class MeasuredInTurns:
    """What peers gave; ``rows`` are the bundle's own and theirs, in turns."""

    rows: tuple[Row, ...]
    peers: tuple[Peer, ...]


def job_of(bundle: Bundle, workload: Workload) -> PeerJob:
    """What peers are to open.

    :raises PeerError: the manifest does not say the bundle's shape
    """
    return PeerJob(
        bundle=str(bundle.location),
        cache=workload.peers_cache,
        shape=shape_of(bundle.manifest),
        length=max(workload.tokens, 1),
        threads=workload.threads,
        kv_dtype=bundle.manifest.kv_cache.dtype,
    )


def prepare_peers(bundle: Bundle, workload: Workload, watch: Watch) -> dict[str, str]:
    """Make the files that peers need, before anything else takes memory; why those cannot run that cannot."""
    missing = {}
    for name in workload.peers:
        watch(f"preparing {PEERS[name].system}")
        try:
            prepare_peer(name, job_of(bundle, workload))
        except PeerError as error:
            missing[name] = one_line(error)
    return missing


def measure_in_turns(
    bundle: Bundle,
    own: Iterable[Case],
    workload: Workload,
    watch: Watch,
    missing: Mapping[str, str] = MappingProxyType({}),
) -> MeasuredInTurns:
    """Each case of prefill and decode, the bundle's and all peers' one after the other, as often as asked for.

    Pictures are for peers that see. Other cases are the bundle's alone. A peer that cannot be opened, ends on the way,
    or was ``missing`` when it was prepared has no numbers and says why.
    """
    job = job_of(bundle, workload)
    rows: list[Row] = []
    found: list[Peer] = []
    with ExitStack() as stack:
        running: list[PeerProcess] = []
        for name in workload.peers:
            if name in missing:
                found.append(Peer(system=PEERS[name].system, missing=missing[name]))
                continue
            watch(f"opening {PEERS[name].system}")
            try:
                process = stack.enter_context(PeerProcess(name, job))
            except PeerError as error:
                found.append(Peer(system=PEERS[name].system, missing=one_line(error)))
                continue
            running.append(process)
            rows.append(Row(name="load warm", phase="load", seconds=(process.load_seconds,), system=PEERS[name].system))
        for case in own:
            able = [process for process in running if _why_not(case, process, workload) is None]
            if not able:
                rows += measure_cases([case], workload, watch)
            else:
                watch(f"{case.name} in turns")
                rows += in_turns(case, able, workload)
            if case.phase == "image":
                rows += (_without(case, process, workload) for process in running if process not in able)
        found += map(_describe, running)
    return MeasuredInTurns(tuple(rows), tuple(found))


def in_turns(case: Case, peers: Sequence[PeerProcess], workload: Workload) -> Iterator[Row]:
    """The bundle's row and one of each peer. A peer has its warm-ups like the bundle."""
    runs: dict[str, Callable[[], float]] = {"": lambda: _timed(case.run)}
    for peer in peers:
        runs[peer.name] = lambda peer=peer: _ask(peer, case, workload)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    missing: dict[str, str] = {}
    case.set_up()
    for turn in range(workload.warmups + workload.repeats):
        for name, run in runs.items():
            if name in missing:
                continue
            try:
                spent = run()
            except PeerError as error:
                missing[name] = one_line(error)
                continue
            if turn >= workload.warmups:
                seconds[name].append(spent)
    yield Row(name=case.name, phase=case.phase, seconds=tuple(seconds[""]), tokens=case.tokens)
    for peer in peers:
        why = missing.get(peer.name)
        values = () if why else tuple(seconds[peer.name])
        yield Row(
            name=case.name,
            phase=case.phase,
            seconds=values,
            tokens=case.tokens,
            system=peer.system,
            missing=why,
        )


def _why_not(case: Case, peer: PeerProcess, workload: Workload) -> str | None:
    """Why a peer cannot run a case; None where it can."""
    if case.phase in SHARED:
        return None
    if case.phase != "image" or workload.image is None or not peer.sees_pictures:
        return NO_PICTURES
    return None if case.name == image_name(workload.image) else NO_SWEEP


def _without(case: Case, peer: PeerProcess, workload: Workload) -> Row:
    return Row(name=case.name, phase=case.phase, system=peer.system, missing=_why_not(case, peer, workload))


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    settle()
    return seconds


def _ask(peer: PeerProcess, case: Case, workload: Workload) -> float:
    if case.phase == "image":
        assert workload.image is not None
        return peer.encode_image(workload.image)
    return peer.ask("prefill" if case.phase == "prefill" else "generate", case.tokens, case.depth)


def _describe(process: PeerProcess) -> Peer:
    try:
        peak = process.peak()
    except PeerError:
        peak = None
    return Peer(system=process.system, peak=peak, **asdict(process.about))
