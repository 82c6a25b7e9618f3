"""Thresholds of one half on the other, against scikit-learn's cross-validation, and on data with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from darwin_neg_cpp.confidence.crossfit import (
    cross_fit,
    split_halves,
    threshold_for_accuracy,
    threshold_for_coverage,
)


class Threshold(ClassifierMixin, BaseEstimator):
    """Says "answer" below the threshold that a plain search over its training items finds."""

    def __init__(self, wanted: float = 0.8) -> None:
        self.wanted = wanted

    def fit(self, x, y):
        self.classes_ = np.array([False, True])
        good = [t for t in x[:, 0] if y[x[:, 0] <= t].mean() >= self.wanted - 1e-12]
        self.threshold_ = max(good, default=-np.inf)
        return self

    def predict(self, x):
        return x[:, 0] <= self.threshold_


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=8, max_size=60), st.integers(0, 99))
def test_what_is_answered_is_what_cross_validation_answers(case, seed):
    uncertainty = np.array([value for value, _ in case], float)
    wrong = np.array([flag for _, flag in case])
    fold = split_halves(len(case), seed=seed).astype(int)
    expected = cross_val_predict(Threshold(0.75), uncertainty[:, None], ~wrong, cv=PredefinedSplit(fold))
    fitted = cross_fit(uncertainty, wrong, lambda u, w: threshold_for_accuracy(u, w, 0.75), seed=seed)
    assert (fitted.kept == expected).all()
    assert (fitted.answered, fitted.right) == (expected.sum(), (expected & ~wrong).sum())


def test_halves_are_halves_and_depend_on_the_seed_alone():
    first = split_halves(101, seed=3)
    assert first.sum() == 50 and (split_halves(101, seed=3) == first).all()
    assert (split_halves(101, seed=4) != first).any()


def test_noise_reaches_no_accuracy_that_it_does_not_have():
    """The best threshold on a half of pure noise promises what it does not keep; the other half shows it."""
    random = np.random.default_rng(0)
    promised, kept = [], []
    for seed in range(60):
        uncertainty, wrong = random.normal(size=120), random.random(120) < 0.4
        choose = lambda u, w: threshold_for_accuracy(u, w, 0.75)  # noqa: E731
        t = choose(uncertainty, wrong)
        if np.isfinite(t):
            promised.append(1 - wrong[uncertainty <= t].mean())
        fitted = cross_fit(uncertainty, wrong, choose, seed=seed)
        kept += [(fitted.answered, fitted.right)]
    answered, right = np.sum(kept, axis=0)
    assert min(promised) >= 0.75
    assert answered > 300 and right / answered == pytest.approx(0.6, abs=0.05)


def test_thresholds_on_known_data():
    uncertainty, wrong = [1.0, 2.0, 3.0, 4.0], [False, True, False, True]
    assert threshold_for_accuracy(uncertainty, wrong, 1.0) == 1.0
    assert threshold_for_accuracy(uncertainty, wrong, 0.6) == 3.0
    assert threshold_for_accuracy(uncertainty, wrong, 0.5) == 4.0
    assert threshold_for_accuracy([1.0, 1.0], [False, True], 0.9) == -np.inf
    assert threshold_for_accuracy([], [], 0.9) == -np.inf
    assert [threshold_for_coverage(uncertainty, c) for c in (0, 0.25, 0.5, 0.51, 1)] == [-np.inf, 1, 2, 3, 4]
    assert threshold_for_coverage([], 0.5) == -np.inf
