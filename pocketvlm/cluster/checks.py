"""That the hosts of a cluster fit one another: their code, and what lies at the same path on each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pocketvlm.cluster import nodes
from pocketvlm.cluster.nodes import Host
from pocketvlm.errors import BundleError, ClusterError, PocketVlmError, one_line


def check_all(where: Sequence[Host], check: Callable[[], str | None]) -> None:
    """That the hosts have this code and these versions, and that ``check``, called on each, finds nothing wrong.

    :raises ClusterError: naming each host that does not fit, and why
    """
    here = environment()
    references = [(host, nodes.submit(host, "pocketvlm: check", partial(_checked, check), {})) for host in where]
    wrong = []
    for host, reference in references:
        value, error = nodes.outcome(reference)
        if error is not None:
            wrong.append(f"{host.name}: {nodes.said(error)}")
            continue
        there, complaint = value
        differ = [f"{name} {there.get(name)}, here {here[name]}" for name in here if there.get(name) != here[name]]
        complaint = f"has {', '.join(differ)}" if differ else complaint
        if complaint is not None:
            wrong.append(f"{host.name}: {complaint}")
    if wrong:
        raise ClusterError("; ".join(wrong))


def _checked(check: Callable[[], str | None]) -> tuple[dict[str, str], str | None]:
    try:
        return environment(), check()
    except PocketVlmError as error:
        return environment(), str(error)


def environment() -> dict[str, str]:
    """What decides about answers beside the bundle and the CPU: versions, and the commit of a checkout."""
    from pocketvlm.bench.report.identity import commit, versions

    return {**versions(), "commit": commit() or "none (installed)"}


def digest(bundle: Path) -> str:
    """SHA-256 of a bundle's manifest, which has those of all its files.

    :raises BundleError: it is damaged
    """
    from pocketvlm.bundle.open import MANIFEST, open_bundle

    return hashlib.sha256(open_bundle(bundle).read(MANIFEST)).hexdigest()


def check_bundle(bundle: Path, wanted: str) -> str | None:
    """What is wrong with this host's copy, every byte read, on one line; None where nothing is."""
    from pocketvlm.bundle.open import open_bundle

    try:
        check_same(bundle, wanted)
        open_bundle(bundle, verify=True)
    except BundleError as error:
        return f"{one_line(error)}. Each host needs the same bundle at this path: a shared folder, or a copy"
    return None


def check_same(bundle: Path, wanted: str) -> None:
    """That it is the bundle of this digest; its files are sampled.

    :raises BundleError: it is damaged, or another
    """
    if (found := digest(bundle)) != wanted:
        raise BundleError(f"{bundle} is another bundle (its manifest's digest is {found[:12]}, not {wanted[:12]})")
