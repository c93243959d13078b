"""From a bundle on disk to a streamed answer: numpy, onnxruntime and tokenizers, never torch.

    with load("build/demo") as vlm:
        for piece in vlm.stream("What is the total?", images=["receipt.png"]):
            print(piece.text, end="", flush=True)

The names below are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketvlm.lazy import lazily

if TYPE_CHECKING:
    from pocketvlm.images.rules import select_grid as select_grid
    from pocketvlm.runtime.conversation import Chat as Chat
    from pocketvlm.runtime.generation import Answer as Answer
    from pocketvlm.runtime.generation import Piece as Piece
    from pocketvlm.runtime.sampling import GenerationConfig as GenerationConfig
    from pocketvlm.runtime.stats import Stats as Stats
    from pocketvlm.runtime.vlm import PocketVlm as PocketVlm
    from pocketvlm.runtime.vlm import load as load

__all__ = ["Answer", "Chat", "GenerationConfig", "Piece", "PocketVlm", "Stats", "load", "select_grid"]

#: public name -> the module that defines it
_MODULES = {
    "Answer": "pocketvlm.runtime.generation",
    "Chat": "pocketvlm.runtime.conversation",
    "GenerationConfig": "pocketvlm.runtime.sampling",
    "Piece": "pocketvlm.runtime.generation",
    "PocketVlm": "pocketvlm.runtime.vlm",
    "Stats": "pocketvlm.runtime.stats",
    "load": "pocketvlm.runtime.vlm",
    "select_grid": "pocketvlm.images.rules",
}


__getattr__, __dir__ = lazily(__name__, _MODULES)
