"""What a request asks for: sampling parameters and the use of the NEG gate."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from .errors import RequestError

NegActionName = Literal["mask", "sample", "off"]

# llama.cpp turns JSON into grammars and templates by recursion on the C stack; honest input is far flatter and smaller.
MAX_JSON_DEPTH = 100
MAX_JSON_SIZE = 1_000_000
MAX_INT32 = 2**31 - 1


@dataclass(frozen=True)
class Neg:
    """How the NEG gate acts on one request. Unset values (None) are those of the model file.

    enabled: False evaluates the head, and reports its entropies, without gating.
    threshold: nats; the gate is active where the predicted entropy is greater. `math.inf` never, 0 nearly always.
    top_k: tokens that stay choosable where the gate is active.
    use_temp_scale: divide the kept logits by the model's `temp_scale`; off unless the model file says otherwise.
    action: "mask" (default) restricts the choice; under greedy decoding that changes nothing, because the most likely
        token is always kept. "sample" draws from the kept tokens where the gate is active, also when decoding is
        greedy. "off" is the same as enabled=False.
    """

    enabled: bool = True
    threshold: float | None = None
    top_k: int | None = None
    use_temp_scale: bool | None = None
    action: NegActionName = "mask"

    def __post_init__(self) -> None:
        _flag("neg.enabled", self.enabled)
        if self.action not in get_args(NegActionName):
            raise RequestError(f"neg.action must be 'mask', 'sample' or 'off', got {_shown(self.action)}")
        if self.threshold is not None:
            _number("neg.threshold", self.threshold, low=0, allow_inf=True)
        if self.top_k is not None:
            check_integer("neg.top_k", self.top_k, low=1)
        if self.use_temp_scale is not None:
            _flag("neg.use_temp_scale", self.use_temp_scale)


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request, with the names and defaults of llama.cpp.

    max_tokens: new tokens per sample; None: to the end of the answer, or of the context (finish_reason "length").
    temperature: 0 decodes greedily; a list of n numbers gives each sample its own. top_k (0 = off), top_p, min_p, typical_p (1 = off): truncation of the distribution.
    repeat_penalty (1 = off) and the OpenAI-style frequency_penalty and presence_penalty (0 = off) look at the last
        repeat_last_n tokens (-1: the whole context).
    stop: strings that end the answer; they are not part of it.
    seed: None draws one, which the result reports. Sample k of a request depends on (seed, k) alone.
    n: samples of the prompt; it is decoded once.
    logprobs: None, or how many of the most likely tokens to report per position, 0 for the chosen one only; natural
        logarithms of the model's own distribution (temperature 1, before gate, grammar and penalties).
    grammar: GBNF. json_schema: a dict or JSON text. At most one of them.
    logit_bias: {token id: added logit}; -inf bans a token.
    ignore_eos: go on after the end of the answer, to max_tokens.
    neg: use of the gate; None: as the model file says.

    Errors: RequestError, whose one line names the argument.
    """

    max_tokens: int | None = None
    temperature: float | Sequence[float] = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: Sequence[str] | str | None = ()
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
            check_integer("max_tokens", self.max_tokens, low=0, hint=" (None: no limit)")
        check_integer("n", self.n, low=1, high=4096)
        _check_temperature(self.temperature, self.n)
        check_integer("top_k", self.top_k, low=0)
        for name in ("top_p", "min_p", "typical_p"):
            _number(name, getattr(self, name), low=0, high=1)
        _number("repeat_penalty", self.repeat_penalty, low=1e-6)
        check_integer("repeat_last_n", self.repeat_last_n, low=-1)
        _number("frequency_penalty", self.frequency_penalty)
        _number("presence_penalty", self.presence_penalty)
        if self.seed is not None:
            check_integer("seed", self.seed, low=0, high=2**63 - 1, hint=" (None: draw one)")
        if self.logprobs is not None:
            check_integer("logprobs", self.logprobs, low=0)
        _check_stop(self.stop)
        if self.grammar is not None and self.json_schema is not None:
            raise RequestError("grammar and json_schema are both given; give one")
        if self.grammar is not None:
            encode("grammar", self.grammar)
        _schema_text(self.json_schema)
        _check_bias(self.logit_bias)
        _flag("ignore_eos", self.ignore_eos)
        if self.neg is not None and not isinstance(self.neg, Neg):
            raise RequestError(f"neg must be a Neg object, got {type(self.neg).__name__}; write neg=Neg(...)")


class Options(TypedDict, total=False):
    """The keyword arguments of a request: the fields of SamplingParams, and transformers' name for max_tokens."""

    max_tokens: int | None
    max_new_tokens: int | None
    temperature: float | Sequence[float]
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    stop: Sequence[str] | str | None
    seed: int | None
    n: int
    logprobs: int | None
    grammar: str | None
    json_schema: Mapping[str, Any] | str | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool
    neg: Neg | None


