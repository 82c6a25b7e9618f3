"""Figures with their uncertainty, for questions that are answered right or wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Z95 = NormalDist().inv_cdf(0.975)  # two-sided 95 % of the normal distribution
RESAMPLES = 10_000


def wilson(right: int, n: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share (Wilson 1927), sound near 0 and 1 and for small n. (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = right / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends of the range the bound is the end itself, whatever rounding makes of it
    return (0.0 if right == 0 else max(0.0, centre - half)), (1.0 if right == n else min(1.0, centre + half))


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the two-sided exact p of the hypothesis that a question which only one of two modes gets right is equally
    likely to be either mode's.

    only_a, only_b: number of questions that only this mode got right. Binomial, no approximation (McNemar 1947).
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    all_ways: int = 2**n
    return min(1.0, 2 * tail / all_ways)  # integers up to the last step: exact for any n


@dataclass(frozen=True)
class Paired:
    """Mode a against mode b over the questions that both answered.

    only_a, only_b: number of questions that only this mode got right. difference: accuracy of a minus that of b, with
        its 95 % bootstrap interval. p: exact McNemar test.
    """

    questions: int
    only_a: int
    only_b: int
    difference: float
    interval: tuple[float, float]
    p: float


def paired(a: list[bool], b: list[bool], *, seed: int = 0, resamples: int = RESAMPLES) -> Paired:
    """Compares two modes. a, b: whether each answered right, question by question.

    The bootstrap draws questions, each with both of its outcomes (Efron 1979; percentiles).
    """
    n = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    if n == 0:
        return Paired(0, 0, 0, 0.0, (0.0, 0.0), 1.0)
    # A resample matters only by how many of its n questions each mode alone got right. Drawing questions one by one
    # gives these counts a multinomial distribution, so they are drawn from it directly.
    shares = [only_a / n, only_b / n, max(0.0, 1 - (only_a + only_b) / n)]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return Paired(n, only_a, only_b, (only_a - only_b) / n, (float(low), float(high)), mcnemar(only_a, only_b))
