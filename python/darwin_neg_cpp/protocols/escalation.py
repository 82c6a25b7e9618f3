"""When mode auto takes an answer as it is, and when it spends more on it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import RequestError
from .modes import ModeConfig
from .signals import LETTERS, SIGNALS, Certain, uncertainty_of_answer

STAGES = ("the greedy answer", "the orderings", "everything")


def is_sure(stage: int, choice: int | None, candidates: Sequence[Certain], config: ModeConfig) -> bool:
    """Whether an answer needs no further stage: its uncertainty lies below the threshold.

    stage: that has ended, 1 or 2. candidates: so far. A threshold of 0 is never reached, one of infinity always. No
    answer, or a letter whose token is not known, is not sure. Errors: RequestError when the model gives no such signal.
    """
    threshold = config.auto_first_threshold if stage == 1 else config.auto_second_threshold
    if threshold in (0, math.inf):
        return threshold > 0
    name = config.auto_signal
    value = uncertainty_of_answer(name, choice, candidates)
    if value is None and choice is not None and name not in LETTERS:
        raise RequestError(
            f"auto_signal {name!r} ({SIGNALS[name]}) is not known of this model's answers; choose another one of "
            f"{', '.join(SIGNALS)}"
        )
    return value is not None and value < threshold
