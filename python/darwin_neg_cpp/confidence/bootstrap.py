"""Intervals for what selection computes, by drawing items with replacement (Efron 1979; percentiles)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..checks import check_integer
from ..errors import RequestError
from .selection import COVERAGES, Curves, Floats, check_items, make_curves

RESAMPLES = 2000
AT_ONCE = 4_000_000  # weights in memory, 32 MB

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval. NaN where it is undefined; resamples in which it is undefined are left out."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Rating:
    """An uncertainty as a predictor of "wrong". items, wrong: their numbers. accuracy_at: by coverage."""

    items: int
    wrong: int
    auroc: Estimate
    area: Estimate
    accuracy_at: Mapping[float, Estimate]


@dataclass(frozen=True)
class Difference:
    """Signal a less signal b on the same items and resamples. A better signal has a larger AUROC and a smaller area."""

    items: int
    auroc: Estimate
    area: Estimate


def rate(
    uncertainty: npt.ArrayLike,
    wrong: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    coverages: Sequence[float] = COVERAGES,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Rating:
    """Rates an uncertainty as a predictor of "wrong".

    groups: what each item belongs to, for items that are not independent (tokens of one text): whole groups are drawn.
    Errors: RequestError.
    """
    measures = [Curves.auroc, Curves.area, *(_accuracy_measure(coverage) for coverage in coverages)]
    values, flags = check_items(uncertainty, wrong)
    exact = [float(measure(make_curves(values, flags))[0]) for measure in measures]
    drawn: list[list[Floats]] = [[] for _ in measures]
    for weights in draw_weights(len(values), groups=groups, seed=seed, resamples=resamples):
        curves = make_curves(values, flags, weights)
        for measure, column in zip(measures, drawn, strict=True):
            column.append(measure(curves))
    estimates = [Estimate(value, percentile_interval(column)) for value, column in zip(exact, drawn, strict=True)]
    by_coverage = dict(zip(coverages, estimates[2:], strict=True))
    return Rating(len(values), int(flags.sum()), estimates[0], estimates[1], by_coverage)


def compare(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    wrong: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compares two uncertainties of the same items. Errors: RequestError."""
    (first, flags), (second, _) = check_items(a, wrong), check_items(b, wrong)

    def differences(weights: Floats | None) -> tuple[Floats, Floats]:
        one, other = make_curves(first, flags, weights), make_curves(second, flags, weights)
        return one.auroc() - other.auroc(), one.area() - other.area()

    drawn = [differences(w) for w in draw_weights(len(first), groups=groups, seed=seed, resamples=resamples)]
    auroc, area = (
        Estimate(float(exact[0]), percentile_interval([pair[k] for pair in drawn]))
        for k, exact in enumerate(differences(None))
    )
    return Difference(len(first), auroc, area)


def bootstrap(
    statistic: Callable[[npt.NDArray[np.intp]], float],
    items: int,
    *,
    groups: npt.ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The interval of any other figure. statistic: of the items whose numbers it gets, some of them repeatedly."""
    chunks = draw_weights(items, groups=groups, seed=seed, resamples=resamples)
    numbers = np.arange(items)
    drawn = [statistic(np.repeat(numbers, row.astype(np.intp))) for weights in chunks for row in weights]
    return Estimate(float(statistic(numbers)), percentile_interval([np.array(drawn, np.float64)]))


def draw_weights(
    items: int, *, groups: npt.ArrayLike | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[Floats]:
    """Yields how often each item is drawn, [resamples, items], in chunks. The same for the same arguments, so that
    figures of two signals can be paired. Errors: RequestError.
    """
    check_integer("resamples", resamples, low=1)
    member = np.arange(items) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(member) != items:
        raise RequestError(f"groups must have one entry for each of {items} items, got {len(member)}")
    n = int(member.max(initial=-1)) + 1
    if not n:
        return
    random = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // items)
    for start in range(0, resamples, rows):
        m = min(rows, resamples - start)
        draws = random.integers(0, n, size=(m, n)) + n * np.arange(m)[:, None]
        counts = np.bincount(draws.reshape(-1), minlength=m * n).reshape(m, n)
        yield counts[:, member].astype(np.float64)


def _accuracy_measure(coverage: float) -> Callable[[Curves], Floats]:
    return lambda curves: curves.accuracy_at(coverage)


def percentile_interval(chunks: Sequence[Floats]) -> Interval:
    """95 % interval of a figure from its values in resamples, in chunks; NaN where it is undefined in all of them."""
    values = np.concatenate(chunks) if chunks else np.array([])
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
