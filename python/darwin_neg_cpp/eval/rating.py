"""What each signal of certainty is worth as a predictor of "this answer is wrong"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..confidence.bootstrap import Estimate, compare, rate
from ..confidence.crossfit import Chooser, CrossFit, cross_fit, threshold_for_coverage
from ..confidence.selection import COVERAGES, risk_coverage
from ..protocols.signals import SIGNALS, uncertainty_of_answer
from .ledger_lines import Outcome
from .statistics import wilson

LEAST = 10  # questions; with fewer, every interval is nearly as wide as the range
LEAST_OF_EACH = 5  # right and wrong answers; a bootstrap of fewer is too sure
POINTS = 100  # of a curve, at most
MARGIN, TOKENS = "margin", "tokens"
TITLES: Mapping[str, str] = {
    **SIGNALS,
    MARGIN: "minus margin of votes",
    TOKENS: "number of tokens",
}
# each against the first, which costs nothing; and what is predicted against what is true
REFERENCE = "mean_entropy"
PAIRS = (
    *((name, REFERENCE) for name in TITLES if name != REFERENCE),
    ("max_entropy", "true_max_entropy"),
    ("last_quarter_entropy", "true_last_quarter_entropy"),
    ("letter_entropy", "true_letter_entropy"),
)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def uncertainty_of(outcome: Outcome, name: str) -> float | None:
    """A signal of an answer, the larger the less sure; None where it has none."""
    if name == MARGIN:
        return -float(outcome.margin) if outcome.protocol.votes else None
    if name == TOKENS:
        voters = [call for call in outcome.calls if call.counted and call.choice == outcome.choice]
        return sum(call.tokens for call in voters) / len(voters) if voters else None
    return uncertainty_of_answer(name, outcome.choice, outcome.calls)


def rate_signals(outcomes: Mapping[int, Outcome], seed: int) -> dict[str, Any] | None:
    """Figures for each signal on the questions that have an answer; None with too few of them, right or wrong.

    A question without an answer is wrong, as everybody can see, and needs no predictor.
    """
    answered = [outcome for outcome in outcomes.values() if outcome.choice is not None]
    if len(answered) < LEAST:
        return None
    right = sum(outcome.is_right for outcome in answered)
    if min(right, len(answered) - right) < LEAST_OF_EACH:
        return None
    columns = {name: column for name in TITLES if (column := _column(answered, name)) is not None}
    wrong = np.array([not outcome.is_right for outcome in answered])
    return {
        "questions": len(answered),
        "wrong": int(wrong.sum()),
        "unanswered": len(outcomes) - len(answered),
        "signals": {name: _rate(column, wrong, seed) for name, column in columns.items()},
        "differences": [
            {"a": a, "b": b, **_compare(columns[a], columns[b], wrong, seed)}
            for a, b in PAIRS
            if a in columns and b in columns
        ],
    }


def _column(answered: Sequence[Outcome], name: str) -> Floats | None:
    """A signal of each answer, NaN where it has none; None when too few have any."""
    values = [uncertainty_of(outcome, name) for outcome in answered]
    column = np.array([math.nan if value is None else value for value in values])
    return column if np.isfinite(column).sum() >= LEAST else None


def _rate(column: Floats, wrong: Flags, seed: int) -> dict[str, Any]:
    known = np.isfinite(column)
    values, flags = column[known], wrong[known]
    rating = rate(values, flags, coverages=(), seed=seed)
    return {
        "questions": rating.items,
        "wrong": rating.wrong,
        "auroc": describe(rating.auroc),
        "area": describe(rating.area),
        "accuracy_at": {
            f"{coverage:g}": describe_fit(cross_fit(values, flags, choose_for(coverage), seed=seed))
            for coverage in COVERAGES
        },
        "curve": _curve(values, flags),
    }


def choose_for(coverage: float) -> Chooser:
    """Thresholds for answering a share of the questions."""
    return lambda values, _flags: threshold_for_coverage(values, coverage)


def _compare(a: Floats, b: Floats, wrong: Flags, seed: int) -> dict[str, Any]:
    both = np.isfinite(a) & np.isfinite(b)
    difference = compare(a[both], b[both], wrong[both], seed=seed)
    return {
        "questions": difference.items,
        "auroc": describe(difference.auroc),
        "area": describe(difference.area),
    }


def describe(estimate: Estimate) -> dict[str, Any]:
    """A figure with its interval as JSON; what is undefined is None."""
    low, high = (_defined(end) for end in estimate.interval)
    return {"value": _defined(estimate.value), "interval": None if low is None or high is None else [low, high]}


def describe_fit(fit: CrossFit) -> dict[str, Any]:
    """What answering below a threshold of the other half gave, with Wilson's interval of the accuracy."""
    return {
        "answered": fit.answered,
        "right": fit.right,
        "coverage": _defined(fit.coverage),
        "accuracy": _defined(fit.accuracy),
        "interval": list(wilson(fit.right, fit.answered)),
        "thresholds": [_defined(threshold) for threshold in fit.thresholds],
    }


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curve(values: Floats, flags: Flags) -> list[list[float]]:
    """(coverage, risk) after each distinct uncertainty, thinned out."""
    coverage, risk = risk_coverage(values, flags)
    step = max(1, math.ceil(len(coverage) / POINTS))
    kept = sorted({*range(0, len(coverage), step), len(coverage) - 1})
    return [[round(float(coverage[k]), 4), round(float(risk[k]), 4)] for k in kept]
