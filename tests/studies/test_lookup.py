"""What the study of prompt lookup makes of answers."""

from __future__ import annotations

from pocketvlm.runtime import Stats
from studies.lookup import PAGE, Said, compared, pages, receipt


def said(tokens: tuple[int, ...], seconds: float, held: int = 0) -> Said:
    return Said(
        tokens, Stats(decode_tokens=len(tokens) - 1, decode_s=seconds, drafted_tokens=2 * held, held_tokens=held)
    )


def test_an_answer_that_differs_and_one_that_is_slower_show() -> None:
    pairs = [
        (said((1, 2, 3), 2.0), said((1, 2, 3), 1.0, held=1)),
        (said((1, 2, 3, 4), 3.0), said((1, 2, 5, 4), 6.0)),
        (said((7,), 0.0), said((7,), 0.0)),
    ]
    row = compared("some", pairs)
    assert (row["answers"], row["same"], row["drafted"], row["held"], row["decode_tokens"]) == (3, 2, 2, 1, 5)
    assert row["faster"] == (5 / 5) / (7 / 5)
    assert (row["faster_median"], row["faster_range"]) == (1.25, [0.5, 2.0])


def test_pages_and_receipts_are_others_each_time() -> None:
    found = pages(12)
    assert len({page[:80] for page in found}) == 12
    assert all(PAGE // 2 < len(page) <= PAGE for page in found)
    assert receipt(0) != receipt(1)
    assert receipt(0) == receipt(0)