def merge(base: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """`base` (or the defaults) with explicit options on top; `max_new_tokens` means `max_tokens`."""
    if base is not None and not isinstance(base, SamplingParams):
        raise RequestError(f"params must be a SamplingParams object, got {type(base).__name__}; name single options")
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
    stops = [params.stop] if isinstance(params.stop, str) else list(params.stop or ())
    return {
        "n": int(params.n),
        "max_tokens": -1 if params.max_tokens is None else int(params.max_tokens),
        "temperature": _temperatures(params),
        "top_k": int(params.top_k),
        "top_p": float(params.top_p),
        "min_p": float(params.min_p),
        "typical_p": float(params.typical_p),
        "repeat_penalty": float(params.repeat_penalty),
        "repeat_last_n": int(params.repeat_last_n),
        "frequency_penalty": float(params.frequency_penalty),
        "presence_penalty": float(params.presence_penalty),
        "seed": -1 if params.seed is None else int(params.seed),
        "stop": [encode("stop", text) for text in stops],
        "logit_bias": [(int(token), float(value)) for token, value in (params.logit_bias or {}).items()],
        "logprobs": -1 if params.logprobs is None else int(params.logprobs),
        "grammar": params.grammar or "",
        "json_schema": _schema_text(params.json_schema),
        "ignore_eos": params.ignore_eos,
        "neg_action": action,
        "neg_threshold": None if neg.threshold is None else float(neg.threshold),
        "neg_top_k": int(neg.top_k or 0),
        "neg_use_temp_scale": -1 if neg.use_temp_scale is None else int(neg.use_temp_scale),
        "stream": stream,
    }


def _temperatures(params: SamplingParams) -> list[float]:
    """One for each sample."""
    if isinstance(params.temperature, Sequence):
        return [float(one) for one in params.temperature]
    return [float(params.temperature)] * params.n


def encode(name: str, text: object) -> bytes:
    """UTF-8, refusing halves of surrogate pairs, which no tokenizer can read."""
    if not isinstance(text, str):
        raise RequestError(f"{name} must be text (str), got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} holds a lone surrogate at character {error.start}; it is not valid Unicode text"
        ) from None


def json_text(name: str, value: object) -> str:
    """JSON for the engine; refuses, naming the argument, what is no JSON, too deep or too large."""
    _check_shape(name, value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{name} cannot be written as JSON: {error}") from None
    if len(encode(name, text)) > MAX_JSON_SIZE:
        raise RequestError(f"{name} is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
    return text


def _schema_text(schema: object) -> str:
    if schema is None:
        return ""
    if isinstance(schema, str):
        if len(schema) > MAX_JSON_SIZE:
            raise RequestError(f"json_schema is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
        try:
            schema = json.loads(schema)
        except RecursionError:
            raise RequestError(f"json_schema is nested deeper than {MAX_JSON_DEPTH} levels; flatten it") from None
        except ValueError as error:
            raise RequestError(f"json_schema is not valid JSON: {error}") from None
    if not isinstance(schema, Mapping):
        raise RequestError(f"json_schema must be a dict or the JSON text of one, got {type(schema).__name__}")
    return json_text("json_schema", schema)


def _check_shape(name: str, value: object) -> None:
    """Depth and number of values, without recursion; also ends on structures that contain themselves."""
    stack, seen = [(value, 1)], 0
    while stack:
        item, level = stack.pop()
        seen += 1
        if level > MAX_JSON_DEPTH:
            raise RequestError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels; flatten it")
        if seen > MAX_JSON_SIZE:
            raise RequestError(f"{name} is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
        if isinstance(item, Mapping):
            stack += [(child, level + 1) for child in item.values()]
        elif isinstance(item, (list, tuple)):
            stack += [(child, level + 1) for child in item]


def _check_temperature(temperature: object, n: int) -> None:
    if isinstance(temperature, (str, bytes)) or not isinstance(temperature, Sequence):
        return _number("temperature", temperature, low=0)
    for one in temperature:
        _number("temperature", one, low=0)
    if len(temperature) != n:
        raise RequestError(
            f"temperature has {len(temperature)} entries for n = {n} samples; give one number, or one each"
        )
    return None


def _check_stop(stop: object) -> None:
    if stop is None:
        return
    if isinstance(stop, (bytes, Mapping)) or not isinstance(stop, (str, Sequence)):
        raise RequestError(f"stop must be a string or a list of strings, got {_shown(stop)}")
    for text in [stop] if isinstance(stop, str) else stop:
        if not encode("stop", text):
            raise RequestError("stop holds an empty string, which would end every answer at once; remove it")


def _check_bias(bias: object) -> None:
    if bias is None:
        return
    if not isinstance(bias, Mapping):
        raise RequestError(f"logit_bias must be a dict of token id to number, got {type(bias).__name__}")
    for token, value in bias.items():
        check_integer("logit_bias: token id", token, low=0)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) < math.inf:
            raise RequestError(f"logit_bias of token {token} must be a number or -inf, got {_shown(value)}")


def _number(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, allow_inf: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RequestError(f"{name} must be a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number) or (math.isinf(number) and not allow_inf):
        raise RequestError(f"{name} must be a finite number, got {_shown(value)}")
    if not low <= number <= high:
        raise RequestError(f"{name} must be {_range(low, high)}, got {_shown(value)}")


def check_integer(name: str, value: object, *, low: int, high: int = MAX_INT32, hint: str = "") -> None:
    """Refuses, naming the argument, what is no whole number (of Python or NumPy) in the range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise RequestError(f"{name} must be a whole number, got {_shown(value)}")
    if not low <= int(value) <= high:
        raise RequestError(f"{name} must be {_range(low, high)}{hint}, got {_shown(value)}")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be True or False, got {_shown(value)}")


def _range(low: float, high: float) -> str:
    return f"at least {low}" if high == math.inf else f"between {low} and {high}"


def _shown(value: object) -> str:
    """A value in an error line: one line, and short."""
    try:
        text = ascii(value)
    except ValueError:  # an int of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
