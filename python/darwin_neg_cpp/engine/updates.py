"""Turns the engine's updates into chunks and generations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import DarwinNegError, RequestError
from ..results import Chunk, FinishReason, Generation, NegTrace, TokenLogprobs

if TYPE_CHECKING:
    from .._core import SampleUpdate, Update
    from .token_texts import TokenTexts


class Failures:
    """Watches the samples of some requests end. A sample that failed says so itself, unless all of them have failed."""

    def __init__(self) -> None:
        self._first: DarwinNegError | None = None
        self._any_other = False

    def note(self, update: Update) -> None:
        """Takes note of the samples that have ended in an update."""
        for sample in update["samples"]:
            if sample["error"] is not None:
                self._first = self._first or _error(sample, sample["error"])
            elif sample["finish_reason"] is not None:
                self._any_other = True

    def raise_if_all(self) -> None:
        """To be called when everything has ended. Raises the first error if there is nothing else to return."""
        if self._first is not None and not self._any_other:
            raise self._first


class Results:
    """The results of some requests, for whoever waits until all of their samples have ended."""

    def __init__(self, n: int, model: str, texts: TokenTexts) -> None:
        self._n, self._model, self._texts = n, model, texts
        self._failures = Failures()
        self._done: dict[int, Generation | list[Generation]] = {}

    def __len__(self) -> int:
        """How many requests have ended."""
        return len(self._done)

    def add(self, update: Update) -> None:
        """Takes the update of a request that has ended."""
        self._failures.note(update)
        self._done[update["request"]] = read_generations(update, self._n, self._model)

    def take(self, requests: Sequence[int]) -> list[Generation | list[Generation]]:
        """A Generation for each request, or a list of n. Raises if every sample failed."""
        self._failures.raise_if_all()
        return [self._texts.add_to(self._done[request]) for request in requests]


def raise_fault(update: Update) -> None:
    """Raises when a sample failed through no fault of its request, so that others would fail as well."""
    for sample in update["samples"]:
        if sample["error"] is not None and sample["finish_reason"] != "refused":
            raise _error(sample, sample["error"])


def read_chunks(update: Update) -> list[Chunk]:
    """The new part of every sample that has one. That of a sample that failed is its last."""
    return [_chunk(sample, update) for sample in update["samples"] if _has_news(sample)]


def read_generations(update: Update, n: int, model: str) -> Generation | list[Generation]:
    """The samples of a request that has ended, in one update; one sample is not put into a list."""
    whole = [join_chunks([chunk], model) for chunk in read_chunks(update)]
    return whole[0] if n == 1 else whole


def _has_news(sample: SampleUpdate) -> bool:
    return len(sample["token_ids"]) > 0 or sample["finish_reason"] is not None or sample["error"] is not None


def _error(sample: SampleUpdate, message: str) -> DarwinNegError:
    refused = sample["finish_reason"] == "refused"  # the request is at fault, mostly its grammar
    return (RequestError if refused else DarwinNegError)(message)


def _chunk(sample: SampleUpdate, update: Update) -> Chunk:
    entropy, active = sample["entropy"], sample["active"]
    neg = NegTrace(entropy, active, update["neg_threshold"]) if entropy is not None and active is not None else None
    return Chunk(
        text="".join(sample["pieces"]),
        token_ids=sample["token_ids"],
        pieces=tuple(sample["pieces"]),
        neg=neg,
        logprobs=_logprobs(sample),
        true_entropy=sample["true_entropy"],
        ends_inside=sample["ends_inside"],
        index=sample["index"],
        finish_reason="error" if sample["error"] is not None else cast("FinishReason | None", sample["finish_reason"]),
        stop=sample["stop"],
        seed=update["seed"],
        prompt_tokens=update["n_prompt_tokens"],
        cached_tokens=update["n_cached_tokens"],
        prompt_seconds=update["prompt_seconds"],
        generate_seconds=update["generate_seconds"],
        error=sample["error"],
    )


def _logprobs(sample: SampleUpdate) -> TokenLogprobs | None:
    chosen = sample["logprobs"]
    if chosen is None:
        return None
    ids, top = sample["top_ids"], sample["top_logprobs"]
    if ids is None or top is None:
        ids, top = np.zeros((len(chosen), 0), np.int32), np.zeros((len(chosen), 0), np.float32)
    return TokenLogprobs(chosen, ids, top)


def join_chunks(parts: Sequence[Chunk], model: str) -> Generation:
    """Joins one sample's chunks, which are in order."""
    last = parts[-1]
    negs = [part.neg for part in parts if part.neg is not None]
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    inside = [part.ends_inside for part in parts if part.ends_inside is not None]
    true = [part.true_entropy for part in parts if part.true_entropy is not None]
    return Generation(
        text="".join(part.text for part in parts),
        token_ids=np.concatenate([part.token_ids for part in parts]),
        finish_reason=last.finish_reason or "cancelled",
        neg=_join_neg(negs) if negs else None,
        logprobs=_join_logprobs(logprobs) if logprobs else None,
        true_entropy=np.concatenate(true) if true else None,
        stop=last.stop,
        seed=last.seed,
        index=last.index,
        pieces=tuple(piece for part in parts for piece in part.pieces),
        ends_inside=np.concatenate(inside) if len(inside) == len(parts) else None,
        prompt_tokens=last.prompt_tokens,
        cached_tokens=last.cached_tokens,
        prompt_seconds=last.prompt_seconds,
        generate_seconds=last.generate_seconds,
        model=model,
        error=last.error,
    )


def _join_neg(parts: list[NegTrace]) -> NegTrace:
    entropy, active = (np.concatenate([getattr(part, name) for part in parts]) for name in ("entropy", "active"))
    return NegTrace(entropy, active, parts[-1].threshold)


def _join_logprobs(parts: list[TokenLogprobs]) -> TokenLogprobs:
    return TokenLogprobs(
        np.concatenate([part.chosen for part in parts]),
        np.concatenate([part.top_ids for part in parts]),
        np.concatenate([part.top for part in parts]),
    )
