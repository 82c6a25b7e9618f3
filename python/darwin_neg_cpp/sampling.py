"""What a request asks for: sampling parameters and the use of the NEG gate."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .errors import RequestError

NegActionName = Literal["mask", "sample", "off"]

# The schema parser of llama.cpp recurses; honest schemas are far flatter.
MAX_SCHEMA_DEPTH = 100
MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Neg:
    """How the NEG gate acts on one request. Unset values (None) are those of the model file.

    enabled: False evaluates the head, and reports its entropies, without gating.
    threshold: nats; the gate is active where the predicted entropy is greater. `math.inf` never, 0 nearly always.
    top_k: tokens that stay choosable where the gate is active.
    use_temp_scale: divide the kept logits by the model's `temp_scale`; off unless the model file says otherwise.
    action: "mask" (default) restricts the choice; under greedy decoding that changes nothing, because the most likely token
        is always kept. "sample" draws from the kept tokens where the gate is active, also when decoding is greedy. "off" as enabled=False.
    """

    enabled: bool = True
    threshold: float | None = None
    top_k: int | None = None
    use_temp_scale: bool | None = None
    action: NegActionName = "mask"

    def __post_init__(self) -> None:
        if self.action not in get_args(NegActionName):
            raise RequestError(f"neg.action must be 'mask', 'sample' or 'off', got {self.action!r}")
        if self.threshold is not None:
            _number("neg.threshold", self.threshold, low=0.0, allow_inf=True)
        if self.top_k is not None:
            _integer("neg.top_k", self.top_k, low=1)


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request, with the names and defaults of llama.cpp.

    max_tokens: new tokens per sample; None: to the end of the answer, or of the context (finish_reason "length").
    temperature: 0 decodes greedily. top_k (0 = off), top_p, min_p, typical_p (1 = off): truncation of the distribution.
    repeat_penalty (1 = off) and the OpenAI-style frequency_penalty and presence_penalty (0 = off) look at the last
        repeat_last_n tokens (-1: the whole context).
    stop: strings that end the answer; they are not part of it.
    seed: None draws one, which the result reports. Sample k of a request depends on (seed, k) alone.
    n: samples of the prompt; it is decoded once.
    logprobs: None, or how many of the most likely tokens to report per position, 0 for the chosen one only; natural
        logarithms of the model's own distribution (temperature 1, before gate, grammar and penalties).
    grammar: GBNF. json_schema: a dict or JSON text. At most one of them.
    logit_bias: {token id: added logit}; -inf bans a token.
    neg: use of the gate; None: as the model file says.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: Sequence[str] | str = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    grammar: str | None = None
    json_schema: Mapping[str, Any] | str | None = None
    logit_bias: Mapping[int, float] | None = None
    ignore_eos: bool = False
    neg: Neg | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, low=0)
        _number("temperature", self.temperature, low=0.0)
        _integer("top_k", self.top_k, low=0)
        for name in ("top_p", "min_p", "typical_p"):
            _number(name, getattr(self, name), low=0.0, high=1.0)
        _number("repeat_penalty", self.repeat_penalty, low=1e-6)
        _integer("repeat_last_n", self.repeat_last_n, low=-1)
        _number("frequency_penalty", self.frequency_penalty)
        _number("presence_penalty", self.presence_penalty)
        if self.seed is not None:
            _integer("seed", self.seed, low=0, high=2**63 - 1)
        _integer("n", self.n, low=1, high=4096)
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, low=0)
        if self.grammar is not None and self.json_schema is not None:
            raise RequestError("grammar and json_schema are both given; give one")
        if self.neg is not None and not isinstance(self.neg, Neg):
            raise RequestError(f"neg must be a Neg object, got {type(self.neg).__name__}; write neg=Neg(...)")
        if not all(isinstance(text, str) for text in self.stop):
            raise RequestError("stop must be a string or a list of strings")


def merge(base: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """`base` (or the defaults) with explicit options on top; `max_new_tokens` means `max_tokens`, as in transformers."""
    options = dict(options)
    if "max_new_tokens" in options:
        if "max_tokens" in options:
            raise RequestError("max_tokens and max_new_tokens are both given; give one")
        options["max_tokens"] = options.pop("max_new_tokens")
    known = {field.name for field in dataclasses.fields(SamplingParams)}
    if unknown := sorted(set(options) - known):
        raise RequestError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}")
    return dataclasses.replace(base or SamplingParams(), **options)


def submit_arguments(params: SamplingParams, *, stream: bool) -> dict[str, Any]:
    """The keyword arguments of `_core.Engine.submit` for these parameters."""
    neg = params.neg or Neg()
    action = "default" if params.neg is None else ("off" if not neg.enabled else neg.action)
    stops = [params.stop] if isinstance(params.stop, str) else list(params.stop)
    bias = params.logit_bias or {}
    for token, value in bias.items():
        _integer("logit_bias token", token, low=0)
        if not isinstance(value, (int, float)) or math.isnan(value) or value == math.inf:
            raise RequestError(f"logit_bias of token {token} must be a number or -inf, got {value!r}")
    return {
        "n": params.n,
        "max_tokens": -1 if params.max_tokens is None else params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "typical_p": params.typical_p,
        "repeat_penalty": params.repeat_penalty,
        "repeat_last_n": params.repeat_last_n,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "seed": -1 if params.seed is None else params.seed,
        "stop": [encode("stop", text) for text in stops],
        "logit_bias": [(int(token), float(value)) for token, value in bias.items()],
        "logprobs": -1 if params.logprobs is None else params.logprobs,
        "grammar": params.grammar or "",
        "json_schema": _schema_text(params.json_schema),
        "ignore_eos": params.ignore_eos,
        "neg_action": action,
        "neg_threshold": neg.threshold,
        "neg_top_k": neg.top_k or 0,
        "neg_use_temp_scale": -1 if neg.use_temp_scale is None else int(neg.use_temp_scale),
        "stream": stream,
    }


def encode(name: str, text: str) -> bytes:
    """UTF-8, refusing halves of surrogate pairs, which no tokenizer can read."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(f"{name} holds a lone surrogate at character {error.start}; it is not valid Unicode text") from None


