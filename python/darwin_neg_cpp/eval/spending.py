"""Accuracy against cost: what mode auto would have given, from the answers of modes 1, 2 and 3 in a ledger.

Its thresholds are chosen on one half of the questions for the other. It is compared, at equal cost, with escalating at
random and by the margin of votes alone: only what beats both can be said to come from the signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..confidence.bootstrap import bootstrap
from ..confidence.crossfit import split_halves
from ..protocols.modes import ModeConfig
from ..protocols.protocol import Protocol
from .ledger_lines import Outcome
from .rating import LEAST, MARGIN, describe, uncertainty_of
from .statistics import wilson

MODES = tuple(Protocol("mode", mode) for mode in (1, 2, 3))
MODE_0, AS_RUN = Protocol("mode", 0), Protocol("mode auto", 0)
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the way from the cost of mode 1 to that of mode 3
GRID = 21  # thresholds that are tried, of each of the two

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Outcomes = Mapping[int, Outcome]


@dataclass(frozen=True)
class Ladder:
    """What each question gives in modes 1, 2 and 3.

    right, cost: [3, questions]; cost in completion tokens. unsure: of the answers of modes 1 and 2, [2, questions];
    infinite where there is no answer or no signal. margin: of mode 2.
    """

    right: Floats
    cost: Floats
    unsure: Floats
    margin: Floats

    @property
    def questions(self) -> int:
        return len(self.margin)

    def part(self, which: Flags) -> Ladder:
        return Ladder(self.right[:, which], self.cost[:, which], self.unsure[:, which], self.margin[which])

    def stages(self, first: float, second: float) -> npt.NDArray[np.intp]:
        """Where mode auto ends, from 0, as escalation.is_sure has it."""
        sure = [
            np.full(self.questions, t == math.inf) | (u < t) for t, u in zip((first, second), self.unsure, strict=True)
        ]
        return np.where(sure[0], 0, np.where(sure[1], 1, 2))

    def at(self, stages: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Right and cost of each question that ends at its stage."""
        every = np.arange(self.questions)
        return self.right[stages, every], self.cost[stages, every]


def build_ladder(by_protocol: Mapping[Protocol, Outcomes], signal: str) -> Ladder | None:
    """None unless modes 1, 2 and 3 have answered enough of the same questions, with that signal."""
    common = _common(by_protocol)
    if len(common) < LEAST:
        return None
    columns = [[by_protocol[protocol][number] for number in common] for protocol in MODES]
    unsure = [[_unsure(outcome, signal) for outcome in column] for column in columns[:2]]
    if not np.isfinite(unsure).any():
        return None
    return Ladder(
        right=np.array([[outcome.is_right for outcome in column] for column in columns], np.float64),
        cost=np.array([[outcome.completion_tokens for outcome in column] for column in columns], np.float64),
        unsure=np.array(unsure),
        margin=np.array([-(uncertainty_of(outcome, MARGIN) or 0.0) for outcome in columns[1]]),
    )


def _common(by_protocol: Mapping[Protocol, Outcomes]) -> list[int]:
    """The questions that modes 1, 2 and 3 have answered."""
    modes = [by_protocol.get(protocol, {}) for protocol in MODES]
    return [number for number in modes[0] if all(number in outcomes for outcomes in modes)]


def _unsure(outcome: Outcome, signal: str) -> float:
    value = uncertainty_of(outcome, signal)
    return math.inf if value is None else value


def rate_spending(by_protocol: Mapping[Protocol, Outcomes], config: ModeConfig) -> dict[str, Any] | None:
    """Figures of mode auto with the signal of `config`, at several costs; None without modes 1, 2 and 3."""
    ladder = build_ladder(by_protocol, config.auto_signal)
    if ladder is None or not ladder.cost[0].sum():
        return None
    unit = float(ladder.cost[0].mean())
    low, high = unit, float(ladder.cost[2].mean())
    plain = _measured(by_protocol, MODE_0, unit)
    return {
        "signal": config.auto_signal,
        "questions": ladder.questions,
        "modes": {
            **({MODE_0.name: plain} if plain else {}),
            **{
                protocol.name: _point(right, float(cost.mean()) / unit)
                for protocol, right, cost in zip(MODES, ladder.right, ladder.cost, strict=True)
            },
        },
        "auto": _measured(by_protocol, AS_RUN, unit),
        "simulated": [_simulate(ladder, low + share * (high - low), unit, config.seed) for share in SHARES],
    }


def calibrate(by_protocol: Mapping[Protocol, Outcomes], config: ModeConfig, multiple: float) -> dict[str, Any] | None:
    """Thresholds of mode auto for a mean cost of at most `multiple` times that of mode 1.

    The proposed ones come from all questions, the figures from halves that had no say in theirs. None without modes 1,
    2 and 3.
    """
    ladder = build_ladder(by_protocol, config.auto_signal)
    if ladder is None or not ladder.cost[0].sum():
        return None
    unit = float(ladder.cost[0].mean())
    first, second = choose_thresholds(ladder, multiple * unit)
    return {
        "signal": config.auto_signal,
        "wanted_cost": multiple,
        "thresholds": [write_threshold(first), write_threshold(second)],
        **_simulate(ladder, multiple * unit, unit, config.seed),
    }


