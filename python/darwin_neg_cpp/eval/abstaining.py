"""Thresholds above which to withhold answers, for an accuracy that is wanted of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..confidence.crossfit import Chooser, cross_fit, threshold_for_accuracy
from ..protocols.signals import SIGNALS
from .ledger_lines import Outcome
from .rating import LEAST, describe_fit, uncertainty_of


def propose_thresholds(outcomes: Mapping[int, Outcome], wanted: float, seed: int) -> dict[str, Any] | None:
    """A threshold for each signal that can be one, None with too few answers.

    threshold: from all answers, None when there is none that gives the wanted accuracy even on
    them, or only on fewer than LEAST of them. held_out: what the
    thresholds of the halves gave on the other halves.
    """
    answered = [outcome for outcome in outcomes.values() if outcome.choice is not None]
    wrong = np.array([not outcome.is_right for outcome in answered])
    found = {}
    for name in SIGNALS:
        values = [uncertainty_of(outcome, name) for outcome in answered]
        known = [value for value in values if value is not None]
        if len(known) < LEAST or len(known) < len(values):
            continue
        threshold = threshold_for_accuracy(known, wrong, wanted)
        found[name] = {
            # the few surest may be right by luck
            "threshold": threshold if sum(value <= threshold for value in known) >= LEAST else None,
            "held_out": describe_fit(cross_fit(known, wrong, _choose_for(wanted), seed=seed)),
        }
    if not found:
        return None
    return {
        "wanted_accuracy": wanted,
        "questions": len(answered),
        "unanswered": len(outcomes) - len(answered),
        "signals": found,
    }


def _choose_for(wanted: float) -> Chooser:
    return lambda values, wrong: threshold_for_accuracy(values, wrong, wanted)
