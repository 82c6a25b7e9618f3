"""The decoding modes as plans: which candidates are generated for a question, with what settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from ..checks import check_choice, check_flag, check_integer, check_number
from ..errors import RequestError
from .prompts import PROMPTS
from .protocol import AUTO, MODES, Mode, Protocol
from .signals import DEFAULT, check_signal

__all__ = ["AUTO", "MODES", "Mode", "ModeConfig", "ModeOptions", "Plan", "control", "merge", "plan"]


@dataclass(frozen=True)
class ModeConfig:
    """Every number of the protocols. The defaults are what the documentation calls modes 0 to 3.

    orderings: of the choices, in modes 2 and 3; at most as many as a question has choices, so that no prompt is asked
        twice. samples: sampled candidates for each ordering in mode 3, in addition to its greedy one.
    temperature, top_p, top_k (0: off), min_p (0: off): sampling of candidates.
    second_opinions: maximum number in mode 3; they are asked for only while as many votes could change the winner.
    second_opinion_temperature: of all second opinions but the first in each order.
    extract_characters: characters of the reasoning that a second opinion is shown for each side.
    max_tokens: maximum number of new tokens of each candidate. thinking: switches the chat template's reasoning on, if
        it has one. prompt: name of the prompt's form.
    gate: modes 1 to 3 and auto use the NEG gate; False runs them without it, and on models without a head.
    seed: random seed, combined with each question's id.
    auto_signal: name of what mode auto takes for uncertainty (see signals). auto_first_threshold: below it the greedy
        answer is taken; auto_second_threshold: below it that of the orderings. 0 is never, infinity always. The
        defaults are guesses, until `eval --calibrate-auto` has replaced them.

    Errors: RequestError.
    """

    orderings: int = 4
    samples: int = 3
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    second_opinions: int = 4
    second_opinion_temperature: float = 0.7
    extract_characters: int = 600
    max_tokens: int = 2048
    thinking: bool = False
    prompt: str = "simple-evals"
    seed: int = 0
    gate: bool = True
    auto_signal: str = DEFAULT
    auto_first_threshold: float = 0.25
    auto_second_threshold: float = 0.25

    def __post_init__(self) -> None:
        for name, low, high in (
            ("orderings", 1, 26),
            ("samples", 0, 1000),
            ("top_k", 0, 2**31 - 1),
            ("second_opinions", 0, 100),
            ("extract_characters", 0, 100_000),
            ("max_tokens", 1, 2**31 - 1),
            ("seed", 0, 2**63 - 1),
        ):
            self._set(name, check_integer(name, getattr(self, name), low=low, high=high))
        # at 0 every sampled candidate would repeat the greedy one, and its vote
        for name in ("temperature", "second_opinion_temperature"):
            hint = " (the greedy candidates come anyway)"
            self._set(name, check_number(name, getattr(self, name), above=0, hint=hint))
        for name in ("top_p", "min_p"):
            self._set(name, check_number(name, getattr(self, name), low=0, high=1))
        for name in ("thinking", "gate"):
            self._set(name, check_flag(name, getattr(self, name)))
        for name in ("auto_first_threshold", "auto_second_threshold"):
            self._set(name, check_number(name, getattr(self, name), low=0, infinite=(math.inf,)))
        check_choice("prompt", self.prompt, tuple(PROMPTS))
        check_signal("auto_signal", self.auto_signal)

    def _set(self, name: str, value: object) -> None:
        """Stores what a check returned: numbers of NumPy could not be written as JSON."""
        object.__setattr__(self, name, value)


class ModeOptions(TypedDict, total=False):
    """The fields of ModeConfig as keyword arguments."""

    orderings: int
    samples: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    second_opinions: int
    second_opinion_temperature: float
    extract_characters: int
    max_tokens: int
    thinking: bool
    prompt: str
    seed: int
    gate: bool
    auto_signal: str
    auto_first_threshold: float
    auto_second_threshold: float


@dataclass(frozen=True)
class Plan:
    """What a protocol generates.

    One prompt for each of at most `orderings` orderings, and for each prompt one candidate per temperature (0: greedy).
    neg: whether the gate is on. second_opinions: maximum number.
    """

    protocol: Protocol
    neg: bool
    orderings: int
    temperatures: tuple[float, ...]
    second_opinions: int = 0

    def __post_init__(self) -> None:
        if self.orderings < 1 or not self.temperatures:
            raise RequestError(f"{self.name}: has no candidates; give at least one ordering and one temperature")

    @property
    def name(self) -> str:
        return self.protocol.name

    def stages(self, orderings: int) -> list[list[tuple[int, int]]]:
        """What is generated together, as (number of the ordering, number of the temperature).

        Mode auto has three stages, those of modes 1, 2 and 3, of which the last two may be empty. All others have one.
        """
        together = [(j, k) for k in range(len(self.temperatures)) for j in range(orderings)]
        return [together[:1], together[1:orderings], together[orderings:]] if self.protocol.is_auto else [together]

    @property
    def candidates(self) -> int:
        """Number without second opinions, for a question with at least as many choices as there are orderings."""
        return self.orderings * len(self.temperatures)

    def most(self, n_choices: int) -> int:
        """Maximum number of inferences for a question with `n_choices` choices, second opinions included."""
        return min(self.orderings, n_choices) * len(self.temperatures) + self.second_opinions

    def second_opinion_temperatures(self, config: ModeConfig) -> tuple[tuple[float, ...], ...]:
        """Temperatures of the second opinions that show the leading choice first, and of those that show it second.

        The first of each is greedy, the others are sampled.
        """
        halves = ((self.second_opinions + 1) // 2, self.second_opinions // 2)
        sampled = config.second_opinion_temperature
        return tuple((0.0, *(sampled,) * (half - 1)) for half in halves if half)


def plan(mode: Mode, config: ModeConfig) -> Plan:
    """Plans a decoding mode.

    0: greedy, gate off. 1: greedy, gate on. 2: greedy over orderings. 3: greedy and sampled over orderings, then second
    opinions. "auto": the candidates of mode 3, one stage after the other as long as the model is unsure.
    Errors: RequestError.
    """
    protocol = Protocol.of_mode(mode)
    if mode in (0, 1):
        return Plan(protocol, mode == 1 and config.gate, 1, (0.0,))
    if mode == 2:
        return Plan(protocol, config.gate, config.orderings, (0.0,))
    sampled = (config.temperature,) * config.samples
    return Plan(protocol, config.gate, config.orderings, (0.0, *sampled), config.second_opinions)


def control(samples: int, config: ModeConfig) -> Plan:
    """Plans plain self-consistency with the gate off: `samples` samples of the prompt of modes 0 and 1."""
    protocol = Protocol("self-consistency", samples)
    return Plan(protocol, False, 1, (config.temperature,) * protocol.number)


def merge(config: ModeConfig | None, options: Mapping[str, Any]) -> ModeConfig:
    """Returns `config` (or the defaults) with single fields replaced."""
    if config is not None and not isinstance(config, ModeConfig):
        raise RequestError(f"config must be a ModeConfig object, got {type(config).__name__}; name single options")
    known = [field.name for field in dataclasses.fields(ModeConfig)]
    if unknown := sorted(set(options) - set(known)):
        raise RequestError(f"unknown option {unknown[0]!r}; known are {', '.join(known)}")
    return dataclasses.replace(config or ModeConfig(), **options)
