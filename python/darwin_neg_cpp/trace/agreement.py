"""How well predicted entropies agree with true ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Agreement:
    """Predicted against true entropy, nats, over positions.

    r2: share of the variance explained, against the mean of these very values. mae: mean absolute error. pearson,
    spearman: correlations, 0 for a constant. precision, recall: of "true entropy > threshold" by "predicted >
    threshold", 0 where undefined. activation_rate: share with predicted > threshold. true_rate: share with true >
    threshold.
    """

    r2: float
    mae: float
    pearson: float
    spearman: float
    precision: float
    recall: float
    activation_rate: float
    true_rate: float
    positions: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def measure_agreement(predicted: Values, true: Values, threshold: float) -> Agreement:
    """Compares entropies position by position. predicted, true: nats, [positions]."""
    p, t = predicted.astype(np.float64), true.astype(np.float64)
    variance = float(((t - t.mean()) ** 2).sum())
    fired, high = p > threshold, t > threshold
    both = int((fired & high).sum())
    return Agreement(
        r2=1.0 - float(((p - t) ** 2).sum()) / variance if variance > 0 else 0.0,
        mae=float(np.abs(p - t).mean()),
        pearson=correlate(p, t),
        spearman=correlate(rank(p), rank(t)),
        precision=both / max(1, int(fired.sum())),
        recall=both / max(1, int(high.sum())),
        activation_rate=float(fired.mean()),
        true_rate=float(high.mean()),
        positions=len(p),
    )


def correlate(a: Values, b: Values) -> float:
    """Pearson's correlation; 0 where one of the two is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:  # a mean is rounded, so that a constant less its mean need not be 0
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def rank(values: Values) -> npt.NDArray[np.float64]:
    """Ranks from 0; ties get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse], np.float64)


def find_threshold(predicted: Values, rate: float) -> float:
    """Finds the threshold above which a share `rate` of the predictions lies."""
    return float(np.float32(np.quantile(predicted.astype(np.float64), 1.0 - rate)))
