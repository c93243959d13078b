"""Checkpoints as other versions and other people write them, read beside transformers: the same, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pocketvlm import runtime as vlm
from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle
from pocketvlm.export.read.frontend import Frontend, read_frontend
from pocketvlm.export.read.literals import render_literals
from pocketvlm.export.read.sample import Sample, encode
from pocketvlm.export.reference.stages import encode_tiles, enter_decoder, run_decoder
from pocketvlm.images.prepare import cut_tiles, normalize
from pocketvlm.models.blocks.vision import VisionTower
from pocketvlm.models.checkpoint import Checkpoint, load, open_checkpoint
from pocketvlm.models.stages import logits
from tests.soak import migrations
from tests.soak.cases import Case, Cases, Found, Limits, Setup, refusal
from tests.soak.originals import (
    DIALOGUES,
    ORIGINALS,
    TEXTS,
    TOKENS,
    Read,
    copy_of,
    picture,
    read_by_transformers,
    tower_input,
)

LIMITS = Limits(seconds=20.0, peak_bytes=3 << 30, address_bytes=24 << 30, foreign=".*")
#: Relative error (2-norm) of float32 beside float32.
MOST_ERROR = 2e-4
#: One of so many is exported.
EXPORT_EVERY, KV_LENGTH = 37, 160
#: Cases with a second change.
SECOND = 0.3
#: A line may hold a part of a template and of what it gives beside the refusal's own words.
MOST_LINE = 700


def cases(setup: Setup) -> Cases:
    """A case: one original, one change."""
    torch.set_num_threads(1)
    directory = setup.sandbox / "checkpoint"
    for name in ORIGINALS:  # and with them all that is imported, before a case's time runs
        copy_of(name, setup.sandbox, directory)

    def case(index: int) -> Case:
        random_ = setup.random("checkpoints", index)
        name = random_.choice(sorted(ORIGINALS))
        copy_of(name, setup.sandbox, directory)
        change = migrations.KINDS[index % len(migrations.KINDS)](directory, random_)
        if random_.random() < SECOND:
            change = change.then(random_.choice(migrations.EDITS)(directory, random_))
        bundle = setup.sandbox / "bundle" if index % EXPORT_EVERY == 0 else None
        return Case(f"{name}: {change.what}", lambda: judge(directory, change, bundle))

    return case


def judge(directory: Path, change: migrations.Change, bundle: Path | None = None) -> Found:
    """Both readings side by side. What transformers refuses may be read here, but nothing otherwise than it does.

    With ``bundle`` it is exported there, and the bundle's logits are looked at, too.
    """
    theirs: Read | None = None
    try:
        checkpoint = open_checkpoint(directory)
        frontend = read_frontend(checkpoint)
        # Beyond its limit an export takes no tokens.
        tokens = TOKENS[: checkpoint.config.text.positions]
        theirs = read_by_transformers(directory, tokens)
        exported = None if bundle is None or theirs.logits is None else _exported(checkpoint, bundle, tokens)
    except PocketVlmError as error:
        found = refusal(error, directory, most=MOST_LINE)
        theirs = theirs or read_by_transformers(directory)
        if theirs.refused or any(name in str(error) for name in change.names):
            return found
        return Found("wrong", f"the refusal names none of {', '.join(change.names)}: {error}")
    wrong = differences(checkpoint, frontend, theirs, tokens)
    if exported is not None and (difference := _far(exported, theirs.logits)):
        wrong.append(f"the bundle's logits: {difference}")
    if wrong:
        return Found("wrong", "; ".join(wrong))
    return Found("another", f"transformers refuses: {theirs.refused}") if theirs.refused else Found("right")


def differences(checkpoint: Checkpoint, frontend: Frontend, theirs: Read, tokens: Tensor) -> list[str]:
    """What we read otherwise than transformers, of what it read at all."""
    checks: dict[str, tuple[Any, Callable[[], str | None]]] = {
        "logits": (theirs.logits, lambda: _far(_scores(checkpoint, tokens), theirs.logits)),
        "patches": (theirs.patches, lambda: _far(_patches(checkpoint), theirs.patches)),
        "pixels": (theirs.pixels, lambda: _far(_pixels(frontend), theirs.pixels)),
        "stop tokens": (theirs.stop, lambda: _stops(frontend, theirs)),
        "texts": (theirs.texts, lambda: _ids([encode(frontend.tokenizer, text) for text in TEXTS], theirs.texts)),
        "dialogues": (theirs.dialogues, lambda: _ids(_dialogues(frontend), theirs.dialogues)),
    }
    told = ((name, None if value is None else check()) for name, (value, check) in checks.items())
    return [f"{name}: {difference}" for name, difference in told if difference]


def _far(ours: Any, theirs: Any) -> str | None:
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return f"shape {ours.shape}, not {theirs.shape}"
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return None if error < MOST_ERROR else f"relative error {error:.2g}"


def _ids(ours: list[list[int]] | None, theirs: list[list[int]] | None) -> str | None:
    return None if ours is None or ours == theirs else f"{ours} are not {theirs}"[:400]


@torch.no_grad()
def _scores(checkpoint: Checkpoint, tokens: Tensor) -> Any:
    config, read = checkpoint.config, checkpoint.tensor
    streams = enter_decoder(config, read, [Sample(None, tokens, None, 0)], encode_tiles(config, read, [None]))
    return logits(config.text, read, run_decoder(config, read, streams)[0])


def _exported(checkpoint: Checkpoint, bundle: Path, tokens: Tensor) -> Any:
    length = min(KV_LENGTH, checkpoint.config.text.positions)
    export_bundle(checkpoint, bundle, recipe="fp32", max_length=length)
    with vlm.load(bundle, threads=1) as model:
        return model.logits(tokens.tolist())


@torch.no_grad()
def _patches(checkpoint: Checkpoint) -> Any:
    vision = checkpoint.config.vision
    assert vision is not None
    return load(lambda: VisionTower(vision), checkpoint.tensor, "vision_tower.")(tower_input())


def _pixels(frontend: Frontend) -> Any:
    assert frontend.images is not None
    settings = frontend.images.preprocessing
    return normalize(cut_tiles(picture(), settings).pixels[:1], settings)


def _stops(frontend: Frontend, theirs: Read) -> str | None:
    """transformers' own, and beside them what ends a turn: the tokenizer's end, and the layout's."""
    ours, wanted = set(frontend.tokens.stop), set(theirs.stop or ())
    if not wanted:  # it would never stop
        return None
    more = {theirs.tokenizer_stop, *_behind_an_answer(frontend.tokenizer, frontend)}
    return None if wanted <= ours <= wanted | more else f"{sorted(ours)} are not {sorted(wanted)}"


def _behind_an_answer(tokenizer: Tokenizer, frontend: Frontend) -> list[int]:
    suffix = "" if frontend.chat is None else frontend.chat.roles["assistant"].suffix
    return encode(tokenizer, suffix)


def _dialogues(frontend: Frontend) -> list[list[int]] | None:
    if frontend.chat is None:
        return None
    return [encode(frontend.tokenizer, render_literals(frontend.chat, one, True)) for one in DIALOGUES]
