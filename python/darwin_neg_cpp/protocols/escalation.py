"""When mode auto takes an answer as it is and when it spends more on it; and when an answer is withheld."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..checks import check_number
from ..errors import RequestError
from .modes import AUTO, Mode, ModeConfig
from .signals import DEFAULT, SIGNALS, TRUE_ENTROPIES, WHOLE_OF_LETTER, Certain, check_signal, uncertainty_of_answer


def is_sure(stage: int, choice: int | None, candidates: Sequence[Certain], config: ModeConfig) -> bool:
    """Whether an answer needs no further stage: its uncertainty lies below the threshold.

    stage: that has ended, 1 or 2. candidates: so far. A threshold of 0 is never reached, one of infinity always. No
    answer, or a letter whose token is not known, is not sure. Errors: RequestError when the model gives no such signal.
    """
    threshold = config.auto_first_threshold if stage == 1 else config.auto_second_threshold
    if threshold in (0, math.inf):
        return threshold > 0
    value = _uncertainty("auto_signal", config.auto_signal, choice, candidates)
    return value is not None and value < threshold


def needs_true_entropy(
    modes: Iterable[Mode], config: ModeConfig, above: float | None = None, signal: str = DEFAULT
) -> bool:
    """Whether true entropies have to be recorded: mode auto spends by one, or answers are withheld by one.

    above, signal: what abstaining is about; without `above` nothing is withheld.
    """
    return (AUTO in modes and config.auto_signal in TRUE_ENTROPIES) or (above is not None and signal in TRUE_ENTROPIES)


def check_abstaining(above: object, signal: object) -> tuple[float | None, str]:
    """Errors: RequestError."""
    name = check_signal("abstain_signal", signal)
    return (None if above is None else check_number("abstain_above", above, low=0)), name


def reason_to_abstain(choice: int | None, candidates: Sequence[Certain], above: float, signal: str) -> str | None:
    """Says why an answer is withheld: its uncertainty lies above a threshold. None when it is not, and without one.

    Errors: RequestError when the model gives no such signal.
    """
    if choice is None:
        return None
    value = _uncertainty("abstain_signal", signal, choice, candidates)
    if value is None:
        return f"{SIGNALS[signal]} is not known, because the token of the letter is not"
    return f"{SIGNALS[signal]} {value:.3g} is above {above:g}" if value > above else None


def _uncertainty(argument: str, name: str, choice: int | None, candidates: Sequence[Certain]) -> float | None:
    """None where there is no answer, or where the token of its letter is not known. Errors: RequestError naming the
    argument, when the model gives no such signal."""

    def find(other: str) -> float | None:
        return uncertainty_of_answer(other, choice, candidates)

    value = find(name)
    if value is None and choice is not None and find(WHOLE_OF_LETTER.get(name, name)) is None:
        known = [other for other in SIGNALS if find(other) is not None]
        raise RequestError(
            f"{argument} {name!r} ({SIGNALS[name]}) is not known of this model's answers; choose one of those that "
            f"are: {', '.join(known) or 'there is none'}"
        )
    return value
