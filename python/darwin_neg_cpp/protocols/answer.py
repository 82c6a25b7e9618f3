"""What a protocol comes to: an answer, the candidates that voted for it, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from .extract import How
from .protocol import Protocol
from .question import LETTERS, Ordering, Question
from .signals import Signals

Round = Literal["first", "second opinion"]


@dataclass(frozen=True)
class Candidate:
    """One inference.

    number: place in the order by which ties are resolved. ordering: index of the choice shown at each letter. seed,
        sample: what its text depends on, besides the prompt.
    letter: as read from the text, "" when there is none. choice: index of the choice at that letter, None without a
        letter. how: by which rule it was read.
    mean_entropy (nats), activation_rate: as predicted, None without a head.
    counted: whether it took part in the vote, with or without a letter; False when it was cancelled or failed, or ended
        after the answer was certain.
    error: why it failed, with finish_reason "error". signals: of its certainty, None when it did not come to an end.
    """

    number: int
    kind: Round
    ordering: Ordering
    temperature: float
    seed: int
    sample: int
    text: str
    letter: str
    choice: int | None
    how: How
    tokens: int
    finish_reason: str
    mean_entropy: float | None
    activation_rate: float | None
    token_ids: tuple[int, ...] = ()
    counted: bool = True
    error: str | None = None
    signals: Signals | None = None


@dataclass(frozen=True)
class Cost:
    """What an answer cost.

    planned: inferences of the full protocol. started: how many of them generated anything. finished: how many were not
        cancelled.
    prompt_tokens: each prompt once, of those that were started. completion_tokens: cancelled candidates included.
    seconds: wall time from the question's start to its answer; questions that run side by side share the machine.
    """

    planned: int
    started: int
    finished: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @property
    def saved(self) -> int:
        """Inferences of the full protocol that were not run to their end."""
        return self.planned - self.finished


@dataclass(frozen=True)
class Answer:
    """The answer to a question under a protocol.

    choice: index of the winner, None when no candidate could be read, or the model abstained. votes: number for each
        choice. tied: whether the number of votes alone did not decide. margin: votes between the first and the second.
    second_opinions: how many were asked for. stopped: "complete", or "certain" when the other candidates were cancelled
        because they could not change the winner; votes, tied and margin are then those that made it certain.
    abstained: why the answer is withheld, None unless it is; choice is then None, and votes are as they were.
    """

    question: Question
    protocol: Protocol
    choice: int | None
    votes: tuple[int, ...]
    tied: bool
    margin: int
    candidates: tuple[Candidate, ...]
    second_opinions: int
    stopped: Literal["complete", "certain"]
    cost: Cost
    abstained: str | None = None

    @property
    def mode(self) -> str:
        """The protocol's name, such as "mode 3"."""
        return self.protocol.name

    @property
    def text(self) -> str | None:
        """The winning choice."""
        return None if self.choice is None else self.question.choices[self.choice]

    @property
    def letter(self) -> str:
        """Letter of the winning choice, in the order in which the question lists its choices; "" without an answer."""
        return "" if self.choice is None else LETTERS[self.choice]

    @property
    def unparsed(self) -> int:
        """Number of candidates that ended and could not be read."""
        return sum(candidate.choice is None for candidate in self.candidates if candidate.finish_reason != "cancelled")

    @property
    def fallbacks(self) -> int:
        """Number of candidates that were read by the fallback."""
        return sum(candidate.how == "fallback" for candidate in self.candidates)

    @property
    def truncated(self) -> int:
        """Number of candidates that reached max_tokens or the end of the context."""
        return sum(candidate.finish_reason == "length" for candidate in self.candidates)

    def as_dict(self) -> dict[str, Any]:
        """Returns everything as JSON-ready values. Numbers that are not finite become None."""
        return {
            "question": dataclasses.asdict(self.question),
            "mode": self.mode,
            "choice": self.choice,
            "letter": self.letter,
            "text": self.text,
            "votes": self.votes,
            "tied": self.tied,
            "margin": self.margin,
            "candidates": tuple(_candidate_dict(candidate) for candidate in self.candidates),
            "second_opinions": self.second_opinions,
            "stopped": self.stopped,
            "abstained": self.abstained,
            "cost": {**dataclasses.asdict(self.cost), "saved": self.cost.saved},
            "unparsed": self.unparsed,
            "fallbacks": self.fallbacks,
            "truncated": self.truncated,
        }


def _candidate_dict(candidate: Candidate) -> dict[str, Any]:
    values = dataclasses.asdict(candidate)
    for name in ("mean_entropy", "activation_rate"):
        if values[name] is not None and not math.isfinite(values[name]):
            values[name] = None
    return values
