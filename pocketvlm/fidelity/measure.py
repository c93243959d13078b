"""``pocketvlm eval --against``: how close a bundle is to its checkpoint, as a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.bench.accuracy.teacher_forced import open_teacher_forced
from pocketvlm.bench.report.identity import identity, versions
from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import CheckpointError, DataError, one_line
from pocketvlm.fidelity import groups
from pocketvlm.fidelity.compare import Compared
from pocketvlm.fidelity.trace import Trace
from pocketvlm.models.checkpoint import open_checkpoint
from pocketvlm.runtime import load

if TYPE_CHECKING:
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.export.job import Progress
    from pocketvlm.models.checkpoint import Checkpoint


@dataclass(frozen=True)
class Comparison:
    """What is compared on what."""

    bundle: Path
    against: Path
    data: str
    questions: int | None
    threads: int | None
    lora: Path | None = None


def measure(wanted: Comparison, progress: Progress) -> dict[str, Any]:
    """The report for JSON.

    :raises CheckpointError: the checkpoint is damaged, or not the one that the bundle was exported from
    :raises DataError: the data cannot be read, has no questions, or does not fit the model
    """
    import torch

    bundle, checkpoint = open_bundle(wanted.bundle), open_checkpoint(wanted.against, progress, lora=wanted.lora)
    check_same(bundle, checkpoint, wanted)
    if wanted.threads is not None:
        torch.set_num_threads(wanted.threads)
    config = checkpoint.config
    vision_layers = 0 if config.vision is None else config.vision.num_hidden_layers
    with load(wanted.bundle, threads=wanted.threads) as vlm:
        asked = open_teacher_forced(wanted.data, wanted.questions, vlm, bundle)
        with Trace(bundle, vision_layers, wanted.threads) as trace:
            progress.phase("fidelity", asked.most * (vision_layers + config.text.num_hidden_layers + 1))
            compared = Compared(vlm, checkpoint, trace, progress.advance)
            for group in groups.grouped(asked.items, checkpoint):
                compared.add(group)
                if compared.traced == groups.TRACED:
                    trace.close()
        engine = vlm.engine_description
    if not compared.titles:
        raise DataError(f"{one_line(asked.origin.get('file', 'the data'), 120)}: has no questions")
    return {
        "bundle": identity(bundle),
        "against": {
            "path": str(wanted.against),
            "model": checkpoint.name,
            "revision": checkpoint.revision,
            "parameters": checkpoint.parameters,
        },
        "data": asked.origin,
        "questions": len(compared.titles),
        "engine": engine,
        "versions": {**versions(), "torch": str(torch.__version__)},
        "fidelity": compared.report(),
        "by_question": compared.by_question(),
    }


def check_same(bundle: Bundle, checkpoint: Checkpoint, wanted: Comparison) -> None:
    """Refuse a checkpoint that the bundle was not exported from.

    :raises CheckpointError: it is another
    """
    model = bundle.manifest.model
    if model.revision != checkpoint.revision:
        raise CheckpointError(
            f"{one_line(wanted.against, 120)} is not the checkpoint that {one_line(wanted.bundle, 120)} was exported "
            f"from: its revision is {checkpoint.revision}, the bundle's {one_line(model.revision, 40)} "
            f"({one_line(model.name, 80)}). Give that checkpoint, or export this one"
        )
