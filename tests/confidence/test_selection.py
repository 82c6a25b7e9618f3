"""AUROC and risk-coverage curves against scikit-learn, and against every order that ties can be put in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from darwin_neg_cpp.confidence.selection import (
    COVERAGES,
    accuracy_at,
    area_under_risk,
    auroc,
    make_curves,
    risk_coverage,
)
from darwin_neg_cpp.errors import RequestError

# few distinct values, so that most cases have ties
items = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40)


def columns(case: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for value, _ in case], float), np.array([flag for _, flag in case])


@given(items)
def test_auroc_is_that_of_scikit_learn(case):
    uncertainty, wrong = columns(case)
    if wrong.all() or not wrong.any():
        assert np.isnan(auroc(uncertainty, wrong))
    else:
        assert auroc(uncertainty, wrong) == pytest.approx(roc_auc_score(wrong, uncertainty), abs=1e-12)


@given(items)
def test_risk_and_coverage_are_those_of_scikit_learns_roc_curve(case):
    """The false positive rate of "right" counts the wrong ones among the surest, the other rate the right ones."""
    uncertainty, wrong = columns(case)
    if wrong.all() or not wrong.any():
        return
    false_rate, true_rate, _ = roc_curve(~wrong, -uncertainty, drop_intermediate=False)
    bad, good = false_rate[1:] * wrong.sum(), true_rate[1:] * (~wrong).sum()
    coverage, risk = risk_coverage(uncertainty, wrong)
    assert coverage == pytest.approx((bad + good) / len(wrong))
    assert risk == pytest.approx(bad / (bad + good))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_with_ties_area_and_accuracy_are_the_means_over_all_orders(case):
    uncertainty, wrong = columns(case)
    orders = [
        np.array(order)
        for order in itertools.permutations(range(len(wrong)))
        if (np.diff(uncertainty[np.array(order)]) >= 0).all()
    ]
    risks = np.array([np.cumsum(wrong[order]) / np.arange(1, len(wrong) + 1) for order in orders])
    assert area_under_risk(uncertainty, wrong) == pytest.approx(risks.mean())
    for coverage in COVERAGES:
        k = int(np.ceil(coverage * len(wrong) - 1e-9))
        assert accuracy_at(uncertainty, wrong, coverage) == pytest.approx(1 - risks[:, k - 1].mean())


@given(items, st.integers(0, 2**31))
def test_weights_mean_that_items_are_repeated(case, seed):
    uncertainty, wrong = columns(case)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(wrong))).astype(float)
    weights[0, :] = 0
    curves = make_curves(uncertainty, wrong, weights)
    for row, counts in enumerate(weights.astype(int)):
        repeated = np.repeat(uncertainty, counts), np.repeat(wrong, counts)
        for found, expected in (
            (curves.auroc(), auroc(*repeated)),
            (curves.area(), area_under_risk(*repeated)),
            (curves.accuracy_at(0.8), accuracy_at(*repeated, 0.8)),
        ):
            assert found[row] == pytest.approx(expected, nan_ok=True)


def test_known_answers():
    sure_is_right = [0.1, 0.2, 0.3, 0.4, 0.5], [False, False, False, True, True]
    assert auroc(*sure_is_right) == 1.0
    assert accuracy_at(*sure_is_right, 0.5) == 1.0 and accuracy_at(*sure_is_right, 0.8) == 0.75
    assert area_under_risk(*sure_is_right) == pytest.approx((0 + 0 + 0 + 1 / 4 + 2 / 5) / 5)
    assert auroc([-u for u in sure_is_right[0]], sure_is_right[1]) == 0.0
    assert auroc([1.0] * 5, sure_is_right[1]) == 0.5
    assert area_under_risk([1.0] * 5, sure_is_right[1]) == pytest.approx(0.4)


def test_without_items_nothing_is_known():
    assert np.isnan(auroc([], [])) and np.isnan(area_under_risk([], [])) and np.isnan(accuracy_at([], [], 0.5))
    assert [len(values) for values in risk_coverage([], [])] == [0, 0]


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "said"),
    [
        ([1.0, float("nan")], [True, False], "uncertainty must be finite, got nan"),
        ([1.0, float("inf")], [True, False], "uncertainty must be finite, got inf"),
        ([1.0], [True, False], "of one length"),
        ([[1.0]], [[True]], "one-dimensional"),
    ],
)
def test_bad_columns_are_refused(uncertainty, wrong, said):
    with pytest.raises(RequestError, match=said):
        auroc(uncertainty, wrong)
