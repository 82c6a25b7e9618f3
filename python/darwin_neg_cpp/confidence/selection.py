"""AUROC and risk-coverage curves of an uncertainty, with ties in expectation over their order.

Everything follows from one curve: items in the order of their uncertainty, the surest first, and after each group of
equal uncertainties the number of items so far and the number of wrong ones among them. Items can have weights, so that
a bootstrap sorts once and not once a resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import RequestError

Floats = npt.NDArray[np.float64]
COVERAGES = (0.5, 0.8, 0.9)


@dataclass(frozen=True)
class Curves:
    """Risk-coverage curves: one row for each set of weights, one column for each distinct uncertainty.

    uncertainty: the distinct values, ascending, [groups]. items, wrong: weight of the items up to and including each
    group, and of the wrong ones among them, [rows, groups + 1], beginning with 0.
    """

    uncertainty: Floats
    items: Floats
    wrong: Floats

    def auroc(self) -> Floats:
        """Probability that a wrong item is less sure than a right one, ties counting half; NaN without either."""
        wrong = np.diff(self.wrong)
        right = np.diff(self.items) - wrong
        right_before = (self.items - self.wrong)[:, :-1]
        pairs = self.wrong[:, -1] * (self.items - self.wrong)[:, -1]
        won = (wrong * (right_before + right / 2)).sum(1)
        return _divide(won, pairs)

    def area(self) -> Floats:
        """Area under the risk-coverage curve: the mean over k = 1 ... n of the risk of the k surest items. NaN without
        items; weights must be whole.
        """
        total = self.items[:, -1]
        before, after = self.items[:, :-1].astype(np.int64), self.items[:, 1:].astype(np.int64)
        size, wrong = (after - before).astype(np.float64), np.diff(self.wrong)
        # within a group wrong items come evenly, so that j items on, the risk is (W + w j / m) / (K + j); the sum over
        # j = 1 ... m has a closed form with harmonic numbers
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(total.max(initial=0)) + 1))])
        span = harmonic[after] - harmonic[before]
        rate = np.divide(wrong, size, out=np.zeros_like(wrong), where=size > 0)
        sums = (self.wrong[:, :-1] * span + rate * (size - before * span)).sum(1)
        return _divide(sums, total)

    def accuracy_at(self, coverage: float) -> Floats:
        """Share of right ones among the surest share `coverage` of the items, rounded up; NaN without items."""
        total = self.items[:, -1]
        count = np.minimum(total, np.ceil(coverage * total - 1e-9))  # 0.9 of 10 items is 9 of them
        rows = zip(count, self.items, self.wrong, strict=True)
        wrong: Floats = np.array([np.interp(k, items, bad) for k, items, bad in rows], np.float64)
        return _divide(count - wrong, count)


def make_curves(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike, weights: Floats | None = None) -> Curves:
    """Sorts items by their uncertainty.

    uncertainty: the larger, the less sure; finite, [items]. wrong: whether each item is wrong, [items]. weights: of
    each item, whole numbers, [rows, items]; by default one row of ones. Errors: RequestError.
    """
    values, flags = check_items(uncertainty, wrong)
    if weights is None:
        weights = np.ones((1, len(values)))
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    columns = weights[:, order]
    return Curves(distinct, _cumulate(columns, starts), _cumulate(columns * flags[order], starts))


def auroc(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike) -> float:
    """Probability that a wrong item has a larger uncertainty than a right one, ties counting half.

    NaN when all items are right, or all are wrong. Errors: RequestError.
    """
    return float(make_curves(uncertainty, wrong).auroc()[0])


def area_under_risk(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike) -> float:
    """Area under the risk-coverage curve (AURC); the smaller the better. Errors: RequestError."""
    return float(make_curves(uncertainty, wrong).area()[0])


def accuracy_at(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike, coverage: float) -> float:
    """Accuracy on the surest share `coverage` of the items. Errors: RequestError."""
    return float(make_curves(uncertainty, wrong).accuracy_at(coverage)[0])


def risk_coverage(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Returns coverages and risks after each distinct uncertainty, both [groups]. Errors: RequestError."""
    curves = make_curves(uncertainty, wrong)
    items, bad = curves.items[0, 1:], curves.wrong[0, 1:]
    return items / max(1.0, float(items[-1]) if len(items) else 1.0), bad / np.maximum(items, 1)


def check_items(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Returns both as arrays of one length. Errors: RequestError."""
    values, flags = np.asarray(uncertainty, np.float64), np.asarray(wrong, np.bool_)
    if values.ndim != 1 or values.shape != flags.shape:
        raise RequestError(
            f"uncertainty and wrong must be one-dimensional and of one length, got shapes {values.shape} and "
            f"{flags.shape}"
        )
    if not np.isfinite(values).all():
        raise RequestError(
            f"uncertainty must be finite, got {values[~np.isfinite(values)][0]}; leave such items out of both"
        )
    return values, flags


def _cumulate(weights: Floats, starts: npt.NDArray[np.intp]) -> Floats:
    """Cumulative sums after each group of columns, beginning with 0."""
    sums = np.zeros((len(weights), len(starts) + 1))
    if len(starts):
        np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _divide(part: Floats, whole: Floats) -> Floats:
    """NaN where `whole` is 0."""
    quotient: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return quotient
