"""Stretches of a generated text at which the model was unsure, by the entropy of its tokens.

A character may be made of several tokens, and a token may end one character and begin the next: a character counts as
uncertain where any of its tokens does. Tokens without text (end and control tokens, those of a stop string) do not
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
ELSEWHERE = -1  # a character that no token has written


@dataclass(frozen=True)
class UncertainSpan:
    """A stretch of text of uncertain characters.

    start, end: its characters in the text, end exclusive. text: those. first_token, end_token: the tokens from the
    first to the last uncertain one of the stretch, end exclusive. mean_entropy, max_entropy: of these, nats.
    """

    start: int
    end: int
    text: str
    first_token: int
    end_token: int
    mean_entropy: float
    max_entropy: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def token_offsets(pieces: Sequence[str], ends_inside: Sequence[bool] | npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Returns the characters of the text that each token has a part in, begin and end, int32 [tokens, 2].

    pieces: the text of each token. ends_inside: whether a token ends inside a character, which then comes later.
    """
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int32)
    begins = ends - np.array([len(piece) for piece in pieces], np.int32)
    # a character that some token has begun, but that did not come, is not in the text
    total = ends[-1] if len(ends) else 0
    return np.stack([begins, np.minimum(ends + np.asarray(ends_inside, np.int32), total)], axis=1)


def find_spans(
    text: str, offsets: npt.NDArray[np.int32], entropy: Floats, threshold: float, origins: Sequence[int] | None = None
) -> list[UncertainSpan]:
    """Finds the stretches of a text above a threshold, in order.

    offsets: see token_offsets. entropy: at each token, nats. threshold: compared in float32, as the gate does.
    origins: place of each character of `text` in what the tokens wrote, ELSEWHERE if nowhere; None: the same place.
    """
    places = range(len(text)) if origins is None else origins
    written = int(offsets[:, 1].max(initial=0))
    first, last = np.full(written, ELSEWHERE, np.int64), np.full(written, ELSEWHERE, np.int64)
    for token in np.flatnonzero(entropy > np.float32(threshold)):
        begin, end = offsets[token]
        last[begin:end] = token
        first[begin:end] = np.where(first[begin:end] == ELSEWHERE, token, first[begin:end])
    spans = []
    start = 0
    while start < len(text):
        end = start
        # characters that follow each other here, but not in what was written, are two stretches
        while (
            end < len(text)
            and 0 <= places[end] < written
            and first[places[end]] != ELSEWHERE
            and places[end] - places[start] == end - start
        ):
            end += 1
        if end > start:
            tokens = slice(int(first[places[start]]), int(last[places[end - 1]]) + 1)
            values = entropy[tokens].astype(np.float64)
            mean, most = float(values.mean()), float(values.max())
            spans.append(UncertainSpan(start, end, text[start:end], tokens.start, tokens.stop, mean, most))
        start = max(end, start + 1)
    return spans


def find_origins(part: str, whole: str, after: int = 0) -> list[int]:
    """Returns the place in `whole` of each character of a part of it that stands after `after`; see find_spans.

    The part may lack some of what stands there, as the marks of a tool call.
    """
    at = len(whole.rstrip()) - len(part.rstrip())
    if not (at >= after and whole.startswith(part.rstrip(), at)):
        at = whole.find(part, after)
    if at >= 0:
        return [k if k < len(whole) else ELSEWHERE for k in range(at, at + len(part))]
    origins, done = [], after
    for character in part:
        place = whole.find(character, done)
        origins.append(place if place >= 0 else ELSEWHERE)
        done = place + 1 if place >= 0 else done
    return origins
