r"""A conversation about pictures: a line of standard input is a question, or +FILE, a picture for the next question.

printf '+receipt.png\nWhat is the total?\nAnd the date?\n' | python examples/chat_about_pictures.py build/demo
"""

from __future__ import annotations

import argparse
import sys

from pocketvlm.errors import CapacityError, PocketVlmError
from pocketvlm.runtime import Chat, GenerationConfig, load


def answer(chat: Chat, question: str, config: GenerationConfig) -> None:
    """Stream an answer. Only what is new is computed: the KV cache holds the turns before."""
    pieces = chat.stream(question, config)
    for piece in pieces:
        print(piece.text, end="", flush=True)
    reused, computed = pieces.stats.reused_tokens, pieces.stats.prefill_tokens
    print(f"   [{computed} tokens computed, {reused} kept, room for {chat.tokens_left}]")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle")
    options.add_argument("--tokens", type=int, default=64, help="an answer's most tokens")
    given = options.parse_args()
    config = GenerationConfig(max_new_tokens=given.tokens)
    # drop_oldest: where the KV cache is full the oldest turns are forgotten.
    with load(given.bundle) as vlm, vlm.chat(drop_oldest=True) as chat:
        for line in map(str.strip, sys.stdin):
            try:
                if line.startswith("+"):
                    chat.add_image(line[1:])  # returns at once: it is encoded while the question is typed
                elif line:
                    answer(chat, line, config)
            except CapacityError as error:
                print(f"too long: {error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except PocketVlmError as error:
        sys.exit(f"error: {error}")