def _schema_text(schema: Mapping[str, Any] | str | None) -> str:
    if schema is None:
        return ""
    if not isinstance(schema, (str, Mapping)):
        raise RequestError(f"json_schema must be a dict or JSON text, got {type(schema).__name__}")
    try:
        value = json.loads(schema) if isinstance(schema, str) else schema
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"json_schema is not valid JSON: {error}") from None
    if _depth(value) > MAX_SCHEMA_DEPTH:
        raise RequestError(f"json_schema is nested deeper than {MAX_SCHEMA_DEPTH} levels; flatten it")
    return text


def _depth(value: Any) -> int:
    deepest, stack = 0, [(value, 1)]
    while stack and deepest <= MAX_SCHEMA_DEPTH:
        item, level = stack.pop()
        deepest = max(deepest, level)
        if isinstance(item, Mapping):
            stack += [(child, level + 1) for child in item.values()]
        elif isinstance(item, (list, tuple)):
            stack += [(child, level + 1) for child in item]
    return deepest


def _number(name: str, value: object, *, low: float = -math.inf, high: float = math.inf, allow_inf: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RequestError(f"{name} must be a number, got {value!r}")
    if math.isnan(value) or (math.isinf(value) and not allow_inf):
        raise RequestError(f"{name} must be a finite number, got {value!r}")
    if not low <= value <= high:
        raise RequestError(f"{name} must be {_range(low, high)}, got {value!r}")


def _integer(name: str, value: object, *, low: int, high: int = MAX_INT32) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise RequestError(f"{name} must be a whole number, got {value!r}")
    if not low <= value.__index__() <= high:
        raise RequestError(f"{name} must be {_range(low, high)}, got {value!r}")


def _range(low: float, high: float) -> str:
    if high in (math.inf, MAX_INT32):
        return f"at least {low:g}"
    return f"between {low:g} and {high:g}"
