"""Bundles that lead outside of themselves: by names, by links, by where a graph says that its weights lie."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from pocketvlm.bundle.open import MANIFEST, describe_files
from tests.soak.damage import Expectation, Ground, Kind, Mutation, archive, repair

#: The files outside are the bundle's own, so that one that is read gives an answer, which is then wrong.
OUTSIDE = "outside"
WEIGHTS = "text.data"


@dataclass(frozen=True)
class Escape:
    """What is done to the directory, and what load must do with it; ``archived``: as an archive of what is left."""

    expect: Expectation
    change: Callable[[Ground], object]
    archived: bool = False


def escaped(ground: Ground) -> Mutation:
    """The escapes below, one after the other."""
    names = list(ESCAPES)
    name = names[ground.turn % len(names)]
    escape = ESCAPES[name]
    outside = ground.folder / OUTSIDE
    shutil.copytree(ground.original.path, outside)
    escape.change(ground)
    location = archive(ground) if escape.archived else ground.bundle
    return Mutation(f"escape: {name}", location, escape.expect)


def _raw(ground: Ground) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((ground.bundle / MANIFEST).read_text())
    return raw


def _renamed(name: str) -> Callable[[Ground], object]:
    """The manifest calls the weights of the text ``name``, in all places."""

    def change(ground: Ground) -> None:
        text = (ground.bundle / MANIFEST).read_text()
        target = name.format(outside=ground.folder / OUTSIDE)
        (ground.bundle / MANIFEST).write_text(text.replace(f'"{WEIGHTS}"', json.dumps(target)))
        (ground.bundle / WEIGHTS).unlink()

    return change


def _linked(name: str, target: str) -> Callable[[Ground], object]:
    """A file of the bundle is a link."""

    def change(ground: Ground) -> None:
        path = ground.bundle / name
        path.rename(ground.bundle / "moved")
        path.symlink_to(target.format(outside=ground.folder / OUTSIDE, name=name))

    return change


def _linked_bundle(ground: Ground) -> None:
    """The whole bundle is a link, which is the user's own doing."""
    ground.bundle.rename(ground.folder / "elsewhere")
    ground.bundle.symlink_to(ground.folder / "elsewhere")


def _hard_link(ground: Ground) -> None:
    (ground.bundle / WEIGHTS).unlink()
    os.link(ground.folder / OUTSIDE / WEIGHTS, ground.bundle / WEIGHTS)


def _special(make: Callable[[Path], object], name: str = WEIGHTS) -> Callable[[Ground], object]:
    def change(ground: Ground) -> None:
        (ground.bundle / name).unlink()
        make(ground.bundle / name)

    return change


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _relocated(
    location: str, *, listed: str | None = None, link: str | None = None, keep: bool = False
) -> Callable[[Ground], object]:
    """The text's graphs say that their weights lie at ``location``; the manifest lists ``listed`` instead of them.

    A copy of the weights lies in the working directory as cwd.data.
    """

    def change(ground: Ground) -> None:
        outside = ground.folder / OUTSIDE
        shutil.copy(outside / WEIGHTS, Path.cwd() / "cwd.data")
        raw = _raw(ground)
        place = location.format(outside=outside, up=os.path.relpath(outside, Path.cwd()))
        for part in raw["engines"]["onnx"].values():
            if WEIGHTS in part["data"]:
                _relocate(ground.bundle / part["file"], place)
                part["data"] = [] if listed is None else [listed]
        del raw["files"][WEIGHTS]
        if listed is not None:
            (ground.bundle / WEIGHTS).rename(ground.bundle / listed)
            raw["files"][listed] = describe_files(ground.bundle, [listed])[listed].model_dump()
        elif not keep:
            (ground.bundle / WEIGHTS).unlink()
        if link is not None:
            (ground.bundle / place).symlink_to(link.format(outside=outside))
        (ground.bundle / MANIFEST).write_text(json.dumps(raw))
        repair(ground.bundle)

    return change


def _relocate(path: Path, place: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = place
    path.write_bytes(model.SerializeToString())


ESCAPES: dict[str, Escape] = {
    "a name with ..": Escape("refused", _renamed("../outside/text.data")),
    "an absolute name": Escape("refused", _renamed("{outside}/text.data")),
    "a name that goes down and up": Escape("refused", _renamed("a/../../outside/text.data")),
    "a name with a backslash": Escape("refused", _renamed("..\\outside\\text.data")),
    "a link to a file outside": Escape("refused", _linked(WEIGHTS, "../outside/{name}")),
    "an absolute link": Escape("refused", _linked(WEIGHTS, "{outside}/{name}")),
    "a link inside": Escape("refused", _linked(WEIGHTS, "moved")),
    "a link to itself": Escape("refused", _linked(WEIGHTS, WEIGHTS)),
    "a graph that is a link": Escape("refused", _linked("text_decoder.onnx", "../outside/{name}")),
    "a tokenizer that is a link": Escape("refused", _linked("tokenizer.json", "../outside/{name}")),
    "a manifest that is a link": Escape("refused", _linked(MANIFEST, "../outside/{name}")),
    "a manifest that is a link to a device": Escape("refused", _linked(MANIFEST, "/dev/zero")),
    "a manifest that is a link to a process's memory": Escape("refused", _linked(MANIFEST, "/proc/self/mem")),
    "a bundle that is a link": Escape("same", _linked_bundle),
    "a hard link": Escape("same", _hard_link),
    "weights that are a pipe": Escape("refused", _special(os.mkfifo)),
    "weights that are a folder": Escape("refused", _special(Path.mkdir)),
    "weights that are a socket": Escape("refused", _special(_socket)),
    "a manifest that is a pipe": Escape("refused", _special(os.mkfifo, MANIFEST)),
    "a manifest that is a folder": Escape("refused", _special(Path.mkdir, MANIFEST)),
    "no such bundle": Escape("refused", lambda ground: shutil.rmtree(ground.bundle)),
    "a graph's weights outside": Escape("refused", _relocated("../outside/text.data")),
    "a graph's weights at an absolute path": Escape("refused", _relocated("{outside}/text.data")),
    "a graph's weights behind a link": Escape("refused", _relocated("link.data", link="{outside}/text.data")),
    "a graph's weights not listed": Escape("refused", _relocated(WEIGHTS, keep=True)),
    "a graph's weights under another name": Escape("refused", _relocated(WEIGHTS, listed="other.data")),
    "a graph's weights as listed, renamed": Escape("same", _relocated("other.data", listed="other.data")),
    "an archived graph's weights in the working directory": Escape("refused", _relocated("cwd.data"), archived=True),
    "an archived graph's weights outside": Escape("refused", _relocated("{up}/text.data"), archived=True),
    "an archived graph's weights at an absolute path": Escape("refused", _relocated("{outside}/text.data"), True),
    "an archived graph's weights as listed, renamed": Escape("same", _relocated("o.data", listed="o.data"), True),
}

KINDS: tuple[Kind, ...] = (escaped,)
