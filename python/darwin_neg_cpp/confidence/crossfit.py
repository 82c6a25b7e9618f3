"""Thresholds that are not judged on the items they were chosen on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .selection import check_items, make_curves

Chooser = Callable[[npt.NDArray[np.float64], npt.NDArray[np.bool_]], float]


@dataclass(frozen=True)
class CrossFit:
    """What answering at and below a threshold gives where the threshold comes from the other half.

    thresholds: chosen on the first half and on the second; -inf answers nothing. kept: whether each item is answered,
    [items]. right: number of right ones among those.
    """

    thresholds: tuple[float, float]
    kept: npt.NDArray[np.bool_]
    right: int

    @property
    def items(self) -> int:
        return len(self.kept)

    @property
    def answered(self) -> int:
        return int(self.kept.sum())

    @property
    def coverage(self) -> float:
        return self.answered / self.items if self.items else float("nan")

    @property
    def accuracy(self) -> float:
        """Of the answered items; NaN without any."""
        return self.right / self.answered if self.answered else float("nan")


def split_halves(items: int, *, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Draws the items of the first half; with an odd number the second has one more."""
    first = np.zeros(items, np.bool_)
    first[np.random.default_rng(seed).permutation(items)[: items // 2]] = True
    return first


def threshold_for_accuracy(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike, wanted: float) -> float:
    """The largest uncertainty t such that the items at and below t have at least the wanted accuracy.

    -inf when there is none. Errors: RequestError.
    """
    curves = make_curves(uncertainty, wrong)
    items, bad = curves.items[0, 1:], curves.wrong[0, 1:]
    good = np.flatnonzero(items - bad >= wanted * items - 1e-9)
    return float(curves.uncertainty[good[-1]]) if len(good) else float("-inf")


def threshold_for_coverage(uncertainty: npt.ArrayLike, coverage: float) -> float:
    """The smallest uncertainty t such that at least the share `coverage` of the items is at or below t.

    -inf for a coverage of 0 and without items. Errors: RequestError.
    """
    values, _ = check_items(uncertainty, np.zeros(np.shape(uncertainty), np.bool_))
    count = int(np.ceil(coverage * len(values) - 1e-9))
    return float(np.sort(values)[min(count, len(values)) - 1]) if count > 0 else float("-inf")


def cross_fit(uncertainty: npt.ArrayLike, wrong: npt.ArrayLike, choose: Chooser, *, seed: int = 0) -> CrossFit:
    """Chooses a threshold on each half and applies it to the other. choose: a threshold for (uncertainty, wrong).

    Errors: RequestError.
    """
    values, flags = check_items(uncertainty, wrong)
    first = split_halves(len(values), seed=seed)
    thresholds = (choose(values[first], flags[first]), choose(values[~first], flags[~first]))
    kept = values <= np.where(first, thresholds[1], thresholds[0])
    return CrossFit(thresholds, kept, int((kept & ~flags).sum()))
