"""What the tests of families that see share: a family's bundle, questions about pictures, what transformers answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.errors import ExportError
from pocketvlm.export import export_bundle
from pocketvlm.images.open import MAX_PIXELS, open_image
from pocketvlm.runtime import GenerationConfig, PocketVlm
from pocketvlm.runtime.chat import image_tokens
from studies.reader.parity import ids_of as joined
from tests.images.test_tiles import noise
from tests.support.once import once
from tests.support.portable_plans import SIZES, sizes_of
from tests.support.vision_families import WRITERS
from tests.support.written_family import Written

KV_LENGTH = 512
TOLERANCE = 1e-4
#: Pictures of other shapes; the last is smaller than a patch.
PICTURES = tuple(noise(*size, seed=size[0]) for size in ((50, 30), (30, 64), (41, 40), (3, 2)))


@dataclass(frozen=True)
class Exported:
    """A checkpoint of transformers' and its bundle for each engine, of exact weights."""

    written: Written
    bundle: Bundle

    def refuses(self, backend: str, directory: Path) -> bool:
        """Whether a back end refuses the family, which it then does by name and before any work."""
        if backend in self.written.engines:
            return False
        layers = "layers that (keep a state|see a window) .*"
        others = "patches as input|tower of convolutions|tokens that see what is behind them"
        words = f"({others}|{layers}) (are|is) not yet lowered to"
        with pytest.raises(ExportError, match=words):
            export_bundle(self.written.directory, directory / "refused", recipe="fp32", backends=[backend])
        return True


def exported(family: str, own: Path, shared: Path) -> Exported:
    """A family's checkpoint, written into ``own``, and its bundle, exported once a run. Read only."""
    written = WRITERS[family](own / "checkpoint")

    def make(root: Path) -> None:
        export_bundle(written.directory, root / "bundle", recipe="fp32", backends=written.engines, max_length=KV_LENGTH)

    return Exported(written, open_bundle(once(shared / f"family-{family}", make) / "bundle"))


def small_sizes(written: Written) -> list[tuple[int, int]]:
    """Those that the family's rule takes: of none more than MAX_PIXELS are made, of which the middle is a tile."""
    whole = written.is_native or written.is_in_parts or written.is_sliced or written.is_in_blocks
    sizes = sizes_of("smart-resize") if whole else SIZES
    small = [size for size in sizes if size[0] * size[1] < 200_000]
    return [size for size in small if max(size) / min(size) * written.tile**2 < MAX_PIXELS]


# --- Questions --------------------------------------------------------------------------------------------------------


Messages = list[dict[str, Any]]
#: What transformers calls each token's kind, 1 for those of pictures.
KINDS = {"mm_token_type_ids", "token_type_ids"}


def said(role: str, *parts: str | int) -> dict[str, Any]:
    """A message of texts and of pictures by their number."""
    return {
        "role": role,
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": PICTURES[part]}
            for part in parts
        ],
    }


DIALOGUES: dict[str, Messages] = {
    "first": [said("user", 0, "What is the total?")],
    "last": [said("user", "What is\nthis: ", 1)],
    "between": [said("user", "the \n", 2, "\n\nthe 42 ")],
    "two": [said("user", 0, 1, "the same? ")],
    "two apart": [said("user", 0, " the ", 1, "\n")],
    "three": [said("user", 3, 2, "the", 0)],
    "none": [said("user", "the\n\n answer: 7 ")],
    "system": [said("system", "the short: "), said("user", 1, "\nthe?")],
    "second turn": [said("user", "the"), said("assistant", " he \n"), said("user", 3, "the 1")],
    "both turns": [said("user", 3, "the"), said("assistant", "he"), said("user", "\nthe ", 2), said("assistant", "\n"),
                   said("user", "the")],
}  # fmt: skip


def pictures_of(messages: Messages) -> list[Image.Image]:
    return [part["image"] for message in messages for part in message["content"] if part["type"] == "image"]


