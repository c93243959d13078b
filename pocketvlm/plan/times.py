"""How long each phase takes on a device: a roofline of bytes and operations at the rates that are reached there.

Williams, Waterman and Patterson, "Roofline" (CACM 52(4), 2009): a step takes the longer of reading its bytes and doing
its operations; here also a fixed time a step. One multiplication with its addition is two operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pocketvlm.plan.device import Device
from pocketvlm.plan.memory import Use
from pocketvlm.plan.model import DECODER, ENCODER, PATCHES, PROJECTOR, ROWS, PlannedModel, PlannedVision

Bound = Literal["storage", "memory", "operations"]

READING = ("memory_bandwidth", "bandwidth_share", "step_overhead")
#: The numbers of a profile that each phase is predicted from.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "load": ("load_bandwidth",),
    "patch embedding": ("patch_rate", "vision_rate", *READING),
    "hidden patch embedding": ("patch_rate", "vision_rate", *READING),
    "vision encoder": ("vision_rate", *READING),
    "image": ("patch_rate", "vision_rate", *READING),
    "prefill": ("prefill_rate", *READING),
    "first token": ("patch_rate", "vision_rate", "prefill_rate", *READING),
    "decode": ("prefill_rate", *READING),
    "memory": ("runtime_memory", "activation_size"),
}


@dataclass(frozen=True)
class Phase:
    """A phase: what it reads and does, what it is bound by (None where it is made of others), tokens that it is over.

    Patch embedding is that which is waited for; its bytes and operations are those of all of it.
    """

    name: str
    seconds: float
    bytes: int
    operations: int
    bound: Bound | None
    tokens: int = 0

    @property
    def rate(self) -> float | None:
        """Tokens a second; None where there are none."""
        return self.tokens / self.seconds if self.tokens and self.seconds else None


@dataclass(frozen=True)
class Pass:
    """A pass over some weights: bytes that it reads, operations that it does."""

    bytes: int
    operations: int


def phases(model: PlannedModel, device: Device, use: Use, prompt: int) -> list[Phase]:
    """Every phase: loading all files, the picture, ``prompt`` tokens with the picture's among them, one more token.

    The first token comes after picture and prompt, one after the other; a picture that was given before the question
    takes only what is left of it.
    """
    loading = Pass(model.weight_bytes - model.parts[ROWS].bytes, 0)  # (of these a row is read when its token comes)
    load = Phase("load", loading.bytes / (1e9 * device.load_bandwidth.value), loading.bytes, 0, "storage")
    picture = []
    if model.vision is not None and use.picture is not None:
        picture = picture_phases(model, device, use.tiles, use.picture.slices)
    prefill = _phase("prefill", list(prefill_steps(model, prompt)), device, device.prefill_rate.value, prompt)
    both = [*picture[-1:], prefill]
    first = Phase("first token", *_sums(both), None)
    decode = _phase("decode", [decode_step(model, prompt)], device, device.prefill_rate.value, 1)
    return [load, *picture, prefill, first, decode]


def picture_phases(model: PlannedModel, device: Device, tiles: int, slices: tuple[int, ...] = ()) -> list[Phase]:
    """Patch embedding that is waited for, that which the pipeline hides, the encoder with its projector, and the sum.

    The first batch's patches are waited for; each later batch's are embedded while the encoder runs the one before
    (arXiv 2411.10640, section 3.3), and waited for where the encoder is faster. Those of a picture's parts are each
    waited for. ``slices``: of parts of any shape the tiles of each.
    """
    assert model.vision is not None
    batches = list(slices or _batches(model.vision, tiles))
    embedding = [embedding_step(model, batch) for batch in batches]
    encoding = [encoder_step(model, batch) for batch in batches]
    embed_seconds = [step.operations / (1e12 * device.patch_rate.value) for step in embedding]
    encode_seconds = [_seconds(step, device, device.vision_rate.value)[0] for step in encoding]
    waited = embed_seconds[0]
    for encode, next_embed in zip(encode_seconds, embed_seconds[1:], strict=False):
        waited += max(next_embed - encode, 0.0)
    if model.vision.native:
        waited = sum(embed_seconds)
    hidden = max(sum(embed_seconds) - waited, 0.0)
    total = _total(embedding)
    patches = Phase("patch embedding", waited, total.bytes, total.operations, "operations")
    tokens = tiles * model.vision.tokens if model.vision.slices is None else model.vision.slices.tokens(slices)
    encoder = _phase("vision encoder", encoding, device, device.vision_rate.value, tokens)
    image = Phase("image", *_sums([patches, encoder]), None, encoder.tokens)
    return [patches, Phase("hidden patch embedding", hidden, 0, 0, "operations"), encoder, image]


def embedding_step(model: PlannedModel, tiles: int) -> Pass:
    """Patch embedding of some tiles: every patch times the convolution's weights, or a stem of several."""
    vision, part = model.vision, model.parts[PATCHES]
    assert vision is not None
    products = vision.patches * part.multiplied if vision.work is None else vision.work.embedding
    return Pass(part.bytes, 2 * tiles * products)