def write_threshold(value: float) -> float | str:
    """JSON has no infinity."""
    return "inf" if value == math.inf else value


def choose_thresholds(ladder: Ladder, budget: float) -> tuple[float, float]:
    """The pair with the highest accuracy at a mean cost of at most `budget`; of equal ones the cheapest.

    Mode 1 alone, the cheapest there is, where nothing fits.
    """
    best = ((-1.0, 0.0), (math.inf, math.inf))
    for first in _candidates(ladder.unsure[0]):
        for second in _candidates(ladder.unsure[1]):
            right, cost = (float(values.mean()) for values in ladder.at(ladder.stages(first, second)))
            if cost <= budget * (1 + 1e-9):
                best = max(best, ((right, -cost), (first, second)))
    return best[1]


def _candidates(unsure: Floats) -> list[float]:
    """Never, always, and thresholds between that split the finite values evenly."""
    values = np.unique(unsure[np.isfinite(unsure) & (unsure > 0)])
    between = (values[1:] + values[:-1]) / 2
    picked = between[np.unique(np.linspace(0, len(between) - 1, GRID - 2).astype(int))] if len(between) else between
    return [0.0, *map(float, picked), math.inf]


def _simulate(ladder: Ladder, budget: float, unit: float, seed: int) -> dict[str, Any]:
    first_half = split_halves(ladder.questions, seed=seed)
    stages = np.zeros(ladder.questions, np.intp)
    thresholds = []
    for half in (first_half, ~first_half):
        pair = choose_thresholds(ladder.part(half), budget)
        stages[~half] = ladder.part(~half).stages(*pair)
        thresholds.append([write_threshold(value) for value in pair])
    right, cost = ladder.at(stages)
    spent = float(cost.mean())
    return {
        **_point(right, spent / unit),
        "thresholds_of_halves": thresholds,
        "ended": [int((stages == k).sum()) for k in range(3)],
        "random": _against(right, spread_at_random(ladder, spent), seed),
        "margin": _against(right, spread_by_margin(ladder, spent), seed),
    }


def _point(right: Floats, multiple: float) -> dict[str, Any]:
    n, k = len(right), round(float(right.sum()))
    return {"cost": multiple, "right": k, "accuracy": float(right.mean()), "interval": list(wilson(k, n))}


def _measured(by_protocol: Mapping[Protocol, Outcomes], protocol: Protocol, unit: float) -> dict[str, Any] | None:
    """A protocol as it was run on the questions that modes 1, 2 and 3 have answered, if it was run on all of them."""
    found, common = by_protocol.get(protocol, {}), _common(by_protocol)
    if not all(number in found for number in common):
        return None
    outcomes = [found[number] for number in common]
    right = np.array([outcome.is_right for outcome in outcomes], np.float64)
    return _point(right, float(np.mean([outcome.completion_tokens for outcome in outcomes])) / unit)


def _against(right: Floats, expected: Floats, seed: int) -> dict[str, Any]:
    """expected: how likely the control gets each question right."""
    gain = right - expected
    difference = bootstrap(lambda drawn: float(gain[drawn].mean()), len(gain), seed=seed)
    return {"accuracy": float(expected.mean()), "difference": describe(difference)}


def spread_at_random(ladder: Ladder, spent: float) -> Floats:
    """Escalating at random at this mean cost: by way of mode 2, or from mode 1 to mode 3, whichever is better."""
    return max((_mix(ladder, spent, path) for path in ((0, 1, 2), (0, 2))), key=lambda expected: float(expected.mean()))


def _mix(ladder: Ladder, spent: float, path: Sequence[int]) -> Floats:
    """The mean of two neighbours on a path of modes that costs this much."""
    costs = [float(ladder.cost[k].mean()) for k in path]
    at = next((i for i in range(1, len(path) - 1) if spent <= costs[i]), len(path) - 1)
    low, high = costs[at - 1], costs[at]
    share = min(1.0, max(0.0, (spent - low) / (high - low))) if high > low else 1.0
    mixed: Floats = (1 - share) * ladder.right[path[at - 1]] + share * ladder.right[path[at]]
    return mixed


def spread_by_margin(ladder: Ladder, spent: float) -> Floats:
    """Mode 2 for all, then mode 3 where the margin of votes is smallest, as far as the cost goes.

    Of questions with equal margins each is as likely as the others. Where not even mode 2 fits, it is for some at
    random: a single answer has no margin.
    """
    if spent < float(ladder.cost[1].mean()):
        return _mix(ladder, spent, (0, 1))
    left = spent * ladder.questions - float(ladder.cost[1].sum())
    more = ladder.cost[2] - ladder.cost[1]
    share = np.zeros(ladder.questions)
    for margin in np.unique(ladder.margin):
        group = ladder.margin == margin
        need = float(more[group].sum())
        share[group] = 1.0 if need <= left else max(0.0, left / need)
        left -= need
        if left <= 0:
            break
    mixed: Floats = (1 - share) * ladder.right[1] + share * ladder.right[2]
    return mixed
