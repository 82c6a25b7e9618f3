"""Figures of merit against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from darwin_neg_cpp.trace.agreement import find_threshold, measure_agreement, rank


def test_figures_of_merit_against_their_definitions() -> None:
    rng = np.random.default_rng(0)
    true = rng.gamma(1.0, 1.5, 500)
    true[::7] = true[1]  # ties
    predicted = true * 0.8 + rng.normal(0, 0.3, 500)
    got = measure_agreement(predicted, true, 1.2)
    assert got.pearson == pytest.approx(np.corrcoef(predicted, true)[0, 1])
    assert got.r2 == pytest.approx(1 - ((predicted - true) ** 2).mean() / true.var())
    slow = np.array([(true < x).sum() + ((true == x).sum() - 1) / 2 for x in true])
    assert (rank(true) == slow).all()
    assert got.spearman == pytest.approx(np.corrcoef(rank(predicted), slow)[0, 1])
    hits = sum(p > 1.2 and t > 1.2 for p, t in zip(predicted, true, strict=True))
    assert got.precision == pytest.approx(hits / sum(predicted > 1.2))
    assert got.recall == pytest.approx(hits / sum(true > 1.2))
    constant = measure_agreement(np.full(500, true.mean()), true, 1.2)
    assert (constant.pearson, constant.spearman) == (0, 0) and abs(constant.r2) < 1e-9
    assert abs(float((predicted > find_threshold(predicted, 0.05)).mean()) - 0.05) < 0.005
