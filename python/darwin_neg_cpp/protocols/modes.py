"""The decoding modes as plans: which candidates are generated for a question, with what settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from ..errors import RequestError
from .prompts import PROMPTS

MODES = (0, 1, 2, 3)


def plan(mode: int, config: ModeConfig) -> Plan:
    """0: greedy, gate off. 1: greedy, gate on. 2: greedy over orderings. 3: greedy and sampled over orderings, then second opinions."""
    if isinstance(mode, bool) or mode not in MODES:
        raise RequestError(f"mode must be 0, 1, 2 or 3, got {mode!r}")
    if mode in (0, 1):
        return Plan(f"mode {mode}", mode == 1 and config.gate, 1, (0.0,))
    if mode == 2:
        return Plan("mode 2", config.gate, config.orderings, (0.0,))
    sampled = (float(config.temperature),) * config.samples
    return Plan("mode 3", config.gate, config.orderings, (0.0, *sampled), config.second_opinions)


def control(samples: int, config: ModeConfig) -> Plan:
    """Plain self-consistency with the gate off: so many samples of one prompt, the one of modes 0 and 1."""
    if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= 1000:
        raise RequestError(f"samples must be a whole number between 1 and 1000, got {samples!r}")
    return Plan(f"self-consistency {samples}", False, 1, (float(config.temperature),) * samples)


def merge(config: ModeConfig | None, options: Mapping[str, Any]) -> ModeConfig:
    """`config` (or the defaults) with single fields on top."""
    if config is not None and not isinstance(config, ModeConfig):
        raise RequestError(f"config must be a ModeConfig object, got {type(config).__name__}; name single options")
    known = [field.name for field in dataclasses.fields(ModeConfig)]
    if unknown := sorted(set(options) - set(known)):
        raise RequestError(f"unknown option {unknown[0]!r}; known are {', '.join(known)}")
    return dataclasses.replace(config or ModeConfig(), **options)


@dataclass(frozen=True)
class ModeConfig:
    """Every number of the protocols. The defaults are what the documentation calls modes 0 to 3.

    orderings: of the choices, in modes 2 and 3; at most as many as a question has choices, so that none is asked twice. samples: sampled
        candidates for each ordering in mode 3, beside its greedy one.
    temperature, top_p, top_k (0: off), min_p (0: off): of sampled candidates.
    second_opinions: at most, in mode 3, asked only while as many votes could change the winner; temperature of all but the first for each order.
    extract_characters: of the reasoning that a second opinion is shown for each side.
    max_tokens: of each candidate. thinking: switches the chat template's reasoning on, where it has one. prompt: name of the prompt's form.
    gate: modes 1 to 3 use the NEG gate; False runs them without, and then a model without a head will do.
    seed: with the question's id, of everything drawn.

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
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise RequestError(f"{name} must be a whole number between {low} and {high}, got {value!r}")
        for name in ("temperature", "second_opinion_temperature"):
            if not (_is_number(value := getattr(self, name)) and 0 < value < math.inf):
                # at 0 every sampled candidate would repeat the greedy one, and its vote
                raise RequestError(f"{name} must be a number above 0, got {value!r}; the greedy candidates come anyway")
        for name in ("top_p", "min_p"):
            if not (_is_number(value := getattr(self, name)) and 0 <= value <= 1):
                raise RequestError(f"{name} must be a number between 0 and 1, got {value!r}")
        for name in ("thinking", "gate"):
            if not isinstance(value := getattr(self, name), bool):
                raise RequestError(f"{name} must be True or False, got {value!r}")
        if self.prompt not in PROMPTS:
            raise RequestError(f"prompt must be one of {', '.join(PROMPTS)}, got {self.prompt!r}")


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


@dataclass(frozen=True)
class Plan:
    """What a mode generates: for each of at most `orderings` orderings one prompt, and for each prompt one candidate per temperature (0: greedy).

    neg: whether the gate is on. second_opinions: at most.
    """

    name: str
    neg: bool
    orderings: int
    temperatures: tuple[float, ...]
    second_opinions: int = 0

    def __post_init__(self) -> None:
        if self.orderings < 1 or not self.temperatures:
            raise RequestError(f"{self.name}: has no candidates; give at least one ordering and one temperature")

    @property
    def candidates(self) -> int:
        """Without second opinions, for a question with as many choices as there are orderings, or more."""
        return self.orderings * len(self.temperatures)

    def most(self, n_choices: int) -> int:
        """Inferences at most for a question with so many choices, second opinions included."""
        return min(self.orderings, n_choices) * len(self.temperatures) + self.second_opinions

    def second_opinion_temperatures(self, config: ModeConfig) -> tuple[tuple[float, ...], ...]:
        """Of the second opinions, for the leading choice shown first and for it shown second: greedy ones first, the rest sampled."""
        halves = ((self.second_opinions + 1) // 2, self.second_opinions // 2)
        sampled = float(config.second_opinion_temperature)
        return tuple((0.0, *(sampled,) * (half - 1)) for half in halves if half)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
