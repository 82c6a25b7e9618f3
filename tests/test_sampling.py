"""Sampling parameters: what is refused, and what reaches the engine."""

from __future__ import annotations

import inspect
import math
import typing
from typing import Any

import numpy as np
import pytest

import fake_core
from darwin_neg_cpp import DarwinNEG, Neg, RequestError, SamplingParams
from darwin_neg_cpp.engine.model_options import ModelOptions
from darwin_neg_cpp.engine.requests import request_params
from darwin_neg_cpp.sampling import Options, merge, to_engine_values

BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": math.nan}, "temperature must be a finite number"),
    ({"temperature": math.inf}, "temperature must be a finite number"),
    ({"temperature": -0.1}, "temperature must be at least 0"),
    ({"temperature": "1"}, "temperature must be a number"),
    ({"temperature": 10**400}, "temperature must be a finite number"),
    ({"max_tokens": -1}, r"max_tokens .*None: no limit"),
    ({"max_tokens": 2**31}, "max_tokens must be between 0 and 2147483647"),
    ({"max_tokens": 1.0}, "max_tokens must be a whole number"),
    ({"max_tokens": True}, "max_tokens must be a whole number"),
    ({"max_tokens": 1, "max_new_tokens": 2}, "max_tokens and max_new_tokens are both given"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 1.01}, "top_p must be between 0 and 1"),
    ({"min_p": -0.1}, "min_p must be between 0 and 1"),
    ({"typical_p": math.nan}, "typical_p"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repeat_last_n": -2}, "repeat_last_n"),
    ({"frequency_penalty": math.inf}, "frequency_penalty"),
    ({"presence_penalty": None}, "presence_penalty must be a number"),
    ({"seed": -1}, r"seed .*None: draw one"),
    ({"seed": 2**63}, "seed"),
    ({"n": 0}, "n must be between 1 and 4096"),
    ({"n": 4097}, "n must be between 1 and 4096"),
    ({"logprobs": -1}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs is given without logprobs; pass logprobs=True too"),
    ({"logprobs": False, "top_logprobs": 2}, "top_logprobs is given without logprobs"),
    ({"logprobs": True, "top_logprobs": True}, "top_logprobs must be a whole number"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs must be between 0"),
    ({"stop": 3}, "stop must be a string or a list of strings"),
    ({"stop": [b"x"]}, "stop must be text"),
    ({"stop": ["a", ""]}, "stop holds an empty string"),
    ({"stop": "\ud800"}, "stop holds a lone surrogate"),
    ({"grammar": 3}, "grammar must be text"),
    ({"grammar": "\ud800"}, "grammar holds a lone surrogate"),
    ({"grammar": "x", "json_schema": {}}, "grammar and json_schema are both given"),
    ({"json_schema": "{"}, "json_schema is not valid JSON"),
    ({"json_schema": "[]"}, "json_schema must be a dict"),
    ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON"),
    ({"json_schema": {"a": math.nan}}, "json_schema cannot be written as JSON"),
    ({"json_schema": {"a": "\ud800"}}, "json_schema holds a lone surrogate"),
    ({"json_schema": "[" * 100_000}, "json_schema is nested deeper than 100 levels"),
    ({"json_schema": {"a": "x" * 1_000_000}}, "json_schema is larger than 1,000,000 bytes"),
    ({"logit_bias": [1]}, "logit_bias must be a dict"),
    ({"logit_bias": {"a": 1}}, r"logit_bias: token id must be a whole number, got 'a'; tokenize\(text, .* returns"),
    ({"logit_bias": {"12": 1}}, "logit_bias: token id must be a whole number, got '12'; write the number without quot"),
    ({"logit_bias": {b"a": 1}}, "logit_bias: token id must be a whole number"),
    ({"logit_bias": {10**400: 1}}, "logit_bias: token id must be between 0 and 2147483647, got 1000"),
    ({"logit_bias": {1: 1e39}}, "logit_bias of token 1 must be a number or -inf, got 1e.39; 100 makes a token all but"),
    ({"logit_bias": {1: "5"}}, "logit_bias of token 1 must be a number or -inf, got '5'"),
    ({"temperature": 1e39}, "temperature must be a number that float32 can hold"),
    ({"temperature": [0.5, 1e39], "n": 2}, "temperature must be a number that float32 can hold"),
    ({"mirostat_tau": 1e300}, "mirostat_tau must be a number that float32 can hold"),
    ({"logit_bias": {-1: 1}}, "logit_bias: token id"),
    ({"logit_bias": {1: math.inf}}, "logit_bias of token 1 must be a number or -inf"),
    ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 must be a number or -inf"),
    ({"logit_bias": {1: 10**400}}, "logit_bias of token 1 must be a number or -inf"),
    ({"top_n_sigma": -2}, "top_n_sigma must be at least -1"),
    ({"min_keep": -1}, "min_keep must be between 0"),
    ({"xtc_probability": 1.5}, "xtc_probability must be between 0 and 1"),
    ({"xtc_threshold": "x"}, "xtc_threshold must be a number"),
    ({"dynatemp_range": -1}, "dynatemp_range must be at least 0"),
    ({"dynatemp_exponent": math.inf}, "dynatemp_exponent must be a finite number"),
    ({"mirostat": 3}, "mirostat must be between 0 and 2"),
    ({"mirostat_tau": -1}, "mirostat_tau must be at least 0"),
    ({"mirostat_eta": "x"}, "mirostat_eta must be a number"),
    ({"dry_base": None}, "dry_base must be a number"),
    ({"dry_multiplier": -0.5}, "dry_multiplier must be at least 0"),
    ({"dry_base": math.nan}, "dry_base must be a finite number"),
    ({"dry_allowed_length": 1.5}, "dry_allowed_length must be a whole number"),
    ({"dry_penalty_last_n": -2}, "dry_penalty_last_n must be between -1"),
    ({"dry_sequence_breakers": [1]}, "dry_sequence_breakers must be text"),
    ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers holds an empty string; remove it"),
    ({"samplers": "top_k"}, "samplers must be a list of samplers' names"),
    ({"samplers": []}, "samplers must be a list of samplers' names, or None for the usual order"),
    ({"samplers": ["top_k", "top_q"]}, "samplers must be 'penalties', 'dry', .* or 'adaptive_p', got 'top_q'"),
    ({"reasoning_budget_tokens": -1}, r"reasoning_budget_tokens .*None: no limit"),
    ({"ignore_eos": 1}, "ignore_eos must be True or False"),
    ({"neg": "mask"}, r"write neg=Neg\(\.\.\.\)"),
    ({"nonsense": 1}, "unknown option 'nonsense'; known are"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_a_bad_option_is_refused_in_one_line_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        merge(None, options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": 1}, "neg.enabled"),
        ({"threshold": -1.0}, "neg.threshold must be at least 0"),
        ({"threshold": math.nan}, "neg.threshold"),
        ({"threshold": 1e39}, "neg.threshold must be a number that float32 can hold"),
        ({"threshold": 10**400}, "neg.threshold must be a finite number"),
        ({"top_k": 0}, "neg.top_k must be between 1"),
        ({"use_temp_scale": 1}, "neg.use_temp_scale"),
        ({"action": "drop"}, "neg.action must be 'mask', 'sample' or 'off'"),
    ],
)
def test_a_bad_gate_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Neg(**options)


def test_a_schema_that_contains_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["properties"] = {"again": schema}
    with pytest.raises(RequestError, match="nested deeper"):
        SamplingParams(json_schema=schema)


def test_numpy_numbers_are_numbers(fake: type[fake_core.Engine]) -> None:
    params = merge(
        None, {"temperature": np.float32(0.5), "max_tokens": np.int64(3), "logit_bias": {np.int32(1): np.float64(2)}}
    )
    args = request_params(params, "request").as_dict()
    assert (args["temperature"], args["max_tokens"], args["logit_bias"]) == ([0.5], 3, [(1, 2.0)])


def test_options_override_params_and_max_new_tokens_is_an_alias() -> None:
    params = merge(SamplingParams(max_tokens=1, top_k=7), {"max_new_tokens": 9})
    assert (params.max_tokens, params.top_k) == (9, 7)
    with pytest.raises(RequestError, match="params must be a SamplingParams"):
        merge({"top_k": 1}, {})  # type: ignore[arg-type]


def test_unset_values_reach_the_engine_as_its_word_for_unset(fake: type[fake_core.Engine]) -> None:
    args = request_params(SamplingParams(), "request").as_dict()
    assert (args["max_tokens"], args["seed"], args["logprobs"], args["neg_action"]) == (None, None, None, None)
    assert (args["neg_threshold"], args["neg_top_k"], args["neg_use_temp_scale"]) == (None, None, None)


@pytest.mark.parametrize(
    ("neg", "action"),
    [(Neg(), "mask"), (Neg(enabled=False), "off"), (Neg(action="sample"), "sample"), (Neg(action="off"), "off")],
)
def test_gate_settings_reach_the_engine(fake: type[fake_core.Engine], neg: Neg, action: str) -> None:
    assert request_params(SamplingParams(neg=neg), "request").as_dict()["neg_action"].name == action


def test_the_typed_options_are_the_fields() -> None:
    fields = typing.get_type_hints(SamplingParams)
    others = dict.fromkeys(("max_new_tokens", "top_logprobs"), fields["max_tokens"])
    assert typing.get_type_hints(Options) == {**fields, **others}


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"logprobs": True, "top_logprobs": 5}, 5),
        ({"logprobs": True, "top_logprobs": 0}, 0),
        ({"logprobs": True}, 0),
        ({"logprobs": 3}, 3),
        ({"logprobs": 3, "top_logprobs": 5}, 5),
        ({"logprobs": False}, None),
        ({"logprobs": False, "top_logprobs": None}, None),
        ({"logprobs": None}, None),
        ({}, None),
    ],
    ids=str,
)
def test_logprobs_are_asked_for_by_number_or_as_openai_does(options: dict[str, Any], number: int | None) -> None:
    for params in (SamplingParams(**options), merge(None, options), merge(SamplingParams(top_k=3), options)):
        assert params.logprobs == number and params.logprobs is not True
        assert merge(params, {"seed": 1}).logprobs == number
    assert merge(SamplingParams(logprobs=2), {"top_logprobs": 5}).logprobs == 5


