"""What a back end is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pocketvlm.bundle.defaults import PREFILL_CHUNK
from pocketvlm.bundle.manifest import Part, Tokens
from pocketvlm.bundle.preference import ANYWHERE, Needs
from pocketvlm.bundle.record import Fidelity, TensorPrecision
from pocketvlm.bundle.vision import Vision
from pocketvlm.errors import ExportError
from pocketvlm.export.read.sample import Sample
from pocketvlm.export.reference.kv_ranges import for_unseen_text
from pocketvlm.export.reference.stages import Reference
from pocketvlm.export.store.finished import Finished
from pocketvlm.export.store.kv_layout import FloatArray, KvLayout
from pocketvlm.export.store.weights import Calibrated
from pocketvlm.models.checkpoint import Checkpoint, ReadWeight
from pocketvlm.models.config import VlmConfig
from pocketvlm.recipe import Recipe


class Progress(Protocol):
    """Told how far a long piece of work is: ``phase`` starts one, ``advance`` counts in its unit.

    ``note`` gets what a person should know of the result, one line at a time.
    """

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, amount: int) -> None: ...

    def note(self, line: str) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass


@dataclass(frozen=True)
class Job:
    """An export under way: ``directory`` is where the parts go, ``reference`` the sample's way through the original.

    ``finished`` has what an earlier one that was killed had done. ``bos`` is the token that texts begin with, None
    where the tokenizer has none. ``split_bytes`` is how large a file of weights may be.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    directory: Path
    kv_length: int
    tokens: Tokens
    sample: Sample
    reference: Reference
    progress: Progress
    finished: Finished
    calibrated: Calibrated | None = None
    bos: int | None = None
    split_bytes: int | None = None
    vision: Vision | None = None

    def kv_layout(self, read: ReadWeight) -> KvLayout:
        """The cache; an INT8 one has the calibration's ranges, or the sample's where nothing is calibrated.

        The recipe's headroom comes on top. ``read`` gives the weights as stored.
        """
        cache = self.recipe.kv_cache
        if cache.dtype != "int8":
            return KvLayout(self.kv_length, cache.dtype)

        samples = [self.sample] if self.calibrated is None else self.calibrated.activations.samples
        tokens = sum(len(sample.token_ids) for sample in samples)

        def ranges(layer: int) -> tuple[FloatArray, FloatArray]:
            seen = None if self.calibrated is None else self.calibrated.activations.kv_ranges(layer, read)
            largest = self.reference.kv_ranges[layer] if seen is None else seen
            key, value = ((for_unseen_text(part, tokens) * cache.headroom).numpy() for part in largest)
            return key, value

        return KvLayout(self.kv_length, cache.dtype, ranges)


@dataclass(frozen=True)
class Lowered:
    """The parts that a back end wrote, the files they use and how each weight is stored in them.

    prefill_chunk: most tokens of one prefill step; minimum: the oldest version of each runtime that runs them;
    section: what else the manifest says of them, under the back end's name; format_version: the first that has it all;
    needs: what a machine needs beside ``minimum`` to run them, None where nobody is to choose them unasked.
    """

    parts: dict[str, Part]
    files: tuple[str, ...]
    precision: dict[str, TensorPrecision]
    fidelity: Fidelity
    minimum: Mapping[str, str]
    prefill_chunk: int = PREFILL_CHUNK
    section: Any = None
    format_version: int = 2
    needs: Needs | None = ANYWHERE


def prefill_chunk(job: Job) -> int:
    """Most tokens of one prefill step."""
    return job.checkpoint.config.longest_step(PREFILL_CHUNK, job.kv_length)


#: What back ends for tiles, transformers and full attention have no graphs for: whether a config has it, and its words.
BEYOND: tuple[tuple[Callable[[VlmConfig], bool], str], ...] = (
    (lambda config: config.is_native, "patches as input are"),
    (lambda config: config.text.has_local, "layers that see a window (sliding_attention) are"),
    (lambda config: config.text.is_softcapped, "scores and logits that are bounded (logit_softcapping) are"),
    (lambda config: bool(config.text.convolutions), "layers with a convolution are"),
    (lambda config: bool(config.text.states), "layers that keep a state (linear_attention) are"),
    (lambda config: config.vision is not None and config.vision.convolutions is not None,
     "a vision tower of convolutions is"),
    (lambda config: not config.text.is_uniform, "layers that read another's cache, or rows beside embeddings, are"),
    (lambda config: config.has_spans, "tokens that see what is behind them are"),
    (lambda config: config.projector == "pooled", "the mean of blocks of patches is"),
)  # fmt: skip


def refuse_beyond(checkpoint: Checkpoint, what: str) -> None:
    """That a back end is asked for nothing of ``BEYOND``.

    :raises ExportError: it is
    """
    for is_there, words in BEYOND:
        if is_there(checkpoint.config):
            raise ExportError(f"{words} not yet lowered to {what}: export with --backend onnx or executorch")
