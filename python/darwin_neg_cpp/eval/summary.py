"""Computes the report's figures, from a ledger alone. What depends on when and where it ran is under "timing"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import combinations
from statistics import median
from typing import Any

from ..protocols.modes import ModeConfig
from ..protocols.protocol import Protocol
from . import claims, plans
from .abstaining import propose_thresholds
from .ledger_lines import NOTES, Call, Contents, Outcome
from .rating import rate_signals
from .settings import read_config
from .spending import calibrate, rate_spending
from .statistics import paired, wilson

FORMAT = 1

Outcomes = dict[int, Outcome]  # those of one protocol, by number of the question
MODE_0, MODE_1 = Protocol("mode", 0), Protocol("mode", 1)


def summarize(
    contents: Contents, *, wanted_accuracy: float | None = None, auto_cost: float | None = None
) -> dict[str, Any]:
    """Returns the whole report as JSON-ready values. Shares are between 0 and 1, entropies in nats.

    wanted_accuracy: propose thresholds for abstaining. auto_cost: propose thresholds of mode auto for this cost, in
    multiples of mode 1's.
    """
    settings = contents.settings
    config = read_config(settings)
    by_protocol = _group_by_protocol(contents.outcomes)
    base = by_protocol.get(MODE_0, {})
    protocols = {
        protocol.name: {
            "title": plans.describe(protocol, config),
            **_accuracy(list(outcomes.values())),
            **_shares(outcomes),
            **_cost(outcomes, base),
            "gate": _gate(_calls(outcomes), plans.has_gate(protocol, config)),
            "by_margin": _by_margin(outcomes),
        }
        for protocol, outcomes in by_protocol.items()
    }
    return {
        "format": FORMAT,
        "data": contents.names.get("data", ""),
        "model": contents.names.get("model", ""),
        "names": {name: value for name, value in contents.names.items() if name not in NOTES},
        **{name: list(contents.names.get(name, ())) for name in NOTES},
        "settings": settings,
        "commands": list(dict.fromkeys(session.command for session in contents.sessions if session.command)),
        "chance": _chance(contents.outcomes),
        "protocols": protocols,
        "comparisons": [
            {"a": a.name, "b": b.name, **_compare(by_protocol[a], by_protocol[b], config.seed)}
            for a, b in _pairs(list(by_protocol), config)
        ],
        "confidence": {
            protocol.name: rating
            for protocol, outcomes in by_protocol.items()
            if (rating := rate_signals(outcomes, config.seed)) is not None
        },
        "spending": rate_spending(by_protocol, config),
        **_proposals(by_protocol, config, wanted_accuracy, auto_cost),
        "domains": _domains(by_protocol),
        "greedy": _compare_tokens(base, by_protocol.get(MODE_1, {})),
        "claims": _claims() if contents.names.get("diamond") else None,
        "questions": _questions(by_protocol),
        "timing": _timing(contents, by_protocol),
    }


def _proposals(
    by_protocol: Mapping[Protocol, Outcomes], config: ModeConfig, wanted_accuracy: float | None, auto_cost: float | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if wanted_accuracy is not None:
        found["abstaining"] = {
            protocol.name: proposal
            for protocol, outcomes in by_protocol.items()
            if protocol.is_mode and (proposal := propose_thresholds(outcomes, wanted_accuracy, config.seed)) is not None
        }
    if auto_cost is not None:
        found["calibration"] = calibrate(by_protocol, config, auto_cost)
    return found


def _group_by_protocol(outcomes: Sequence[Outcome]) -> dict[Protocol, Outcomes]:
    """Groups outcomes: modes first, then controls by size; questions in the order of their file."""
    ordered = sorted(outcomes, key=lambda outcome: (outcome.protocol, outcome.number))
    groups: dict[Protocol, Outcomes] = {}
    for outcome in ordered:
        groups.setdefault(outcome.protocol, {})[outcome.number] = outcome
    return groups


def _calls(outcomes: Outcomes) -> list[Call]:
    return [call for outcome in outcomes.values() for call in outcome.calls]


def _accuracy(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    right = sum(outcome.is_right for outcome in outcomes)
    return {
        "questions": len(outcomes),
        "right": right,
        "accuracy": right / len(outcomes) if outcomes else None,
        "interval": list(wilson(right, len(outcomes))),
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shares(outcomes: Outcomes) -> dict[str, Any]:
    """Shares of uncancelled candidates (unparsed, truncated, fallback) and of questions (the other figures)."""
    calls = [call for call in _calls(outcomes) if call.finish_reason != "cancelled"]
    n = len(outcomes)
    return {
        "unparsed": _share(sum(call.choice is None for call in calls), len(calls)),
        "truncated": _share(sum(call.finish_reason == "length" for call in calls), len(calls)),
        "fallback": _share(sum(call.how == "fallback" for call in calls), len(calls)),
        "unanswered": _share(sum(outcome.choice is None for outcome in outcomes.values()), n),
        "tied": _share(sum(outcome.tied for outcome in outcomes.values()), n),
        "asked_again": _share(sum(outcome.second_opinions > 0 for outcome in outcomes.values()), n),
    }


def _cost(outcomes: Outcomes, base: Outcomes) -> dict[str, Any]:
    """cost_multiple: completion tokens, divided by those of mode 0 (`base`) on the same questions."""
    rows = list(outcomes.values())
    total = {name: sum(getattr(row, name) for row in rows) for name in ("planned", "started", "finished")}
    common = [number for number in outcomes if number in base]
    own, other = (sum(group[number].completion_tokens for number in common) for group in (outcomes, base))
    completion = sum(row.completion_tokens for row in rows)
    return {
        "inferences": {
            **total,
            "saved": total["planned"] - total["finished"],
            "second_opinions": sum(row.second_opinions for row in rows),
        },
        "tokens": {
            "prompt": sum(row.prompt_tokens for row in rows),
            "completion": completion,
            "completion_per_question": completion / len(rows) if rows else None,
        },
        "cost_multiple": own / other if other else None,
    }


def _gate(calls: Sequence[Call], on: bool) -> dict[str, float | None] | None:
    """Averages over generated tokens; None without a head. activation_rate: None if NEG was off."""
    seen = [call for call in calls if call.activation_rate is not None and call.mean_entropy is not None]
    tokens = sum(call.tokens for call in seen)
    if not tokens:
        return None
    return {
        "activation_rate": sum(call.tokens * (call.activation_rate or 0.0) for call in seen) / tokens if on else None,
        "mean_predicted_entropy": sum(call.tokens * (call.mean_entropy or 0.0) for call in seen) / tokens,
    }


def _by_margin(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Groups questions by the votes between their first and second choice; those without an answer are left out."""
    answered = [outcome for outcome in outcomes.values() if outcome.choice is not None]
    margins = sorted({outcome.margin for outcome in answered})
    return [
        {"margin": margin, **_accuracy([outcome for outcome in answered if outcome.margin == margin])}
        for margin in margins
    ]