def test_the_typed_options_of_a_model_are_its_keywords() -> None:
    keywords = list(inspect.signature(DarwinNEG.__init__).parameters)
    assert keywords[:3] == ["self", "model", "neg"]
    hints = typing.get_type_hints(DarwinNEG.__init__)
    assert typing.get_type_hints(ModelOptions) == {name: hints[name] for name in keywords[3:]}


def test_values_reach_the_engine_as_plain_python() -> None:
    params = SamplingParams(
        mirostat=np.int8(2),
        dry_base=np.float32(1.5),
        dry_sequence_breakers=["\n", "\u00e4"],
        samplers=("top_k", "temperature"),
        stop="end",
        json_schema='{"type": "object"}',
    )
    values = to_engine_values(params)
    assert (values["mirostat"], type(values["mirostat"])) == (2, int)
    assert (values["dry_base"], type(values["dry_base"])) == (1.5, float)
    assert values["dry_sequence_breakers"] == [b"\n", b"\xc3\xa4"] and values["samplers"] == ["top_k", "temperature"]
    assert (values["stop"], values["json_schema"]) == ([b"end"], '{"type": "object"}')


def test_a_reasoning_budget_is_for_chat(llm: DarwinNEG) -> None:
    with pytest.raises(RequestError, match="reasoning_budget_tokens is for chat answers alone"):
        llm.generate("a", reasoning_budget_tokens=5)
    assert llm.chat([{"role": "user", "content": "a"}], reasoning_budget_tokens=5).text == "a "
    assert fake_core.calls("submit")[-1]["reasoning_budget_tokens"] == 5
