"""The scores of an export's fidelity check, beside those of ``pocketvlm eval --against``, which are numpy's."""

from __future__ import annotations

import pytest
import torch

from pocketvlm.export.reference.scores import compare_logits
from pocketvlm.fidelity.divergence import report_logits, score_tokens


def test_scores_of_logits_are_those_of_eval() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(40, 50, generator=generator)
    found = wanted + 0.3 * torch.randn(40, 50, generator=generator)
    targets = torch.randint(0, 50, (39,), generator=generator)
    scores = compare_logits(wanted, found, targets, (0.5,))
    every = torch.cat([targets, targets[:1]]).numpy()
    report = report_logits([score_tokens(wanted.numpy(), found.numpy(), every)])
    assert scores.tokens == report.tokens
    assert scores.kl_mean == pytest.approx(report.kl_mean.value, rel=1e-3)
    assert scores.kl_median == pytest.approx(report.kl_median, rel=1e-3)
    assert scores.kl_p999 == pytest.approx(report.kl_p999, rel=1e-3)
    assert scores.kl_max == pytest.approx(report.kl_max, rel=1e-3)
    assert scores.top1_agreement == pytest.approx(report.top1_agreement, abs=1e-4)
    assert scores.relative_error_by_layer == (0.5,)
    ratio = report_logits([score_tokens(wanted[:-1].numpy(), found[:-1].numpy(), targets.numpy())]).perplexity_ratio
    assert scores.perplexity_ratio == pytest.approx(ratio.value, rel=1e-3)
