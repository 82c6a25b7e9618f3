"""The report's figures, from a ledger alone. All that depends on when and where it ran is under "timing"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import combinations
from statistics import median
from typing import Any

from ..protocols.modes import ModeConfig
from . import claims, plans
from .ledger import Call, Contents, Outcome
from .settings import config_of
from .statistics import paired, wilson

FORMAT = 1

Outcomes = dict[int, Outcome]  # of one protocol, by number of the question


def summarize(contents: Contents) -> dict[str, Any]:
    """The whole report as JSON-ready values. Shares are between 0 and 1, entropies in nats."""
    settings = contents.settings
    config = config_of(settings)
    by_protocol = _by_protocol(contents.outcomes)
    base = by_protocol.get("mode 0", {})
    protocols = {
        name: {
            "title": plans.described(name, config),
            **_accuracy(list(outcomes.values())),
            **_shares(outcomes),
            **_cost(outcomes, base),
            "gate": _gate([call for one in outcomes.values() for call in one.calls], plans.has_gate(name, config)),
            "by_margin": _by_margin(outcomes),
        }
        for name, outcomes in by_protocol.items()
    }
    return {
        "format": FORMAT,
        "data": contents.names.get("data", ""),
        "model": contents.names.get("model", ""),
        "names": dict(contents.names),
        "settings": settings,
        "commands": list(dict.fromkeys(one.command for one in contents.sessions if one.command)),
        "chance": _chance(contents.outcomes),
        "protocols": protocols,
        "comparisons": [
            {"a": a, "b": b, **_compared(by_protocol[a], by_protocol[b], config.seed)}
            for a, b in _pairs(list(by_protocol), config)
        ],
        "domains": _domains(by_protocol),
        "greedy": _greedy(base, by_protocol.get("mode 1", {})),
        "claims": _claims() if contents.names.get("diamond") else None,
        "questions": _questions(by_protocol),
        "timing": _timing(contents, by_protocol),
    }


def _by_protocol(outcomes: Sequence[Outcome]) -> dict[str, Outcomes]:
    """Modes first, then controls by size; questions in the order of their file, whenever they were answered."""

    def place(name: str) -> tuple[bool, int]:
        kind, _, number = name.rpartition(" ")
        return kind != "mode", int(number) if number.isdigit() else 0

    names = sorted({one.protocol for one in outcomes}, key=place)
    ordered = sorted(outcomes, key=lambda one: one.number)
    return {name: {one.number: one for one in ordered if one.protocol == name} for name in names}


def _accuracy(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    right = sum(one.is_right for one in outcomes)
    return {
        "questions": len(outcomes),
        "right": right,
        "accuracy": right / len(outcomes) if outcomes else None,
        "interval": list(wilson(right, len(outcomes))),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _finished(outcomes: Outcomes) -> list[Call]:
    return [call for one in outcomes.values() for call in one.calls if call.finish_reason != "cancelled"]


def _shares(outcomes: Outcomes) -> dict[str, Any]:
    """Of candidates that came to their own end: unparsed, truncated, fallback. Of questions: unanswered, tied, asked_again."""
    calls = _finished(outcomes)
    n = len(outcomes)
    return {
        "unparsed": _share(sum(call.choice is None for call in calls), len(calls)),
        "truncated": _share(sum(call.finish_reason == "length" for call in calls), len(calls)),
        "fallback": _share(sum(call.how == "fallback" for call in calls), len(calls)),
        "unanswered": _share(sum(one.choice is None for one in outcomes.values()), n),
        "tied": _share(sum(one.tied for one in outcomes.values()), n),
        "asked_again": _share(sum(one.second_opinions > 0 for one in outcomes.values()), n),
    }


def _cost(outcomes: Outcomes, base: Outcomes) -> dict[str, Any]:
    """inferences: planned, started, finished, saved. cost_multiple: completion tokens against mode 0's on the same questions."""
    rows = list(outcomes.values())
    total = {name: sum(getattr(one, name) for one in rows) for name in ("planned", "started", "finished")}
    common = [number for number in outcomes if number in base]
    own, other = (sum(one[number].completion_tokens for number in common) for one in (outcomes, base))
    completion = sum(one.completion_tokens for one in rows)
    return {
        "inferences": {
            **total,
            "saved": total["planned"] - total["finished"],
            "second_opinions": sum(one.second_opinions for one in rows),
        },
        "tokens": {
            "prompt": sum(one.prompt_tokens for one in rows),
            "completion": completion,
            "completion_per_question": completion / len(rows) if rows else None,
        },
        "cost_multiple": own / other if other else None,
    }


