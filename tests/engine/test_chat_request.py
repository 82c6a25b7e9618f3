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


@pytest.mark.parametrize("name", ["tokenize", "documents", "thinking", "tool", "json_schema", "max_tokens"])
def test_an_option_that_a_template_does_not_have_is_refused(llm: DarwinNEG, name: str) -> None:
    given: dict[str, Any] = {name: True}
    for call in (llm.apply_chat_template, llm.chat_tokens):
        with pytest.raises(RequestError, match=f"unknown option '{name}'; known are enable_thinking, tools, "):
            call(USER, **given)


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("function_call", {"name": "f", "arguments": "{}"}, '"tool_calls"'),
        ("prefix", True, "continue_final_message=True"),
        ("reasoning", "hm", '"reasoning_content"'),
        ("thinking", "hm", '"reasoning_content"'),
        ("images", ["aGk="], '"content"'),
    ],
)
def test_a_field_that_would_be_left_out_of_the_prompt_is_refused(
    llm: DarwinNEG, field: str, value: Any, remedy: str
) -> None:
    message = {"role": "assistant", "content": "x", field: value}
    with pytest.raises(RequestError, match=rf'^messages\[1\]: "{field}" would be left out.*{remedy}'):
        llm.chat([*USER, message])
    llm.chat([*USER, {**message, field: None}])
    assert calls("template")[-1]["messages"][1] == {"role": "assistant", "content": "x"}


def test_what_classes_of_data_write_out_as_none_is_not_given(llm: DarwinNEG) -> None:
    function = {"name": "f", "arguments": ""}
    call = {"id": None, "type": "function", "function": function}
    message = {"role": "assistant", "content": "", "reasoning_content": None, "name": None, "tool_calls": [call]}
    described = tool("f")
    described["function"]["description"] = None
    llm.chat([*USER, message, *USER], tools=[described])
    passed = calls("template")[-1]
    tidy = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert passed["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [tidy]}
    assert json.loads(passed["tools_json"]) == [tool("f")] and described["function"]["description"] is None


@pytest.mark.parametrize("arguments", ["5", [1], "null", '"a"'])
def test_arguments_of_a_call_that_are_no_object_are_refused(llm: DarwinNEG, arguments: Any) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    with pytest.raises(RequestError, match=r"^messages\[1\]: tool_calls\[0\]: its arguments must be a JSON object"):
        llm.chat([*USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