def processed(written: Written, messages: Messages) -> dict[str, torch.Tensor]:
    """What transformers' processor makes of messages: input_ids [1, tokens], and its pictures."""
    if written.single_turn:
        return _asked_once(written, messages)
    shown = [
        {
            **message,
            "content": [{key: value for key, value in part.items() if key != "image"} for part in message["content"]],
        }
        for message in messages
    ]
    text = written.processor.apply_chat_template(shown, add_generation_prompt=True)
    images = pictures_of(messages)
    nested = images if written.one_by_one else [images]
    begun = text.startswith(written.processor.tokenizer.bos_token or "<none>")  # as apply_chat_template asks itself
    inputs = written.processor(
        text=[text], images=nested if images else None, return_tensors="pt", add_special_tokens=not begun
    )
    if written.is_native:  # which tokens are of pictures: positions along three axes follow from it
        inputs["mm_token_type_ids"] = torch.eq(inputs["input_ids"], written.model.config.image_token_id).int()
    return {key: value for key, value in inputs.items() if key != "attention_mask"}


def _asked_once(written: Written, messages: Messages) -> dict[str, torch.Tensor]:
    """The same of one question to a model without a template, whose processor wants a picture."""
    (message,), images = messages, pictures_of(messages)
    text = "".join(part["text"] for part in message["content"] if part["type"] == "text")
    if not images:
        ids = written.processor.tokenizer(f"{written.processor.tokenizer.bos_token}{text}\n", return_tensors="pt")
        return {"input_ids": ids["input_ids"], "token_type_ids": torch.zeros_like(ids["input_ids"])}
    prompt = written.processor.image_token * len(images) + text
    inputs = written.processor(text=[prompt], images=[images], return_tensors="np")  # of PyTorch's its code warns
    return {key: torch.from_numpy(inputs[key]) for key in ("input_ids", "token_type_ids", "pixel_values")}


def conversation(vlm: PocketVlm, messages: Messages, folder: Path) -> list[str]:
    """The lines of a question: the tokens around its pictures, and those."""
    prompt = vlm.build_prompt(messages)
    ids, of = prompt.token_ids.tolist(), prompt.picture_index.tolist()
    folder.mkdir(parents=True, exist_ok=True)
    lines, at = list[str](), 0
    for index, picture in enumerate(prompt.pictures):
        placed, _ = image_tokens(picture, vlm.manifest, index)
        first = of.index(index)
        start = first - placed.tolist().index(vlm.manifest.tokens.image)
        if start > at:
            lines.append(f"tokens {joined(ids[at:start])}")
        rgba = open_image(pictures_of(messages)[index]).convert("RGBA")
        path = folder / f"{len(lines)}.rgba"
        path.write_bytes(rgba.tobytes())
        lines.append(f"image {path} {rgba.width} {rgba.height}")
        at = start + len(placed)
    return [*lines, f"tokens {joined(ids[at:])}"]


# --- Answers ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def features_of(written: Written, inputs: dict[str, torch.Tensor]) -> npt.NDArray[np.float32]:
    """transformers' image tokens of a prompt's pictures, float32 [tokens, hidden]."""
    pictures = {key: value for key, value in inputs.items() if key not in ("input_ids", *KINDS)}
    given = written.model.get_image_features(**pictures)
    deep = getattr(given, "deepstack_features", None) or ()  # rows for the decoder's first layers, beside each token
    rows = [torch.cat(list(pictures)) for pictures in (given.pooler_output, *deep)]
    found: npt.NDArray[np.float32] = torch.cat(rows, dim=-1).numpy()
    return found


def distance(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)) if found.shape == wanted.shape else np.inf


@torch.no_grad()
def greedy(written: Written, messages: Messages, count: int) -> list[int]:
    """The next tokens, each the most likely after all before, computed anew without a cache."""
    inputs = processed(written, messages)
    ids = inputs.pop("input_ids")
    start = ids.shape[1]
    for _ in range(count):
        logits = written.model(input_ids=ids, **inputs).logits[0, -1]
        ids = torch.cat([ids, logits.argmax()[None, None]], dim=1)
        for key in inputs.keys() & KINDS:  # a token of text is 0, where a prompt sees itself one of the answer is 1
            inputs[key] = torch.nn.functional.pad(inputs[key], (0, 1), value=int(written.single_turn))
    return ids[0, start:].tolist()


