"""Intervals on synthetic data with known answers, and against resamples that scikit-learn draws and rates."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils import resample

from darwin_neg_cpp.confidence.bootstrap import bootstrap, compare, draw_weights, rate
from darwin_neg_cpp.confidence.selection import auroc
from darwin_neg_cpp.errors import RequestError


def signal(n: int, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two normal distributions, `strength` deviations apart: the AUROC is that of the normal distribution."""
    random = np.random.default_rng(seed)
    wrong = random.random(n) < 0.4
    return random.normal(size=n) + strength * wrong, wrong


def test_the_interval_is_that_of_resamples_by_scikit_learn():
    uncertainty, wrong = signal(150, 0.8, 3)
    drawn = []
    for seed in range(600):
        u, w = resample(uncertainty, wrong, random_state=seed)
        drawn.append(roc_auc_score(w, u))
    rating = rate(uncertainty, wrong, seed=1)
    assert rating.auroc.value == pytest.approx(roc_auc_score(wrong, uncertainty))
    assert rating.auroc.interval == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.015)


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_intervals_hold_the_true_value_about_as_often_as_they_say(strength):
    """At 0, pure noise, that is 1/2. 60 intervals of 95 %: 51 or more hold it in all but one of 3000 tries."""
    true = NormalDist().cdf(strength / math.sqrt(2))
    held = 0
    for seed in range(60):
        low, high = rate(*signal(200, strength, seed), seed=seed, resamples=400).auroc.interval
        held += low <= true <= high
        assert high - low < 0.2
    assert held >= 51


def test_differences_are_paired():
    uncertainty, wrong = signal(200, 1.0, 5)
    noise = np.random.default_rng(9).normal(size=200)
    same = compare(uncertainty, uncertainty + 0.0, wrong)
    assert same.auroc.value == 0 and same.auroc.interval == (0, 0) and same.area.interval == (0, 0)
    better = compare(uncertainty, noise, wrong)
    assert better.auroc.value == pytest.approx(auroc(uncertainty, wrong) - auroc(noise, wrong))
    assert better.auroc.interval[0] > 0 and better.area.interval[1] < 0
    # a signal and nearly itself: far narrower than each one's own interval
    nearly = compare(uncertainty, uncertainty + 0.01 * noise, wrong)
    own = rate(uncertainty, wrong).auroc.interval
    assert nearly.auroc.interval[1] - nearly.auroc.interval[0] < 0.1 * (own[1] - own[0])


def test_whole_groups_are_drawn():
    """Twenty copies of each item say no more than one: with groups the interval is as wide as without copies."""
    uncertainty, wrong = signal(80, 0.7, 2)
    width = {}
    for name, copies, groups in (("once", 1, None), ("groups", 20, True), ("naive", 20, None)):
        member = np.repeat(np.arange(80), copies) if groups else None
        rating = rate(np.repeat(uncertainty, copies), np.repeat(wrong, copies), groups=member, seed=4)
        width[name] = rating.auroc.interval[1] - rating.auroc.interval[0]
    assert width["groups"] == pytest.approx(width["once"], rel=1e-9)
    assert width["naive"] < 0.4 * width["once"]


def test_the_same_seed_gives_the_same_figures_and_chunks_do_not_matter(monkeypatch):
    uncertainty, wrong = signal(64, 0.5, 1)
    first = rate(uncertainty, wrong, seed=7)
    assert rate(uncertainty, wrong, seed=7) == first != rate(uncertainty, wrong, seed=8)
    weights = np.concatenate(list(draw_weights(64, seed=7)))
    assert weights.shape == (2000, 64) and (weights.sum(1) == 64).all()
    monkeypatch.setattr("darwin_neg_cpp.confidence.bootstrap.AT_ONCE", 64 * 300)
    assert [len(chunk) for chunk in draw_weights(64, seed=7)] == [300] * 6 + [200]


def test_any_figure_can_be_given_an_interval():
    uncertainty, wrong = signal(100, 1.0, 6)
    by_hand = bootstrap(lambda numbers: auroc(uncertainty[numbers], wrong[numbers]), 100, seed=3, resamples=300)
    rating = rate(uncertainty, wrong, seed=3, resamples=300)
    assert by_hand.value == rating.auroc.value
    assert by_hand.interval == pytest.approx(rating.auroc.interval)


def test_what_is_undefined_is_nan_and_nothing_is_hidden():
    assert all(math.isnan(value) for value in (rate([], []).auroc.value, *rate([], []).area.interval))
    all_right = rate([1.0, 2.0], [False, False])
    assert math.isnan(all_right.auroc.value) and math.isnan(all_right.auroc.interval[0])
    assert all_right.area.value == 0 and all_right.accuracy_at[0.5].value == 1
    with pytest.raises(RequestError, match="one entry for each of 2 items, got 1"):
        rate([1.0, 2.0], [True, False], groups=[0])
