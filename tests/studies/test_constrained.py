"""What the study of answers of a form makes of times, and that free text is as long as the answer beside it."""

from __future__ import annotations

from pathlib import Path

from pocketvlm.runtime import GenerationConfig, Stats, load
from pocketvlm.runtime.constraints import json_schema
from studies.constrained import FORMS, asked, compared, endless, in_turns


def cost(tokens: int, seconds: float, forced: int = 0) -> Stats:
    return Stats(decode_tokens=tokens, decode_s=seconds, forced_tokens=forced)


def test_a_form_that_is_slower_shows() -> None:
    row = compared(
        "some", [(cost(10, 1.0), cost(10, 0.5, 4)), (cost(4, 1.0), cost(8, 1.0, 2)), (cost(1, 1), cost(1, 4))]
    )
    assert (row["answers"], row["decode_tokens"], row["forced_tokens"]) == (3, 19, 6)
    assert (row["faster_median"], row["faster_range"]) == (2.0, [0.25, 2.0])
    assert (row["free_ms"], row["formed_ms"]) == (250.0, 125.0)


def test_free_text_is_as_long_as_the_answer_beside_it(reader_bundles: dict[str, Path]) -> None:
    with load(reader_bundles["int4-g128"], threads=1) as vlm:
        pairs = in_turns(vlm, lambda config: asked(vlm, "What is it?", [], config), json_schema(FORMS["a receipt"]), 2)
        assert len(pairs) == 2
        for free, held in pairs:
            assert free.generated_tokens == held.generated_tokens > 20
            assert free.forced_tokens == 0 < held.forced_tokens
        with endless(vlm):
            longer = asked(vlm, "What is it?", [], GenerationConfig(max_new_tokens=60))
        assert (
            longer.finish_reason == "length"
            and asked(vlm, "What is it?", [], GenerationConfig(max_new_tokens=60)).generated_tokens < 60
        )
