"""Figures with their uncertainty, against published values, exact enumeration and a naive loop."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_neg_cpp.eval import statistics


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_published(right: int, n: int, low: float, high: float) -> None:
    assert statistics.wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_where_the_score_test_rejects(case: tuple[int, int]) -> None:
    right, n = case
    low, high = statistics.wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            score = (right / n - end) / math.sqrt(end * (1 - end) / n)
            assert abs(score) == pytest.approx(1.959964, rel=1e-5)
    assert statistics.wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


def test_nothing_answered_means_nothing_known() -> None:
    assert statistics.wilson(0, 0) == (0.0, 1.0)
    assert statistics.paired([], []).p == 1.0


@pytest.mark.parametrize(("b", "c"), [(b, c) for b in range(7) for c in range(7)])
def test_mcnemar_is_what_counting_all_cases_gives(b: int, c: int) -> None:
    """Counts, of all ways in which b + c discordant questions can fall, those that are at least as lopsided."""
    ways = list(itertools.product([0, 1], repeat=b + c))
    as_lopsided = sum(abs(2 * sum(way) - (b + c)) >= abs(b - c) for way in ways)
    assert statistics.mcnemar(b, c) == pytest.approx(float(Fraction(as_lopsided, len(ways))), rel=1e-12)
    assert statistics.mcnemar(b, c) == statistics.mcnemar(c, b)


def test_mcnemar_keeps_its_precision_for_many_questions() -> None:
    assert statistics.mcnemar(0, 2000) == 0.0 and statistics.mcnemar(5000, 5000) == 1.0
    # 2 * P(X <= 4900), X ~ B(10000, 1/2): with continuity correction the normal approximation is good to three digits
    expected = math.erfc((5000 - 4900.5) / 50 / math.sqrt(2))
    assert statistics.mcnemar(4900, 5100) == pytest.approx(expected, rel=1e-3)


def naive_bootstrap(a: list[bool], b: list[bool], resamples: int) -> list[float]:
    """Questions drawn one by one with replacement, both outcomes of each; sorted differences of accuracy."""
    rng, out = random.Random(1), []
    for _ in range(resamples):
        drawn = [rng.randrange(len(a)) for _ in a]
        out.append(sum(a[i] for i in drawn) / len(a) - sum(b[i] for i in drawn) / len(a))
    return sorted(out)


@pytest.mark.parametrize(("n", "p", "q"), [(198, 0.5, 0.6), (72, 0.25, 0.25), (30, 0.9, 0.5), (12, 0.1, 0.0)])
def test_the_paired_bootstrap_is_that_of_a_naive_loop(n: int, p: float, q: float) -> None:
    rng = random.Random(n)
    a, b = [rng.random() < p for _ in range(n)], [rng.random() < q for _ in range(n)]
    found = statistics.paired(a, b, seed=3)
    differences = naive_bootstrap(a, b, 20_000)
    # the quantile of one must lie between neighbouring quantiles of the other; steps are of 1/n
    for value, share in zip(found.interval, (0.025, 0.975), strict=True):
        assert (
            differences[int(20_000 * (share - 0.005))] - 1e-9
            <= value
            <= differences[int(20_000 * (share + 0.005))] + 1e-9
        )
    assert found.difference == pytest.approx(sum(a) / n - sum(b) / n)
    assert (found.only_a, found.only_b) == (
        sum(x > y for x, y in zip(a, b, strict=True)),
        sum(x < y for x, y in zip(a, b, strict=True)),
    )


@pytest.mark.parametrize("pattern", ["++0", "+-00", "+++-0", "+0000", "-----"])
def test_the_paired_bootstrap_is_that_of_all_resamples(pattern: str) -> None:
    """All n^n resamples of a handful of questions, counted."""
    n = len(pattern)
    a, b = [c == "+" for c in pattern], [c == "-" for c in pattern]
    exact = sorted(sum((c == "+") - (c == "-") for c in drawn) / n for drawn in itertools.product(pattern, repeat=n))
    low, high = statistics.paired(a, b, resamples=200_000).interval
    for value, share in ((low, 0.025), (high, 0.975)):
        below = sum(one < value - 1e-9 for one in exact) / len(exact)
        upto = sum(one <= value + 1e-9 for one in exact) / len(exact)
        assert below - 0.003 <= share <= upto + 0.003


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    a, b = [True, False] * 40, [False, True, True, False] * 20
    assert statistics.paired(a, b, seed=1) == statistics.paired(a, b, seed=1)
    assert statistics.paired(a, b, seed=1).p == statistics.paired(a, b, seed=2).p


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_modes_turns_the_comparison_round(outcomes: list[tuple[bool, bool]]) -> None:
    a, b = [x for x, _ in outcomes], [y for _, y in outcomes]
    one, other = statistics.paired(a, b), statistics.paired(b, a)
    assert one.p == other.p and one.difference == -other.difference and -1 <= one.interval[0] <= one.interval[1] <= 1
    assert one.questions == len(outcomes)
