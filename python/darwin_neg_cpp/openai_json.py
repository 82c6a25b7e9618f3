"""Results in OpenAI's JSON form, with the NEG trace under "neg"."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Trace(Protocol):
    """See results.NegTrace."""

    @property
    def entropy(self) -> npt.NDArray[np.float32]: ...
    @property
    def active(self) -> npt.NDArray[np.bool_]: ...
    @property
    def activation_rate(self) -> float: ...
    @property
    def mean_entropy(self) -> float: ...


class Logprobs(Protocol):
    """See results.TokenLogprobs."""

    @property
    def chosen(self) -> npt.NDArray[np.float32]: ...
    @property
    def top_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def top(self) -> npt.NDArray[np.float32]: ...


class Sample(Protocol):
    """See results.Generation."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def pieces(self) -> Sequence[str]: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def neg(self) -> Trace | None: ...
    @property
    def logprobs(self) -> Logprobs | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def model(self) -> str: ...


class Call(Protocol):
    """See results.ToolCall."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


def completion(sample: Sample) -> dict[str, Any]:
    """An OpenAI `text_completion` object."""
    out = _envelope(sample, "text_completion", {"text": sample.text})
    if sample.logprobs is not None:
        out["choices"][0]["logprobs"] = {
            "tokens": list(sample.pieces),
            "token_logprobs": json_numbers(sample.logprobs.chosen),
            "top_logprobs": None,
            "text_offset": _offsets(sample.pieces),
            **_top_tokens(sample.logprobs),
        }
    return out


def chat_completion(sample: Sample, *, text: str, reasoning: str, tool_calls: Sequence[Call]) -> dict[str, Any]:
    """An OpenAI `chat.completion` object. text, reasoning, tool_calls: the parts of the sample's text."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if tool_calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in tool_calls
        ]
    out = _envelope(sample, "chat.completion", {"message": message})
    if tool_calls and sample.finish_reason == "stop":
        out["choices"][0]["finish_reason"] = "tool_calls"
    if sample.logprobs is not None:
        out["choices"][0]["logprobs"] = {
            "content": [
                {"token": piece, "logprob": value, "bytes": list(piece.encode()), "top_logprobs": []}
                for piece, value in zip(sample.pieces, json_numbers(sample.logprobs.chosen), strict=False)
            ],
            **_top_tokens(sample.logprobs),
        }
    return out


def json_numbers(values: npt.NDArray[np.float32]) -> list[float | None]:
    """Floats for JSON, which knows neither NaN nor infinities: those become None."""
    return [value if math.isfinite(value) else None for value in map(float, values)]


def neg_json(trace: Trace) -> dict[str, Any]:
    """A trace as JSON-ready values."""
    rate, mean = trace.activation_rate, trace.mean_entropy
    return {
        "entropy": json_numbers(trace.entropy),
        "active": trace.active.tolist(),
        "activation_rate": rate,
        "mean_entropy": mean if math.isfinite(mean) else None,
    }


def _envelope(sample: Sample, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """An answer of this kind with one choice, which holds `content` and whatever all kinds have in common."""
    tokens = len(sample.token_ids)
    choice = {"index": sample.index, **content, "logprobs": None, "finish_reason": sample.finish_reason}
    choice["token_ids"] = sample.token_ids.tolist()
    if sample.error is not None:
        choice["error"] = sample.error
    if sample.neg is not None:
        choice["neg"] = {"tokens": list(sample.pieces), **neg_json(sample.neg)}
    return {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": sample.model,
        "seed": sample.seed,
        "choices": [choice],
        "usage": {
            "prompt_tokens": sample.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": sample.prompt_tokens + tokens,
        },
    }


def _offsets(pieces: Sequence[str]) -> list[int]:
    lengths = [0, *(len(piece) for piece in pieces)]
    return list(accumulate(lengths))[:-1]


def _top_tokens(logprobs: Logprobs) -> dict[str, Any]:
    # ids, because OpenAI's form by text loses tokens that share one
    return {
        "top_token_ids": logprobs.top_ids.tolist(),
        "top_token_logprobs": [json_numbers(row) for row in logprobs.top],
    }
