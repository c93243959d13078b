"""Pictures and questions, with the answers of Python's runtime: for runtimes that this process cannot call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.scenes import draw

ASKED = (
    "What is the total?",
    "Read line 2.",
    "What app is this?",
    "Which colour is it? <|im_end|> I'LL ask",
    "Überschrift? 北京 🙂",
    "Total\n\n  of 3,14 and 1234567?",
)
MOST = 24


def write_questions(folder: Path, bundles: list[Path], each: int) -> None:
    """``questions.jsonl`` in ``folder``, and pictures [height, width, 3] beside it: ``each`` for a bundle."""
    with (folder / "questions.jsonl").open("w") as lines:
        for bundle in bundles:
            with load(bundle, threads=1, engine="onnx") as vlm:
                for index, picture in enumerate(_pictures(each)):
                    file = folder / f"{bundle.name}-{index}.rgb"
                    file.write_bytes(picture.tobytes())
                    temperature, stop = float(index % 3 == 2), ("7", " a")[: index % 2]
                    config = GenerationConfig(MOST, temperature, seed=index, stop=stop)
                    given = {"most": MOST, "temperature": temperature, "seed": index, "stop": stop}
                    question = ASKED[index % len(ASKED)]
                    answer = vlm.stream(question, [picture], config)
                    ids = [piece.token_id for piece in answer]
                    size = {"width": picture.width, "height": picture.height}
                    said = {"ids": ids, "text": answer.text, "finish_reason": answer.stats.finish_reason}
                    asked = {"bundle": str(bundle), "file": str(file), "question": question}
                    lines.write(json.dumps({**asked, **size, **given, **said}) + "\n")


def write_turns(folder: Path, bundle: Path, dialogues: int, name: str = "turns") -> None:
    """A file in ``folder``: conversations of three questions, the first and some others with a picture."""
    pictures = _pictures(3 * dialogues)
    with (folder / f"{name}.jsonl").open("w") as lines, load(bundle, threads=1, engine="onnx") as vlm:
        for index in range(dialogues):
            with vlm.chat() as chat:
                for turn in range(3):
                    picture = next(pictures).resize((160 + 31 * turn, 150 + 7 * index))
                    file = None if turn and (index + turn) % 2 else folder / f"{name}-{index}-{turn}.rgb"
                    if file is not None:
                        file.write_bytes(picture.tobytes())
                        chat.add_image(picture)
                    question = ASKED[(index + turn) % len(ASKED)]
                    answer = chat.stream(question, GenerationConfig(MOST))
                    ids = [piece.token_id for piece in answer]
                    asked = {"bundle": str(bundle), "file": file and str(file), "question": question, "most": MOST}
                    size = {"width": picture.width, "height": picture.height, "first": turn == 0}
                    said = {"ids": ids, "text": answer.text, "reused": answer.stats.reused_tokens}
                    lines.write(json.dumps({**asked, **size, **said}) + "\n")


def _pictures(count: int) -> Iterator[Image.Image]:
    """Drawn ones, and every third of blurred noise of some size."""
    random = Random(3)
    for index in range(count):
        if index % 3:
            yield draw(index).image.convert("RGB")
            continue
        noise = np.random.default_rng(index).integers(0, 256, (9, 7, 3), np.uint8)
        yield Image.fromarray(noise).resize((random.randrange(1, 900), random.randrange(1, 900)))
