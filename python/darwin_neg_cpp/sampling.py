"""What a request asks for: sampling parameters and the use of the NEG gate.

A parameter is one field of SamplingParams: its metadata holds the check that also makes the engine's value of it, under
the same name. One more parameter is one more field there, and one more line in SampleOptions.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from difflib import SequenceMatcher
from functools import partial
from typing import Any, Literal, TypedDict, get_args

from .checks import (
    MAX_INT64,
    check_choice,
    check_flag,
    check_integer,
    check_number,
    check_text,
    encode_all,
    json_object_text,
    shown,
)
from .errors import RequestError
from .json_schema import obeyed_text

NegActionName = Literal["mask", "sample", "off"]
SamplerName = Literal[
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "adaptive_p"
]

# the order in which llama.cpp runs its samplers; adaptive_p is not among them
USUAL_SAMPLERS: tuple[SamplerName, ...] = (
    "penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"
)  # fmt: skip

FILE_KEYS = "general.sampling."  # how the keys begin with which a model file sets parameters


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
        check_flag("neg.enabled", self.enabled)
        check_choice("neg.action", self.action, get_args(NegActionName))
        if self.threshold is not None:
            check_number("neg.threshold", self.threshold, low=0, infinite=(math.inf,))
        if self.top_k is not None:
            check_integer("neg.top_k", self.top_k, low=1)
        if self.use_temp_scale is not None:
            check_flag("neg.use_temp_scale", self.use_temp_scale)


def _integer(default: int | None, *, low: int, **limits: Any) -> Any:
    return field(default=default, metadata=_reader(partial(check_integer, low=low, **limits), default))


def _number(default: float, **limits: Any) -> Any:
    return field(default=default, metadata=_reader(partial(check_number, **limits), default))


def _modelled(key: str, built_in: object, read: Any) -> Any:
    """A parameter that the model file may set with the key `general.sampling.<key>`. It is None where a request says
    nothing of it: then the file's value counts, or else the built-in one."""

    def read_or_built_in(name: str, value: object) -> Any:
        return read(name, built_in if value is None else value)

    return field(default=None, metadata={"read": read_or_built_in, "key": FILE_KEYS + key, "built_in": built_in})


def _modelled_integer(key: str, built_in: int, **limits: Any) -> Any:
    return _modelled(key, built_in, partial(check_integer, **limits))


def _modelled_number(key: str, built_in: float, **limits: Any) -> Any:
    return _modelled(key, built_in, partial(check_number, **limits))


def _reader(check: Any, default: object) -> dict[str, Any]:
    """Metadata of a field. A parameter whose default is None may be None, and the engine has None for it too."""
    return {"read": lambda name, value: None if value is None and default is None else check(name, value)}


def _number_of_logprobs(logprobs: object, top_logprobs: object) -> Any:
    """`logprobs` as a number or None, of the two options that OpenAI has for it."""
    asked = None if logprobs is False else logprobs
    if top_logprobs is None:
        return 0 if asked is True else asked
    if asked is None:
        raise RequestError("top_logprobs is given without logprobs; pass logprobs=True too")
    return check_integer("top_logprobs", top_logprobs, low=0)


def _read_temperature(name: str, value: object) -> list[float]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        value = [value]
    return [check_number(name, temperature, low=0) for temperature in value]


def _read_texts(name: str, value: object, *, empty: str) -> list[bytes]:
    texts = encode_all(name, value)
    if b"" in texts:
        raise RequestError(f"{name} holds an empty string{empty}; remove it")
    return texts


def _read_schema(name: str, value: object) -> str:
    text = json_object_text(name, value)
    return obeyed_text(text) if text else ""


