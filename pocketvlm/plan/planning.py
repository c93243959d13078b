"""A plan: memory and time of a model on a device, before anything is exported."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pocketvlm.errors import PocketVlmError
from pocketvlm.plan.check import Check, check_device
from pocketvlm.plan.device import UNITS, Device
from pocketvlm.plan.memory import MODES, Fit, Use, fit, memory_parts, peaks, picture_at
from pocketvlm.plan.model import DECODER, ENCODER, PlannedModel, WeightPart
from pocketvlm.plan.times import PARAMETERS, Phase, phases

SCHEMA = "pocketvlm-plan/1"
#: The paper's picture (width, height) and prompt: what a plan is made for where nothing else is asked.
IMAGE, PROMPT = (768, 1536), 2048
#: Bits a weight up to which a recipe has the INT4 decoder and the INT8 vision part of the paper, scales included.
INT4_BITS, INT8_BITS = 5.5, 9.0
#: Seconds of a token below which what a profile leaves out, starting a step, is likely to be more than the step.
SMALL_STEP = 2e-3


@dataclass(frozen=True)
class Plan:
    """All that a plan says. Bytes, seconds, tokens."""

    model: PlannedModel
    device: Device
    image: tuple[int, int] | None
    use: Use
    prompt: int
    parts: dict[str, int]
    peaks: dict[str, int]
    fits: list[Fit]
    phases: list[Phase]
    checks: list[Check]
    notes: list[str]


def make_plan(
    model: PlannedModel,
    device: Device,
    *,
    image: tuple[int, int] | None = IMAGE,
    prompt: int | None = None,
    budget: int | None = None,
) -> Plan:
    """``image``: width and height in pixels; a model that sees nothing is planned without. ``prompt``: tokens, those of
    the picture among them (default: 2,048, or the KV length where it is less). ``budget``: bytes (default: the
    device's).

    :raises PocketVlmError: the picture does not fit the prompt, or the prompt the KV cache
    """
    vision = model.vision
    picture = None if vision is None or image is None else picture_at(vision, image)
    use = Use(picture, model.kv_length)
    prompt = min(PROMPT, model.kv_length) if prompt is None else prompt
    _check_prompt(use, image, prompt)
    parts, timed = memory_parts(model, device, use), phases(model, device, use, prompt)
    budget = round(1e9 * device.memory_budget.value) if budget is None else budget
    return Plan(
        model=model,
        device=device,
        image=image if picture is not None else None,
        use=use,
        prompt=prompt,
        parts=parts,
        peaks=peaks(parts),
        fits=[fit(model, device, use, mode, budget) for mode in MODES],
        phases=timed,
        checks=check_device(device),
        notes=[*_notes(model, image), *_notes_of_speed(device, timed)],
    )


def as_dict(plan: Plan) -> dict[str, Any]:
    """For JSON, versioned: sizes in bytes, times in seconds, rates in tokens a second."""
    model, device = plan.model, plan.device
    return {
        "schema": SCHEMA,
        "model": {
            "name": model.name,
            "recipe": model.recipe,
            "weights": sum(part.weights for part in model.parts.values()),
            "bytes": model.weight_bytes,
            "tied": model.tied,
            "kv_cache": {"length": model.kv_length, "dtype": model.kv_type, "bytes_per_token": model.kv_row_bytes},
            "prefill_chunk": model.chunk,
            "tile_batch": None if model.vision is None else model.vision.batch,
        },
        "device": {
            "name": device.name,
            "description": device.description,
            "pinned": device.pinned,
            "numbers": {name: device.number(name).model_dump(mode="json") for name in UNITS},
        },
        "workload": {
            "image": plan.image,
            "picture": None if plan.use.picture is None else asdict(plan.use.picture),
            "prompt": plan.prompt,
        },
        "memory": {"parts": plan.parts, "peak": plan.peaks},
        "fits": [{**asdict(one), "spare": one.spare, "fits": one.fits} for one in plan.fits],
        "phases": [{**asdict(one), "rate": one.rate, "parameters": list(PARAMETERS[one.name])} for one in plan.phases],
        "checks": [{**asdict(one), "error": one.error, "kind": one.kind} for one in plan.checks],
        "notes": plan.notes,
    }


def _check_prompt(use: Use, image: tuple[int, int] | None, prompt: int) -> None:
    if not 0 < prompt <= use.kv_length:
        raise PocketVlmError(f"a prompt of {prompt} tokens does not fit a KV length of {use.kv_length}: make it longer")
    if use.picture is not None and image is not None and use.picture.tokens > prompt:
        raise PocketVlmError(
            f"a picture of {image[0]}x{image[1]} is {use.picture.tokens} tokens, more than the prompt's {prompt}: "
            "take a longer prompt (and KV length) or a smaller picture"
        )


def _notes(model: PlannedModel, image: tuple[int, int] | None) -> list[str]:
    """What a reader has to know of this plan in particular."""
    notes = []
    if model.vision is None and image is not None:
        notes.append("the model has no vision part: planned without a picture")
    if _bits(model.parts[DECODER]) > INT4_BITS:
        notes.append(f"the profile's rates are of INT4 decoders; this one has {_bits(model.parts[DECODER]):.1f} bits")
    if model.vision is not None and _bits(model.parts[ENCODER]) > INT8_BITS:
        notes.append(f"the profile's rates are of INT8 encoders; this one has {_bits(model.parts[ENCODER]):.1f} bits")
    if model.positions is None:
        notes.append("a bundle does not say how many positions its model has: a longer context may need another one")
    return notes


def _notes_of_speed(device: Device, timed: list[Phase]) -> list[str]:
    decode = timed[-1].seconds
    if device.step_overhead.value > 0 or decode > SMALL_STEP:
        return []
    return ["the profile knows no time that each step takes whatever its size: a model as small as this is slower"]


def _bits(part: WeightPart) -> float:
    return 8 * part.bytes / max(part.weights, 1)
