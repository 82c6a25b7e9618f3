"""What a candidate tells about its own certainty: predicted entropies, log-probabilities, and true entropies if asked.

Each has a name, under which it is recorded, compared, and chosen as the measure of `auto` and of abstaining. As an
uncertainty it is larger the less sure the model is, so that log-probabilities change their sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..checks import check_choice
from .extract import find_letter

# by name, as an uncertainty; entropies in nats
SIGNALS: Mapping[str, str] = MappingProxyType(
    {
        "mean_entropy": "mean predicted entropy",
        "max_entropy": "maximum predicted entropy",
        "last_quarter_entropy": "mean predicted entropy of the last quarter",
        "letter_entropy": "predicted entropy at the letter",
        "letter_logprob": "minus log-probability of the letter",
        "logprob": "minus log-probability of the whole answer",
        "true_mean_entropy": "mean true entropy",
        "true_max_entropy": "maximum true entropy",
        "true_last_quarter_entropy": "mean true entropy of the last quarter",
        "true_letter_entropy": "true entropy at the letter",
    }
)
LOGPROBS = ("letter_logprob", "logprob")
# those of the letter, whose token is not always known, and the same of the whole answer
WHOLE_OF_LETTER: Mapping[str, str] = MappingProxyType(
    {"letter_entropy": "mean_entropy", "letter_logprob": "logprob", "true_letter_entropy": "true_mean_entropy"}
)
TRUE_ENTROPIES = tuple(name for name in SIGNALS if name.startswith("true_"))
DEFAULT = "mean_entropy"


@dataclass(frozen=True)
class Signals:
    """Of one candidate, next to its mean predicted entropy; None where there is none: without a head, without a letter,
    from servers (which tell no log-probabilities), and true entropies unless they were asked for.

    Entropies in nats, log-probabilities natural. Predicted and true: of the distribution that each token was drawn
    from. last_quarter_entropy: mean over the last quarter of the tokens, rounded up. letter_...: at the token that the
    letter of the answer is in. logprob: of all tokens together.
    """

    max_entropy: float | None = None
    last_quarter_entropy: float | None = None
    letter_entropy: float | None = None
    letter_logprob: float | None = None
    logprob: float | None = None
    true_mean_entropy: float | None = None
    true_max_entropy: float | None = None
    true_last_quarter_entropy: float | None = None
    true_letter_entropy: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


Values = npt.ArrayLike | None


def measure(
    text: str,
    pieces: Sequence[str],
    letters: str,
    *,
    truncated: bool = False,
    entropy: Values = None,
    logprobs: Values = None,
    true_entropy: Values = None,
    opened: str = "",
) -> Signals:
    """Computes the signals of a candidate.

    text: as generated, without what the prompt has opened, which is `opened`. pieces: text of each token. letters:
    those that were offered. truncated: see extract. entropy, logprobs, true_entropy: by token.
    """
    place = find_letter(opened + text, letters, truncated=truncated)
    token = None if place is None else token_at(pieces, place - len(opened))
    predicted, true = _summary(entropy, token), _summary(true_entropy, token)
    chosen = _column(logprobs)
    return Signals(
        max_entropy=predicted[1],
        last_quarter_entropy=predicted[2],
        letter_entropy=predicted[3],
        letter_logprob=_at(chosen, token),
        logprob=None if chosen is None else float(chosen.sum()),
        true_mean_entropy=true[0],
        true_max_entropy=true[1],
        true_last_quarter_entropy=true[2],
        true_letter_entropy=true[3],
    )


def token_at(pieces: Sequence[str], place: int) -> int | None:
    """Index of the token that character `place` of the text is in; None outside of the text."""
    if place < 0:
        return None
    ends = np.cumsum([len(piece) for piece in pieces])
    token = int(np.searchsorted(ends, place, side="right"))
    return token if token < len(pieces) else None


def uncertainty(name: str, mean_entropy: float | None, signals: Signals | None) -> float | None:
    """A signal of a candidate as an uncertainty, None where it has none."""
    if name == "mean_entropy":
        return mean_entropy
    value: float | None = None if signals is None else getattr(signals, name)
    return -value if value is not None and name in LOGPROBS else value


class Certain(Protocol):
    """What has signals: a candidate, or a ledger's record of one."""

    @property
    def choice(self) -> int | None: ...
    @property
    def counted(self) -> bool: ...
    @property
    def mean_entropy(self) -> float | None: ...
    @property
    def signals(self) -> Signals | None: ...


def uncertainty_of_answer(name: str, choice: int | None, candidates: Iterable[Certain]) -> float | None:
    """A signal of an answer: its mean over the candidates that voted for it; None where one of them has none."""
    voters = [one for one in candidates if one.counted and one.choice is not None and one.choice == choice]
    values = [uncertainty(name, one.mean_entropy, one.signals) for one in voters]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def check_signal(argument: str, name: object) -> str:
    """Errors: RequestError."""
    check_choice(argument, name, tuple(SIGNALS))
    return str(name)


def _column(values: Values) -> npt.NDArray[np.float64] | None:
    """None for what is missing, empty or not finite throughout."""
    column = None if values is None else np.asarray(values, np.float64)
    return column if column is not None and len(column) and np.isfinite(column).all() else None


def _at(column: npt.NDArray[np.float64] | None, token: int | None) -> float | None:
    return float(column[token]) if column is not None and token is not None and token < len(column) else None


def _summary(values: Values, token: int | None) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, maximum, mean of the last quarter, and the value at a token."""
    column = _column(values)
    if column is None:
        return None, None, None, None
    last = column[-((len(column) + 3) // 4) :]
    return float(column.mean()), float(column.max()), float(last.mean()), _at(column, token)