def _read_samplers(name: str, value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise RequestError(f"{name} must be a list of samplers' names, or None for the usual order, got {shown(value)}")
    return [check_choice(name, sampler, get_args(SamplerName)) for sampler in value]


def _read_bias(name: str, value: object) -> list[tuple[int, float]]:
    if value is None:
        return []
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be a dict of token id to number, got {type(value).__name__}")
    pairs = []
    for token, bias in value.items():
        if isinstance(token, (str, bytes)):
            hint = "tokenize(text, add_special=False) returns the token ids of a text"
            if token.isdigit():
                hint = "write the number without quotes"
            raise RequestError(f"{name}: token id must be a whole number, got {shown(token)}; {hint}")
        number = check_integer(f"{name}: token id", token, low=0)
        try:
            pairs.append((number, check_number(name, bias, infinite=(-math.inf,))))
        except RequestError:
            raise RequestError(
                f"{name} of token {number} must be a number or -inf, got {shown(bias)}; 100 makes a token all but "
                "certain, -inf bans it"
            ) from None
    return pairs


def _read_neg(name: str, value: object) -> dict[str, Any]:
    """The four values that the engine has for a Neg."""
    if value is None:
        return {}
    if not isinstance(value, Neg):
        raise RequestError(f"{name} must be a Neg object, got {type(value).__name__}; write neg=Neg(...)")
    return {
        "neg_action": value.action if value.enabled else "off",
        "neg_threshold": None if value.threshold is None else float(value.threshold),
        "neg_top_k": None if value.top_k is None else int(value.top_k),
        "neg_use_temp_scale": None if value.use_temp_scale is None else bool(value.use_temp_scale),
    }


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of one request, with the names and defaults of llama.cpp.

    Where a request leaves out a parameter that models set in their files (its default here is None), the value of the
    file's key `general.sampling.*` counts, or else llama.cpp's own: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05,
    xtc_probability 0, xtc_threshold 0.1, mirostat 0, mirostat_tau 5, mirostat_eta 0.1, repeat_penalty 1,
    repeat_last_n 64, and the usual order of samplers.

    max_tokens: new tokens per sample; None: to the end of the answer, or of the context (finish_reason "length").
    temperature: 0 decodes greedily; a list of n numbers gives each sample its own.
    top_k (0 = off), top_p (1 = off), min_p (0 = off), typical_p (1 = off), top_n_sigma (-1 = off): truncation of the
        distribution. min_keep: tokens that top_p, min_p, typical_p and XTC leave at least.
    xtc_probability (0 = off): how often XTC drops all but the least likely of the tokens above xtc_threshold.
    adaptive_target (-1 = off): probability near which adaptive_p selects tokens, where `samplers` names it;
        adaptive_decay: how much of the past it remembers.
    dynatemp_range (0 = off): the temperature follows the entropy, this far to either side; dynatemp_exponent shapes it.
    mirostat: 0 = off, 1, 2: keep the surprise of the text at mirostat_tau, learning at rate mirostat_eta; the samplers
        that truncate are then not used.
    repeat_penalty (1 = off) and the OpenAI-style frequency_penalty and presence_penalty (0 = off) look at the last
        repeat_last_n tokens (-1: the whole context).
    dry_multiplier (0 = off): DRY, a penalty of dry_multiplier * dry_base ** (length - dry_allowed_length) for a token
        that would extend a repetition of that length within the last dry_penalty_last_n tokens (-1: the whole context).
        dry_sequence_breakers: strings at which a repetition ends.
    samplers: names of the samplers that are used, in their order.
    reasoning_budget_tokens: tokens after which the reasoning of a chat answer is ended; None: no limit. For chat alone.
    stop: strings that end the answer; they are not part of it. In a chat they count in the visible text alone.
    seed: None draws one, which the result reports. Sample k of a request depends on (seed, k) alone.
    n: samples of the prompt; it is decoded once.
    logprobs: None, or how many of the most likely tokens to report per position, 0 for the chosen one only; natural
        logarithms of the model's own distribution (temperature 1, before gate, grammar and penalties).
        logprobs=True, top_logprobs=k is OpenAI's way to write logprobs=k.
    true_entropy: report the entropy of that same distribution at each token, nats. It is computed from the row of
        logits, which the engine has on the host for every token; it costs one more look at the vocabulary.
    grammar: GBNF. json_schema: a dict or JSON text, of which every keyword is obeyed or refused. At most one of them;
        in a chat they act after the reasoning.
    logit_bias: {token id: added logit}; -inf bans a token.
    ignore_eos: continue after the end of the answer, to max_tokens.
    neg: use of the gate; None: as the model file says.

    Errors: RequestError, whose one line names the argument.
    """

    max_tokens: int | None = _integer(None, low=0, hint=" (None: no limit)")
    temperature: float | Sequence[float] | None = _modelled("temp", 0.8, _read_temperature)
    top_k: int | None = _modelled_integer("top_k", 40, low=0)
    top_p: float | None = _modelled_number("top_p", 0.95, low=0, high=1)
    min_p: float | None = _modelled_number("min_p", 0.05, low=0, high=1)
    typical_p: float = _number(1.0, low=0, high=1)
    top_n_sigma: float = _number(-1.0, low=-1)
    min_keep: int = _integer(0, low=0)
    xtc_probability: float | None = _modelled_number("xtc_probability", 0.0, low=0, high=1)
    xtc_threshold: float | None = _modelled_number("xtc_threshold", 0.1, low=0, high=1)
    adaptive_target: float = _number(-1.0, low=-1, high=1)
    adaptive_decay: float = _number(0.9, low=0, high=0.99)
    dynatemp_range: float = _number(0.0, low=0)
    dynatemp_exponent: float = _number(1.0, low=0)
    mirostat: int | None = _modelled_integer("mirostat", 0, low=0, high=2)
    mirostat_tau: float | None = _modelled_number("mirostat_tau", 5.0, low=0)
    mirostat_eta: float | None = _modelled_number("mirostat_eta", 0.1, low=0)
    repeat_penalty: float | None = _modelled_number("penalty_repeat", 1.0, low=1e-6)
    repeat_last_n: int | None = _modelled_integer("penalty_last_n", 64, low=-1)
    frequency_penalty: float = _number(0.0)
    presence_penalty: float = _number(0.0)
    dry_multiplier: float = _number(0.0, low=0)
    dry_base: float = _number(1.75, low=0)
    dry_allowed_length: int = _integer(2, low=0)
    dry_penalty_last_n: int = _integer(64, low=-1)
    dry_sequence_breakers: Sequence[str] = field(
        default=("\n", ":", '"', "*"), metadata={"read": partial(_read_texts, empty="")}
    )
    samplers: Sequence[SamplerName] | None = field(
        default=None,
        metadata={"read": _read_samplers, "key": FILE_KEYS + "sequence", "built_in": USUAL_SAMPLERS},
    )
    reasoning_budget_tokens: int | None = _integer(None, low=0, hint=" (None: no limit)")
    stop: Sequence[str] | str | None = field(
        default=(), metadata={"read": partial(_read_texts, empty=", which would end every answer at once")}
    )
    seed: int | None = _integer(None, low=0, high=MAX_INT64, hint=" (None: draw one)")
    n: int = _integer(1, low=1, high=4096)
    logprobs: int | None = _integer(None, low=0)
    true_entropy: bool = field(default=False, metadata={"read": check_flag})
    grammar: str | None = field(
        default=None, metadata={"read": lambda name, value: "" if value is None else check_text(name, value)}
    )
    json_schema: Mapping[str, Any] | str | None = field(default=None, metadata={"read": _read_schema})
    logit_bias: Mapping[int, float] | None = field(default=None, metadata={"read": _read_bias})
    ignore_eos: bool = field(default=False, metadata={"read": check_flag})
    neg: Neg | None = field(default=None, metadata={"read": _read_neg})
    top_logprobs: InitVar[int | None] = None

    def __post_init__(self, top_logprobs: int | None) -> None:
        object.__setattr__(self, "logprobs", _number_of_logprobs(self.logprobs, top_logprobs))
        if self.grammar is not None and self.json_schema is not None:
            raise RequestError("grammar and json_schema are both given; give one")
        temperatures = _values(self)["temperature"]
        if isinstance(self.temperature, Sequence) and len(temperatures) != self.n:
            raise RequestError(
                f"temperature has {len(temperatures)} entries for n = {self.n} samples; give one number, or one each"
            )


class SampleOptions(TypedDict, total=False):
    """The keyword arguments of a request but `n`: those of SamplingParams, and transformers' max_new_tokens."""

    max_tokens: int | None
    max_new_tokens: int | None
    temperature: float | Sequence[float] | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float
    top_n_sigma: float
    min_keep: int
    xtc_probability: float | None
    xtc_threshold: float | None
    adaptive_target: float
    adaptive_decay: float
    dynatemp_range: float
    dynatemp_exponent: float
    mirostat: int | None
    mirostat_tau: float | None
    mirostat_eta: float | None
    repeat_penalty: float | None
    repeat_last_n: int | None
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    samplers: Sequence[SamplerName] | None
    reasoning_budget_tokens: int | None
    stop: Sequence[str] | str | None
    seed: int | None
    logprobs: int | None
    top_logprobs: int | None
    true_entropy: bool
    grammar: str | None
    json_schema: Mapping[str, Any] | str | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool
    neg: Neg | None


class Options(SampleOptions, total=False):
    """The keyword arguments of a request."""

    n: int


def merge(base: SamplingParams | None, options: Mapping[str, Any]) -> SamplingParams:
    """Puts explicit options on top of `base`, or of the defaults; `max_new_tokens` means `max_tokens`."""
    if base is not None and not isinstance(base, SamplingParams):
        raise RequestError(f"params must be a SamplingParams object, got {type(base).__name__}; name single options")
    options = dict(options)
    if "max_new_tokens" in options:
        if "max_tokens" in options:
            raise RequestError("max_tokens and max_new_tokens are both given; give one")
        options["max_tokens"] = options.pop("max_new_tokens")
    known = {parameter.name for parameter in dataclasses.fields(SamplingParams)} | {"top_logprobs"}
    if unknown := sorted(set(options) - known):
        # the nearest names first: the line is cut, and a typing mistake is what it is read for
        nearest = sorted(known, key=lambda name: (-SequenceMatcher(None, unknown[0], name).ratio(), name))
        names = textwrap.shorten(", ".join(nearest), 400, placeholder=" ... (see SamplingParams)")
        raise RequestError(f"unknown option {unknown[0]!r}; known are {names}")
    return dataclasses.replace(base or SamplingParams(), **options)


def fill_in(params: SamplingParams, defaults: Mapping[str, Any]) -> SamplingParams:
    """Gives parameters that are not set the value that `defaults` has for them."""
    unset = {name: value for name, value in defaults.items() if getattr(params, name) is None}
    return dataclasses.replace(params, **unset) if unset else params


def read_file_defaults(keys: Mapping[str, object]) -> tuple[dict[str, Any], list[str]]:
    """The parameters that a model file sets, and a line on each of its values that cannot be used.

    keys: of the file, with numbers as such or as text.
    """
    values: dict[str, Any] = {}
    notes = []
    for parameter in dataclasses.fields(SamplingParams):
        given = keys.get(parameter.metadata.get("key", ""))
        if given is None:
            continue
        try:
            values[parameter.name] = _FROM_FILE.get(parameter.name, _number_of)(given)
            parameter.metadata["read"](parameter.name, values[parameter.name])
        except RequestError as error:
            values.pop(parameter.name, None)
            notes.append(f"{parameter.metadata['key']} is not used: {error}")
    return values, notes


def _number_of(given: object) -> object:
    """A number of a model file, whose whole ones may be stored as floats; what is not a number is left as it is."""
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError:
            return given
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _at_least_zero(given: object) -> object:
    """llama.cpp takes any number below 0 for 0: a temperature that is greedy, a top_k that is off."""
    number = _number_of(given)
    return 0 if isinstance(number, (int, float)) and number < 0 else number


def _sampler_names(given: object) -> object:
    """The list of a model file, in any of the spellings that llama.cpp knows."""
    if not isinstance(given, str):
        return given
    names = {name.replace("_", ""): name for name in get_args(SamplerName)}
    others = {"nucleus": "top_p", "temp": "temperature", "typ": "typ_p"}
    words = [word.strip().lower() for word in given.split(";") if word.strip()]
    return [others.get(word) or names.get(word.replace("-", "").replace("_", ""), word) for word in words]


_FROM_FILE = {"temperature": _at_least_zero, "top_k": _at_least_zero, "samplers": _sampler_names}

BUILT_IN: Mapping[str, Any] = {
    parameter.name: parameter.metadata["built_in"]
    for parameter in dataclasses.fields(SamplingParams)
    if "built_in" in parameter.metadata
}


def to_engine_values(params: SamplingParams) -> dict[str, Any]:
    """Every parameter as the engine takes it, by the engine's name."""
    values = _values(params)
    neg = values.pop("neg")
    return {**values, **neg}


def _values(params: SamplingParams) -> dict[str, Any]:
    """Checks every field; returns the engine's values."""
    return {
        parameter.name: parameter.metadata["read"](parameter.name, getattr(params, parameter.name))
        for parameter in dataclasses.fields(params)
    }