def _gate(calls: Sequence[Call], on: bool) -> dict[str, float | None] | None:
    """Means over generated tokens; None without a head. activation_rate: None where NEG was off."""
    seen = [call for call in calls if call.activation_rate is not None and call.mean_entropy is not None]
    tokens = sum(call.tokens for call in seen)
    if not tokens:
        return None
    return {
        "activation_rate": sum(call.tokens * (call.activation_rate or 0.0) for call in seen) / tokens if on else None,
        "mean_predicted_entropy": sum(call.tokens * (call.mean_entropy or 0.0) for call in seen) / tokens,
    }


def _by_margin(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Accuracy by the votes between the first and the second choice; questions without an answer are not among them."""
    answered = [one for one in outcomes.values() if one.choice is not None]
    margins = sorted({one.margin for one in answered})
    return [{"margin": margin, **_accuracy([one for one in answered if one.margin == margin])} for margin in margins]


def _pairs(names: list[str], config: ModeConfig) -> list[tuple[str, str]]:
    """Every mode against every lower one, and against its control."""
    modes = [name for name in names if name.startswith("mode ")]
    pairs = [(b, a) for a, b in combinations(modes, 2)]
    for mode in plans.VOTING_MODES:
        control = f"self-consistency {plans.control_samples(mode, config)}"
        if f"mode {mode}" in names and control in names:
            pairs.append((f"mode {mode}", control))
    return pairs


def _compared(a: Outcomes, b: Outcomes, seed: int) -> dict[str, Any]:
    common = [number for number in a if number in b]
    found = paired([a[number].is_right for number in common], [b[number].is_right for number in common], seed=seed)
    return {**asdict(found), "interval": list(found.interval)}


def _domains(by_protocol: Mapping[str, Outcomes]) -> list[dict[str, Any]]:
    names = dict.fromkeys(one.domain for outcomes in by_protocol.values() for one in outcomes.values())
    if len(names) < 2:
        return []
    return [
        {
            "domain": domain,
            "protocols": {
                name: _accuracy([one for one in outcomes.values() if one.domain == domain])
                for name, outcomes in by_protocol.items()
            },
        }
        for domain in sorted(names)
    ]


def _greedy(off: Outcomes, on: Outcomes) -> dict[str, int] | None:
    """Tokens of modes 0 and 1 that differ, position by position; a longer answer differs in all it has more. The gate cannot change one."""
    common = [number for number in off if number in on]
    if not common:
        return None
    texts = [(off[number].calls[0].token_ids, on[number].calls[0].token_ids) for number in common]
    differ = [sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b)) for a, b in texts]
    return {
        "questions": len(common),
        "questions_that_differ": sum(one > 0 for one in differ),
        "tokens": sum(max(len(a), len(b)) for a, b in texts),
        "tokens_that_differ": sum(differ),
    }


def _claims() -> dict[str, Any]:
    return {
        "source": claims.SOURCE,
        "activation_rate": claims.ACTIVATION_RATE,
        "protocols": {name: asdict(claim) for name, claim in claims.CLAIMS.items()},
    }


def _chance(outcomes: Sequence[Outcome]) -> float | None:
    """Expected accuracy of guessing, over the questions answered."""
    choices = {one.number: one.n_choices for one in outcomes}
    return sum(1 / n for n in choices.values()) / len(choices) if choices else None


def _questions(by_protocol: Mapping[str, Outcomes]) -> list[dict[str, Any]]:
    """Question by question, by id alone: no text of the set is in a report."""
    first = {number: one for outcomes in by_protocol.values() for number, one in outcomes.items()}
    return [
        {
            "id": first[number].question,
            "domain": first[number].domain,
            "right": {name: outcomes[number].is_right for name, outcomes in by_protocol.items() if number in outcomes},
        }
        for number in sorted(first)
    ]


def _timing(contents: Contents, by_protocol: Mapping[str, Outcomes]) -> dict[str, Any]:
    """seconds_per_question: from start to answer; where questions run side by side they wait for each other."""
    return {
        "seconds": sum(one.seconds for one in contents.sessions),
        "sessions": [
            {
                "started": datetime.fromtimestamp(one.started, timezone.utc).isoformat(timespec="seconds"),
                "seconds": one.seconds,
                "answers": one.answers,
                "machine": dict(one.machine),
            }
            for one in contents.sessions
        ],
        "seconds_per_question": {
            name: {
                "mean": sum(one.seconds for one in outcomes.values()) / len(outcomes),
                "median": median(one.seconds for one in outcomes.values()),
            }
            for name, outcomes in by_protocol.items()
        },
    }