def encoder_step(model: PlannedModel, tiles: int) -> Pass:
    """Encoder and projector over some tiles: each patch times the encoder's matrices and each patch that it sees twice
    (scores, and values by them); each token times the projector's, of which the downsampler merges patches first."""
    vision = model.vision
    assert vision is not None
    encoder, projector = model.parts[ENCODER], model.parts[PROJECTOR]
    if vision.slices is not None:
        return Pass(encoder.bytes + projector.bytes, 2 * vision.slices.products(tiles))
    attention = 2 * vision.seen(tiles) * vision.patches * vision.width
    layers = vision.patches * encoder.multiplied + attention if vision.work is None else vision.work.encoder
    products = layers + vision.tokens * projector.multiplied
    return Pass(encoder.bytes + projector.bytes, 2 * tiles * products)


def prefill_steps(model: PlannedModel, prompt: int) -> Iterator[Pass]:
    """One step a chunk: its tokens times the decoder's matrices, and times keys and values of all tokens so far, those
    of the chunk that are masked among them. The last one's last token goes through the head."""
    for first in range(0, prompt, model.chunk):
        end = min(first + model.chunk, prompt)
        yield _text_step(model, end - first, end, 1 if end == prompt else 0)


def decode_step(model: PlannedModel, depth: int) -> Pass:
    """One token after ``depth`` others."""
    return _text_step(model, 1, depth, 1)


def _text_step(model: PlannedModel, tokens: int, total: int, logits: int) -> Pass:
    decoder, head = model.parts[DECODER], model.head
    attention = 2 * model.heads * model.attending * tokens * total
    products = tokens * (decoder.multiplied + model.state_products) + attention + logits * head.multiplied
    # A step reads the states and writes them.
    cache = total * model.attended_bytes + 2 * model.state_bytes
    return Pass(decoder.bytes + cache + logits * head.bytes, 2 * products)


def _batches(vision: PlannedVision, tiles: int) -> Iterator[int]:
    for first in range(0, tiles, vision.batch):
        yield min(vision.batch, tiles - first)


def _seconds(step: Pass, device: Device, rate: float) -> tuple[float, Bound]:
    """The roofline; ``rate`` in TOPS."""
    reading, computing = step.bytes / device.bandwidth, step.operations / (1e12 * rate)
    overhead = device.step_overhead.value
    return (reading + overhead, "memory") if reading >= computing else (computing + overhead, "operations")


def _phase(name: str, steps: list[Pass], device: Device, rate: float, tokens: int) -> Phase:
    """Steps one after the other; what most of the time is spent on is the bound."""
    timed = [_seconds(step, device, rate) for step in steps]
    seconds = sum(one for one, _ in timed)
    reading = sum(one for one, bound in timed if bound == "memory")
    total = _total(steps)
    return Phase(
        name, seconds, total.bytes, total.operations, "memory" if 2 * reading > seconds else "operations", tokens
    )


def _total(steps: list[Pass]) -> Pass:
    return Pass(sum(step.bytes for step in steps), sum(step.operations for step in steps))


def _sums(parts: list[Phase]) -> tuple[float, int, int]:
    return (
        sum(part.seconds for part in parts),
        sum(part.bytes for part in parts),
        sum(part.operations for part in parts),
    )
