"""Which protocols an evaluation runs: the modes asked for, and for those that vote a control with as many samples."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RequestError
from ..protocols.modes import ModeConfig, Plan, control, plan

VOTING_MODES = (2, 3)


def plans(modes: Sequence[int], config: ModeConfig, *, controls: bool = True) -> list[Plan]:
    """Modes in ascending order, then their controls."""
    if not modes or len(set(modes)) < len(modes):
        raise RequestError("modes must be one or more of 0, 1, 2 and 3, each once")
    chosen = [plan(mode, config) for mode in sorted(modes)]
    if controls:
        chosen += [control(control_samples(mode, config), config) for mode in sorted(modes) if mode in VOTING_MODES]
    # with unusual settings both controls may be the same
    return list({one.name: one for one in chosen}.values())


def control_samples(mode: int, config: ModeConfig) -> int:
    """As many as the mode runs; of mode 3 with all its second opinions, so that the control never has fewer."""
    the_plan = plan(mode, config)
    return the_plan.candidates + the_plan.second_opinions


def in_flight(chosen: Sequence[Plan], n_parallel: int) -> int:
    """Questions to work on at once: enough to keep n_parallel places taken while one ends, and no more, because early stopping saves
    less the more candidates of other questions run in between.
    """
    if n_parallel == 1:
        return 1
    mean = sum(one.candidates for one in chosen) / len(chosen)
    return 1 + max(1, round(n_parallel / mean))


def has_gate(name: str, config: ModeConfig) -> bool:
    """Whether NEG is on in a protocol."""
    return config.gate and name.startswith("mode ") and name != "mode 0"


def described(name: str, config: ModeConfig) -> str:
    """What a protocol does, in a few words."""
    neg = "NEG" if config.gate else "NEG off"
    if name == "mode 0":
        return "greedy, NEG off"
    if name == "mode 1":
        return f"greedy, {neg}"
    if name == "mode 2":
        return f"{config.orderings} orderings, greedy, {neg}, majority"
    if name == "mode 3":
        return (
            f"{config.orderings} orderings, each greedy and {config.samples} samples, {neg}, "
            f"then up to {config.second_opinions} second opinions"
        )
    return "control: one ordering, sampled, NEG off, majority"
