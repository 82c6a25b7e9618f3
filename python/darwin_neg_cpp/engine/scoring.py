"""Running given texts through the model, a group of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import RequestError
from ..results import Evaluation, NegTrace

if TYPE_CHECKING:
    from .._core import Engine

# Tokens of one call into the engine, which sets up a context of its own each time. What comes back is held whole: a row of 4096 floats a token.
TOKENS_AT_ONCE = 8192


def groups(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
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


def evaluate(
    engine: Engine, texts: Sequence[Sequence[int]], *, threshold: float | None, hidden: bool, top: int
) -> Iterator[Evaluation]:
    """threshold: of the gate, None for a model without a head. See DarwinNEG.evaluate."""
    for text in texts:
        if not len(text):
            raise RequestError("a text has no tokens; give at least one token")
    for group in groups(texts):
        out = engine.evaluate(group, hidden=hidden, top=top)
        begin = 0
        for text in group:
            rows = slice(begin, begin + len(text))
            begin += len(text)
            yield _one(text, {key: None if value is None else value[rows] for key, value in out.items()}, threshold)


def _one(text: Sequence[int], out: dict[str, Any], threshold: float | None) -> Evaluation:
    predicted = out["predicted_entropy"]
    none = (len(text), 0)
    return Evaluation(
        token_ids=np.asarray(text, np.int32),
        entropy=out["true_entropy"],
        neg=None if predicted is None else NegTrace(predicted, predicted > np.float32(threshold or 0)),
        logprobs=out["logprobs"],
        top_ids=np.empty(none, np.int32) if out["top_ids"] is None else out["top_ids"],
        top_logprobs=np.empty(none, np.float32) if out["top_logprobs"] is None else out["top_logprobs"],
        hidden=out["hidden"],
    )
