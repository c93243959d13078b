"""Ask a bundle about a picture; the answer is printed while it comes, then what it cost.

python examples/ask_about_a_picture.py build/demo receipt.png "What is the total?"
"""

from __future__ import annotations

import argparse
import sys

from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, load


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle")
    options.add_argument("picture")
    options.add_argument("question")
    options.add_argument("--tokens", type=int, default=64, help="the answer's most tokens")
    options.add_argument("--temperature", type=float, default=0.0, help="0: always the likeliest token")
    options.add_argument("--seed", type=int, default=0, help="the same seed, the same answer")
    given = options.parse_args()
    config = GenerationConfig(max_new_tokens=given.tokens, temperature=given.temperature, seed=given.seed)
    try:
        # keep_vision=False frees the vision part after use: a phone has the memory back while the answer is decoded.
        with load(given.bundle, keep_vision=False) as vlm:
            answer = vlm.stream(given.question, images=[given.picture], config=config)
            for piece in answer:
                print(piece.text, end="", flush=True)
            print()
    except PocketVlmError as error:
        sys.exit(f"error: {error}")
    stats = answer.stats
    print(f"load {stats.load_s:.2f} s, picture {stats.encode_s:.2f} s for {stats.image_tokens} tokens", file=sys.stderr)
    print(f"prefill {stats.prefill_tps:,.0f} tokens/s, decode {stats.decode_tps:,.0f} tokens/s", file=sys.stderr)
    print(f"{stats.peak_rss_bytes / 1e6:,.0f} MB at the peak; ended by {stats.finish_reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
