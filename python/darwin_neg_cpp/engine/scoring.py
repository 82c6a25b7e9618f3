"""Running given texts through the model, a group of them at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ContextFullError, RequestError, one_line
from ..results import NegTrace, Scores
from .token_ids import name_prompt

if TYPE_CHECKING:
    from .._core import Engine

# Tokens of one call into the engine, which sets up a context of its own each time. Its results are held whole: a row
# of 4096 floats a token.
TOKENS_AT_ONCE = 8192


def group_texts(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The texts in order, in groups of about TOKENS_AT_ONCE tokens, at least one text each."""
    group: list[Sequence[int]] = []
    held = 0
    for text in texts:
        if group and held + len(text) > TOKENS_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(text)
        held += len(text)
    if group:
        yield group


def check_texts(texts: Sequence[Sequence[int]]) -> None:
    if not all(len(text) for text in texts):
        raise RequestError(name_prompt("prompt has no tokens; give at least one", texts))


def score(
    engine: Engine, texts: Sequence[Sequence[int]], *, threshold: float | None, hidden: bool, top: int
) -> Generator[Scores, None, None]:
    """See DarwinNEG.score. threshold: of the gate, None for a model without a head."""
    for group in group_texts(texts):
        try:
            with one_line():
                out = engine.score(group, hidden=hidden, top=top)
        except ContextFullError as error:
            raise ContextFullError(name_prompt(str(error), texts)) from None
        begin = 0
        for text in group:
            rows = slice(begin, begin + len(text))
            begin += len(text)
            values = {name: None if value is None else value[rows] for name, value in out.items()}
            yield _scores(text, values, threshold)


def _scores(text: Sequence[int], out: dict[str, Any], threshold: float | None) -> Scores:
    predicted = out["predicted_entropy"]
    none = (len(text), 0)
    return Scores(
        token_ids=np.asarray(text, np.int32),
        entropy=out["true_entropy"],
        neg=None if predicted is None else NegTrace(predicted, predicted > np.float32(threshold or 0), threshold),
        logprobs=out["logprobs"],
        top_ids=np.empty(none, np.int32) if out["top_ids"] is None else out["top_ids"],
        top_logprobs=np.empty(none, np.float32) if out["top_logprobs"] is None else out["top_logprobs"],
        hidden=out["hidden"],
    )
