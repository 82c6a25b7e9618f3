"""Options of a chat template are obeyed or refused. The engine is scripted (fake_core)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from fake_core import calls

USER = [{"role": "user", "content": "hi"}]


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enable_thinking": "no"}, "enable_thinking must be True or False, got 'no'"),
        ({"enable_thinking": 0}, "enable_thinking must be True or False"),
        (
            {"chat_template_kwargs": {"enable_thinking": "false"}},
            r'chat_template_kwargs\["enable_thinking"\] must be True',
        ),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, "say different things"),
        ({"chat_template_kwargs": {"messages": []}}, "'messages' is reserved: pass messages"),
        ({"chat_template_kwargs": {"tools": []}}, "'tools' is reserved: pass tools="),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "'bos_token' is reserved: it comes from the vocabulary"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "'add_generation_prompt' is reserved"),
        ({"chat_template_kwargs": {"range": 3}}, "'range' is reserved: it belongs to the template language"),
        ({"chat_template_kwargs": {"a b": 1}}, "'a b' is not a name that a template can use"),
        ({"chat_template_kwargs": {1: 2}}, "1 is not a name"),
        ({"tool_choice": "required"}, "tool_choice='required' needs tools"),
        ({"tools": [], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "needs tools"),
        (
            {"tools": [tool("f")], "tool_choice": "any"},
            "tool_choice must be 'auto', 'none' or 'required'.*names a function",
        ),
        ({"tools": [tool("f")], "tool_choice": {"type": "function"}}, 'tool_choice must be "auto"'),
        (
            {"tools": [tool("f"), tool("g")], "tool_choice": {"type": "function", "function": {"name": "h"}}},
            "names the function 'h', which is not in tools; there are 'f', 'g'",
        ),
        ({"tools": [tool("f")], "json_schema": {"type": "object"}}, "json_schema and tools are both given"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(llm: DarwinNEG, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.chat(USER, **options)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ({}, None),
        ({"enable_thinking": None}, None),
        ({"enable_thinking": True}, True),
        ({"enable_thinking": False}, False),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": None}}, None),
        ({"enable_thinking": False, "chat_template_kwargs": {"enable_thinking": False, "mood": 1}}, False),
    ],
)
def test_both_spellings_of_the_switch_agree(llm: DarwinNEG, options: dict[str, Any], passed: bool | None) -> None:
    llm.chat(USER, **options)
    call = calls("template")[-1]
    assert call["enable_thinking"] is passed and "enable_thinking" not in call["template_kwargs_json"]


@pytest.mark.parametrize(
    ("choice", "passed", "callable_names"),
    [
        ("none", "none", None),
        ("required", "required", None),
        ({"type": "function", "function": {"name": "g"}}, "required", ["g"]),
        ({"type": "function", "name": "g"}, "required", ["g"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
            "auto",
            ["f"],
        ),
    ],
)
def test_a_choice_of_tools_names_what_may_be_called(
    llm: DarwinNEG, choice: Any, passed: str, callable_names: list[str] | None
) -> None:
    llm.chat(USER, tools=[tool("f"), tool("g")], tool_choice=choice)
    call = calls("template")[-1]
    assert call["tool_choice"] == passed and len(json.loads(call["tools_json"])) == 2
    names = [one["function"]["name"] for one in json.loads(call["callable_json"] or "[]")]
    assert (names or None) == callable_names


def test_strict_parameters_are_enforced_or_refused(llm: DarwinNEG) -> None:
    strict = tool("f")
    strict["function"]["strict"] = True
    llm.chat(USER, tools=[strict])
    strict["function"]["parameters"]["properties"]["a"] = {"type": "string", "pattern": "^a"}
    with pytest.raises(RequestError, match="parameters of 'f' are strict, but have keywords"):
        llm.chat(USER, tools=[strict])
    strict["function"]["strict"] = False
    llm.chat(USER, tools=[strict])


def test_a_schema_beside_tools_that_are_not_called_is_obeyed(llm: DarwinNEG) -> None:
    llm.chat(USER, tools=[tool("f")], tool_choice="none", json_schema={"type": "object"})
    assert json.loads(calls("template")[-1]["json_schema"]) == {"type": "object"}
