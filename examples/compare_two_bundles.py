"""Two bundles of one model asked the same drawn questions in turns: how often each is right, how fast, how large.

python examples/compare_two_bundles.py build/int8 build/int4 --questions 100

`pocketvlm eval --baseline` and `pocketvlm bench --interleave` say it with intervals.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from pocketvlm.bundle.open import open_bundle
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import load
from pocketvlm.scenes import held_out


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundles", nargs=2)
    options.add_argument("--questions", type=int, default=20)
    options.add_argument("--seed", default="compare", help="the same seed draws the same pictures")
    given = options.parse_args()
    names: list[str] = given.bundles
    right: list[list[bool]] = [[], []]
    seconds: list[list[float]] = [[], []]
    with load(names[0], threads=1) as first, load(names[1], threads=1) as second:
        for example in held_out(given.seed, given.questions):
            for side, vlm in enumerate((first, second)):  # in turns: both see the same machine
                answer = vlm.stream(example.question, images=[example.image])
                right[side].append(answer.read() == example.answer)
                seconds[side].append(answer.stats.time_to_first_token_s)
    for side, name in enumerate(names):
        size, share = open_bundle(name).total_bytes / 1e6, statistics.mean(right[side])
        median = 1000 * statistics.median(seconds[side])
        print(f"{name}: {size:.1f} MB, {share:.1%} right, {median:.1f} ms to the first token (median)")
    alone = [sum(mine and not its for mine, its in zip(*sides, strict=True)) for sides in (right, right[::-1])]
    print(f"only the first right: {alone[0]}, only the second: {alone[1]}, of {given.questions}")


if __name__ == "__main__":
    try:
        main()
    except PocketVlmError as error:
        sys.exit(f"error: {error}")
