"""Results in OpenAI's JSON form, with the NEG trace under "neg"."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


UNLIKELY = -9999.0  # the log-probability that OpenAI gives a token which is none of the likely ones


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


class Text(Protocol):
    """See results.TokenText."""

    @property
    def written(self) -> bytes: ...
    @property
    def bytes(self) -> bytes: ...


class _Piece(NamedTuple):
    written: bytes
    bytes: bytes


class Logprobs(Protocol):
    """See results.TokenLogprobs."""

    @property
    def chosen(self) -> npt.NDArray[np.float32]: ...
    @property
    def top_ids(self) -> npt.NDArray[np.int32]: ...
    @property
    def top(self) -> npt.NDArray[np.float32]: ...
    @property
    def texts(self) -> Mapping[int, Text]: ...


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
    def true_entropy(self) -> npt.NDArray[np.float32] | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def error(self) -> str | None: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
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
        tokens = [_name(_text(sample, k), "bytes:") for k in range(len(sample.token_ids))]
        chosen = _logprobs(sample.logprobs.chosen)
        out["choices"][0]["logprobs"] = {
            "tokens": tokens,
            "token_logprobs": chosen,
            "top_logprobs": _tops_by_name(sample.logprobs, tokens, chosen),
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
        chosen = _logprobs(sample.logprobs.chosen)
        out["choices"][0]["logprobs"] = {
            "content": [
                {**_token(_text(sample, k), chosen[k]), "top_logprobs": _tops(sample.logprobs, k)}
                for k in range(len(sample.token_ids))
            ],
            "refusal": None,
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
    if sample.true_entropy is not None:
        choice["true_entropy"] = json_numbers(sample.true_entropy)
    return {
        "id": f"{'chatcmpl' if kind == 'chat.completion' else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": sample.model,
        "seed": sample.seed,
        "choices": [choice],
        "usage": {
            "prompt_tokens": sample.prompt_tokens,
            "prompt_tokens_details": {"cached_tokens": sample.cached_tokens},
            "completion_tokens": tokens,
            "total_tokens": sample.prompt_tokens + tokens,
        },
    }


def _text(sample: Sample, k: int) -> Text:
    """What token `k` of a sample stands for."""
    assert sample.logprobs is not None
    piece = sample.pieces[k].encode()
    return sample.logprobs.texts.get(int(sample.token_ids[k])) or _Piece(piece, piece)


def _name(text: Text, broken: str = "") -> str:
    """The token in words. A part of a character is spelled out, as OpenAI does. broken: goes before that."""
    try:
        return text.written.decode()
    except UnicodeDecodeError:
        return broken + text.written.decode("utf-8", "backslashreplace")


def _token(text: Text, logprob: float) -> dict[str, Any]:
    return {"token": _name(text), "logprob": logprob, "bytes": list(text.bytes)}


def _tops(logprobs: Logprobs, k: int) -> list[dict[str, Any]]:
    """The most likely tokens in the place of token `k`, the likeliest first."""
    pairs = zip(logprobs.top_ids[k].tolist(), _logprobs(logprobs.top[k]), strict=True)
    return [_token(logprobs.texts[token], logprob) for token, logprob in pairs if token in logprobs.texts]


def _tops_by_name(logprobs: Logprobs, tokens: Sequence[str], chosen: Sequence[float]) -> list[dict[str, float]] | None:
    """The same by name, the chosen token among them. Tokens that share a name: the likeliest of them."""
    if logprobs.top_ids.shape[1] == 0:
        return None
    out = []
    for k, token in enumerate(tokens):
        pairs = zip(logprobs.top_ids[k].tolist(), _logprobs(logprobs.top[k]), strict=True)
        likeliest: dict[str, float] = {}
        for top, logprob in pairs:
            if top in logprobs.texts:
                likeliest.setdefault(_name(logprobs.texts[top], "bytes:"), logprob)
        likeliest.setdefault(token, chosen[k])
        out.append(likeliest)
    return out


def _logprobs(values: npt.NDArray[np.float32]) -> list[float]:
    """Log-probabilities as OpenAI writes them, which has a number for what is not likely at all."""
    return [value if math.isfinite(value) else UNLIKELY for value in map(float, values)]


def _offsets(pieces: Sequence[str]) -> list[int]:
    lengths = [0, *(len(piece) for piece in pieces)]
    return list(accumulate(lengths))[:-1]


def _top_tokens(logprobs: Logprobs) -> dict[str, Any]:
    # ids too, because tokens may share a text
    return {
        "top_token_ids": logprobs.top_ids.tolist(),
        "top_token_logprobs": [json_numbers(row) for row in logprobs.top],
    }
