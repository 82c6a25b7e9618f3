"""Schemas that llama.cpp does not obey: texts of their grammars are valid, and what has no grammar is refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from darwin_neg_cpp import RequestError, SamplingParams
from darwin_neg_cpp.json_schema import llama, obeyed_text, schema
from darwin_neg_cpp.sampling import to_engine_values
from oracles.gbnf import Grammar
from schema_cases import LLAMA_OBEYS, OBEYED, REFUSED


@pytest.mark.parametrize(("asked", "is_valid"), OBEYED, ids=[json.dumps(asked)[:60] for asked, _ in OBEYED])
def test_texts_of_the_grammar_are_valid(asked: Any, is_valid: Callable[[Any], bool]) -> None:
    keyed = json.loads(obeyed_text(json.dumps(asked)))
    assert {name: value for name, value in keyed.items() if name != schema.RULES_KEY} == asked
    grammar = Grammar(keyed[schema.RULES_KEY])
    rng = random.Random(1)
    drawn = []
    while len(drawn) < 40:
        try:
            drawn.append(grammar.draw(rng, schema.ROOT))
        except RecursionError:
            continue
    values = [json.loads(text) for text in drawn]
    assert [value for value in values if not is_valid(value)] == []


@pytest.mark.parametrize(("asked", "message"), REFUSED, ids=[json.dumps(asked)[:60] for asked, _ in REFUSED])
def test_what_has_no_grammar_is_refused_by_name(asked: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"^json_schema: {message}") as caught:
        SamplingParams(json_schema=asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("asked", LLAMA_OBEYS, ids=[json.dumps(asked)[:60] for asked in LLAMA_OBEYS])
def test_what_llama_cpp_obeys_is_passed_on_unchanged(asked: Any) -> None:
    text = to_engine_values(SamplingParams(json_schema=asked))["json_schema"]
    assert json.loads(text) == (asked or {"title": ""})  # a chat template takes an empty schema for none


def test_llama_cpp_is_not_trusted_with_what_it_gets_wrong() -> None:
    assert [asked for asked, _ in OBEYED if llama.obeys(asked)] == []


def test_the_order_of_many_cases_is_bounded() -> None:
    many = {"allOf": [{"anyOf": [{"minLength": k}, {"minLength": k + 1}]} for k in range(12)], "type": "string"}
    with pytest.raises(RequestError, match="cases, of at most 256"):
        SamplingParams(json_schema=many)
    assert math.prod([2] * 12) > schema.MAX_CASES
