"""What single tokens stand for, for results that name them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DarwinNegError
from ..results import Generation, TokenText

if TYPE_CHECKING:
    from .._core import Engine


class TokenTexts:
    """The texts of a vocabulary's tokens, looked up when first asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[int, TokenText] = {}

    def add_to(self, out: Generation | list[Generation]) -> Generation | list[Generation]:
        """The generations with the texts of all tokens that their log-probabilities are about."""
        if isinstance(out, list):
            return [self._add(sample) for sample in out]
        return self._add(out)

    def _add(self, sample: Generation) -> Generation:
        if sample.logprobs is None:
            return sample
        ids = {*sample.token_ids.tolist(), *sample.logprobs.top_ids.ravel().tolist()}
        try:
            texts = self._texts(ids)
        except DarwinNegError:  # the model was closed meanwhile; the answer is there all the same
            return sample
        return replace(sample, logprobs=replace(sample.logprobs, texts=texts))

    def _texts(self, ids: Iterable[int]) -> dict[int, TokenText]:
        for token in ids:
            if token not in self._known:
                self._known[token] = TokenText(self._decode(token, True), self._decode(token, False))
        return {token: self._known[token] for token in ids}

    def _decode(self, token: int, special: bool) -> bytes:
        # some tokenizers drop the space that a text begins with, so the token is decoded after another one
        first = self._engine.detokenize([token], special)
        return self._engine.detokenize([token, token], special)[len(first) :]