def _pairs(protocols: list[Protocol], config: ModeConfig) -> list[tuple[Protocol, Protocol]]:
    """Pairs every mode with every lower one, and with its control."""
    modes = [protocol for protocol in protocols if protocol.is_mode]
    pairs = [(b, a) for a, b in combinations(modes, 2)]
    for mode in modes:
        control = plans.find_control(mode, config) if mode.votes and not mode.is_auto else None
        if control in protocols:
            pairs.append((mode, control))
    return pairs


def _compare(a: Outcomes, b: Outcomes, seed: int) -> dict[str, Any]:
    common = [number for number in a if number in b]
    comparison = paired([a[number].is_right for number in common], [b[number].is_right for number in common], seed=seed)
    return {**asdict(comparison), "interval": list(comparison.interval)}


def _domains(by_protocol: Mapping[Protocol, Outcomes]) -> list[dict[str, Any]]:
    domains = {outcome.domain for outcomes in by_protocol.values() for outcome in outcomes.values()}
    if len(domains) < 2:
        return []
    return [
        {
            "domain": domain,
            "protocols": {
                protocol.name: _accuracy([outcome for outcome in outcomes.values() if outcome.domain == domain])
                for protocol, outcomes in by_protocol.items()
            },
        }
        for domain in sorted(domains)
    ]


def _compare_tokens(off: Outcomes, on: Outcomes) -> dict[str, int] | None:
    """Counts the tokens of modes 0 and 1 that differ, position by position; the gate cannot change any.

    All tokens by which one answer is longer than the other differ.
    """
    common = [number for number in off if number in on]
    if not common:
        return None
    texts = [(off[number].calls[0].token_ids, on[number].calls[0].token_ids) for number in common]
    differ = [sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b)) for a, b in texts]
    return {
        "questions": len(common),
        "questions_that_differ": sum(count > 0 for count in differ),
        "tokens": sum(max(len(a), len(b)) for a, b in texts),
        "tokens_that_differ": sum(differ),
    }


def _claims() -> dict[str, Any]:
    return {
        "source": claims.SOURCE,
        "activation_rate": claims.ACTIVATION_RATE,
        "questions": claims.QUESTIONS,
        "protocols": {protocol.name: asdict(claim) for protocol, claim in claims.CLAIMS.items()},
    }


def _chance(outcomes: Sequence[Outcome]) -> float | None:
    """Returns the expected accuracy of guessing, over the questions answered."""
    choices = {outcome.number: outcome.n_choices for outcome in outcomes}
    return sum(1 / n for n in choices.values()) / len(choices) if choices else None


def _questions(by_protocol: Mapping[Protocol, Outcomes]) -> list[dict[str, Any]]:
    """Lists the questions by id alone: no text of the set is in a report."""
    any_outcome = {number: outcome for outcomes in by_protocol.values() for number, outcome in outcomes.items()}
    return [
        {
            "id": any_outcome[number].question,
            "domain": any_outcome[number].domain,
            "right": {
                protocol.name: outcomes[number].is_right
                for protocol, outcomes in by_protocol.items()
                if number in outcomes
            },
        }
        for number in sorted(any_outcome)
    ]


def _timing(contents: Contents, by_protocol: Mapping[Protocol, Outcomes]) -> dict[str, Any]:
    """seconds_per_question: from start to answer; questions that run side by side wait for each other."""
    seconds = {
        protocol.name: [outcome.seconds for outcome in outcomes.values()] for protocol, outcomes in by_protocol.items()
    }
    return {
        "seconds": sum(session.seconds for session in contents.sessions),
        "sessions": [
            {
                "started": datetime.fromtimestamp(session.started, timezone.utc).isoformat(timespec="seconds"),
                "seconds": session.seconds,
                "answers": session.answers,
                "machine": dict(session.machine),
            }
            for session in contents.sessions
        ],
        "seconds_per_question": {
            name: {"mean": sum(values) / len(values), "median": median(values)} for name, values in seconds.items()
        },
    }