def twenty(vlm: PocketVlm, messages: Messages) -> list[int]:
    pieces = list(vlm.stream(messages, config=GenerationConfig(max_new_tokens=20)))
    return [piece.token_id for piece in pieces]


def before_the_end(one: Exported, tokens: Sequence[int]) -> list[int]:
    """Up to the first that ends an answer, which is among them."""
    stops = [index + 1 for index, token in enumerate(tokens) if token in one.bundle.manifest.tokens.stop]
    return list(tokens[: min(stops, default=len(tokens))])


# --- Faults -----------------------------------------------------------------------------------------------------------


#: What could be wrong in a manifest.
FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "the same prefix before a picture": lambda raw: raw["chat"]["roles"]["user"].pop("prefix_with_image", None),
    "the last row ends as the others": lambda raw: raw["image_layout"].pop("last_row_end", None),
    "no text before the thumbnail": lambda raw: raw["image_layout"].update(thumbnail=[]),
    "no text in front": lambda raw: raw["image_layout"].update(image_start=[]),
    "no text behind": lambda raw: raw["image_layout"].update(image_end=[]),
    "rows and columns change places": lambda raw: raw["image_layout"].update(
        tile=[list(row) for row in zip(*raw["image_layout"]["tile"], strict=True)]
    ),
    "the thumbnail comes first": lambda raw: raw["vision"].get("patches") or raw["vision"].update(thumbnail="first"),
    "the tower's angles are others": lambda raw: (
        raw["vision"]["patches"].update(rope_theta=100.0) if "rope_theta" in raw["vision"].get("patches", {}) else None
    ),
    "pictures are larger": lambda raw: (
        raw["vision"].update(min_pixels=3000) if raw["vision"]["strategy"] == "smart-resize" else None
    ),
    "images are numbered from 1": lambda raw: (
        raw["image_layout"].update(numbers=raw["image_layout"]["numbers"][1:])
        if "numbers" in raw["image_layout"]
        else None
    ),
    "a tile's tokens have no end": lambda raw: raw["image_layout"].pop("tile_end", None),
    "the thumbnail's tokens have no end": lambda raw: raw["image_layout"].pop("thumbnail_end", None),
    "nothing between an image and a text": lambda raw: raw["chat"].pop("between", None),
    "nothing behind the images": lambda raw: raw["chat"].pop("behind_images", None),
    "slices are smaller": lambda raw: (
        raw["vision"].update(min_pixels=400, max_pixels=400) if raw["vision"]["strategy"] == "minicpmv" else None
    ),
    "parts are smaller": lambda raw: raw["vision"].get("part") and raw["vision"].update(part=3),
    "parts come in columns": lambda raw: raw["vision"].get("part") and raw["vision"].update(candidates=[[2, 1]]),
    "another filter": lambda raw: raw["vision"].update(
        resize_filter={"bicubic": "lanczos", "lanczos": "bicubic", "bilinear": "bicubic"}[
            raw["vision"]["resize_filter"]
        ]
    ),
    "a square of another colour": lambda raw: (
        raw["vision"].update(pad_color=[9, 9, 9]) if raw["vision"]["strategy"] == "pad-square" else None
    ),
    "the middle alone": lambda raw: (
        raw["vision"].update(strategy="center-crop") if raw["vision"]["strategy"] == "pad-square" else None
    ),
    "padding is kept": lambda raw: raw["vision"].get("packing") and raw["vision"].update(pad_color=[9, 9, 9]),
    "no token ends a row": lambda raw: raw["vision"].pop("packing", None),
    "all tokens are kept": lambda raw: raw["vision"].get("packing", {}).pop("most_tiles", None),
    "pictures where people put them": lambda raw: (
        raw["chat"].update(images_first=False) if raw["chat"].get("images_first") else None
    ),
    "another normalization": lambda raw: raw["vision"].update(mean=[0.5, 0.5, 0.51]),
}
