"""Chooses the protocols that an evaluation runs: the modes asked for, and controls for those that vote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import RequestError
from ..protocols.modes import Mode, ModeConfig, Plan, control, plan
from ..protocols.protocol import MAX_SAMPLES, Protocol
from ..protocols.signals import SIGNALS


def choose(modes: Iterable[Mode], config: ModeConfig, *, controls: bool = True) -> list[Plan]:
    """Returns the plans of the modes in ascending order, then those of their controls. Errors: RequestError."""
    if isinstance(modes, str) or not isinstance(modes, Iterable):
        raise RequestError(f"modes must be a list of numbers from 0 to 3, got {type(modes).__name__}")
    protocols = sorted(Protocol.of_mode(mode) for mode in modes)
    if not protocols or len(set(protocols)) < len(protocols):
        raise RequestError("modes must be one or more of 0, 1, 2, 3 and 'auto', each once")
    chosen = [plan(protocol.mode, config) for protocol in protocols]
    if controls:
        # those of mode auto are computed by the report, from the answers of the other modes
        chosen += [_plan_control(protocol, config) for protocol in protocols if protocol.votes and not protocol.is_auto]
    # with unusual settings both controls may be the same
    return list({chosen_plan.protocol: chosen_plan for chosen_plan in chosen}.values())


def find_control(mode: Protocol, config: ModeConfig) -> Protocol | None:
    """Returns the control of a mode that votes, None when it would need more samples than a control can have.

    It has as many samples as the mode has candidates, those of mode 3 including all its second opinions, so that the
    control never has fewer.
    """
    samples = _inferences(mode, config)
    return Protocol("self-consistency", samples) if samples <= MAX_SAMPLES else None


def choose_in_flight(chosen: Sequence[Plan], n_parallel: int) -> int:
    """Returns how many questions to work on at once.

    Enough to keep n_parallel places occupied while one question ends, and no more, because early stopping saves less
    the more candidates of other questions run in between.
    """
    if n_parallel == 1:
        return 1
    mean = sum(chosen_plan.candidates for chosen_plan in chosen) / len(chosen)
    return 1 + max(1, round(n_parallel / mean))


def has_gate(protocol: Protocol, config: ModeConfig) -> bool:
    """Whether NEG is on in a protocol."""
    return config.gate and protocol.is_mode and protocol.mode != 0


def describe(protocol: Protocol, config: ModeConfig) -> str:
    """Says what a protocol does, in a few words."""
    neg = "NEG" if config.gate else "NEG off"
    if not protocol.is_mode:
        return "control: one ordering, sampled, NEG off, majority"
    if protocol.is_auto:
        first, second = config.auto_first_threshold, config.auto_second_threshold
        return (
            f"mode 1 while its {SIGNALS[config.auto_signal]} is below {first:g}, else 2 while below {second:g}, else 3"
        )
    if protocol.number == 0:
        return "greedy, NEG off"
    if protocol.number == 1:
        return f"greedy, {neg}"
    if protocol.number == 2:
        return f"{config.orderings} orderings, greedy, {neg}, majority"
    return (
        f"{config.orderings} orderings, each greedy and {config.samples} samples, {neg}, "
        f"then up to {config.second_opinions} second opinions"
    )


def _plan_control(mode: Protocol, config: ModeConfig) -> Plan:
    found = find_control(mode, config)
    if found is None:
        usual = ModeConfig()
        settings = [(name, getattr(config, name)) for name in ("orderings", "samples", "second_opinions")]
        # of the numbers that multiply, those that somebody gave
        given = " and ".join(f"{name}={value}" for name, value in settings if value > getattr(usual, name))
        raise RequestError(
            f"{mode.name}: with {given}, its control would need more than {MAX_SAMPLES} samples, the most that it can "
            "have; lower the numbers, or leave the controls out with controls=False"
        )
    return control(found.number, config)


def _inferences(mode: Protocol, config: ModeConfig) -> int:
    the_plan = plan(mode.mode, config)
    return the_plan.candidates + the_plan.second_opinions
