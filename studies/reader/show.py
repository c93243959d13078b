"""Draw held-out pictures with a bundle's answers, right and wrong ones as they come.

python -m studies.reader.show dist/android/reader-gptq-g32 studies/reader/examples.png
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

from pocketvlm.runtime import load
from pocketvlm.scenes import Example, held_out

ACROSS, CELL_WIDTH, CELL_HEIGHT = 4, 300, 240
#: a picture keeps its size; larger ones are made smaller to fit here, pixels
LARGEST = (280, 150)
#: of an answer's line
LETTERS_ACROSS = 44
RIGHT, WRONG = "#087f23", "#c92a2a"


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seed", default="examples", show_default=True, help="Seed of the held-out pictures.")
@click.option("--pictures", default=16, show_default=True, type=click.IntRange(min=1))
def main(bundle: Path, picture: Path, seed: str, pictures: int) -> None:
    examples = list(held_out(seed, pictures))
    with load(bundle) as vlm:
        answers = [vlm.stream(example.question, images=[example.image]).read() for example in examples]
    sheet = Image.new("RGB", (CELL_WIDTH * ACROSS, CELL_HEIGHT * -(-pictures // ACROSS)), "white")
    for number, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        _cell(sheet, number % ACROSS * CELL_WIDTH, number // ACROSS * CELL_HEIGHT, example, answer)
    sheet.save(picture, optimize=True)


def _cell(sheet: Image.Image, left: int, top: int, example: Example, answer: str) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    image = example.image.copy()
    image.thumbnail(LARGEST)
    sheet.paste(image, (left + (CELL_WIDTH - image.width) // 2, top + 8 + (LARGEST[1] - image.height) // 2))
    pen.text((left + 10, top + CELL_HEIGHT - 76), example.question, font=font, fill="black")
    is_right = answer == example.answer
    shown = answer if is_right else f"{answer}   (right: {example.answer})"
    text = textwrap.fill(shown.replace("\n", " / "), LETTERS_ACROSS)
    pen.text((left + 10, top + CELL_HEIGHT - 58), text, font=font, fill=RIGHT if is_right else WRONG)


if __name__ == "__main__":
    main()
