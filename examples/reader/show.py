"""Draw held-out pictures with the reader's answers, right and wrong ones as they come.

python -m examples.reader.show examples/reader/checkpoint examples/reader/examples.png
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from PIL import Image, ImageDraw, ImageFont

from examples.reader.evaluate import answers, held_out_cases, load_reader

ACROSS, CELL_WIDTH, CELL_HEIGHT = 4, 240, 270
TEXT_HEIGHT = 46
RIGHT, WRONG = "#087f23", "#c92a2a"


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seed", default="examples", show_default=True, help="Seed of the held-out pictures.")
@click.option("--pictures", type=int, default=12, show_default=True)
def main(checkpoint: Path, picture: Path, seed: str, pictures: int) -> None:
    torch.set_num_threads(1)
    cases = held_out_cases(seed, pictures)
    found = answers(load_reader(checkpoint), cases)
    sheet = Image.new("RGB", (CELL_WIDTH * ACROSS, CELL_HEIGHT * -(-pictures // ACROSS)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for number, (case, text) in enumerate(zip(cases, found, strict=True)):
        left, top = number % ACROSS * CELL_WIDTH, number // ACROSS * CELL_HEIGHT
        image = case.picture.image
        sheet.paste(
            image, (left + (CELL_WIDTH - image.width) // 2, top + (CELL_HEIGHT - TEXT_HEIGHT - image.height) // 2)
        )
        pen.text((left + 8, top + CELL_HEIGHT - 42), case.turn.question, font=font, fill="black")
        wrong = text != case.turn.answer
        shown = f"{text}   (wrong: {case.turn.answer})" if wrong else text
        pen.text((left + 8, top + CELL_HEIGHT - 24), shown, font=font, fill=WRONG if wrong else RIGHT)
    sheet.save(picture, optimize=True)


if __name__ == "__main__":
    main()
