"""Conversations: messages, template arguments, reasoning and text. The engine is scripted (fake_core)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from fake_core import calls


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "non-empty list"),
        ("hello", "non-empty list"),
        ({"role": "user"}, "non-empty list"),
        ([3], r"messages\[0\] must be a dict"),
        ([{"content": "x"}], r'messages\[0\] must be a dict with a "role"'),
        ([{"role": "user"}], r'messages\[0\] has no "content"'),
        ([{"role": "user", "content": 3}], '"content" must be text'),
        ([{"role": "user", "content": "\ud800"}], "messages holds a lone surrogate"),
        ([{"role": "user", "content": "x", "extra": {1}}], "messages cannot be written as JSON"),
    ],
)
def test_bad_messages_are_refused(llm: DarwinNEG, messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.chat(messages)


def test_tools_and_template_arguments_are_checked_and_passed_on(llm: DarwinNEG) -> None:
    user = [{"role": "user", "content": "hi"}]
    for options, message in (
        ({"tools": 3}, "tools must be a list"),
        ({"tools": ["f"]}, "tools must be a list"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be a dict"),
    ):
        with pytest.raises(RequestError, match=message):
            llm.chat(user, **options)
    llm.chat(user, enable_thinking=False, tools=[{"type": "function"}], chat_template_kwargs={"a": 1})
    passed = calls("template")[-1]
    assert passed["enable_thinking"] is False and json.loads(passed["tools_json"]) == [{"type": "function"}]
    assert json.loads(passed["template_kwargs_json"]) == {"a": 1}


def test_reasoning_is_split_from_the_answer_and_streamed_apart(llm: DarwinNEG) -> None:
    user = [{"role": "user", "content": "thinker"}]
    reply = llm.chat(user)
    assert (reply.reasoning, reply.text, str(reply)) == ("hm", "42", "42")
    parts = list(llm.stream_chat(user))
    assert "".join(part.reasoning for part in parts) == "hm" and "".join(part.text for part in parts) == "42"
    assert [sample.text for sample in llm.chat(user, n=2)] == ["42", "42"]
    with pytest.raises(RequestError, match="n must be 1"):
        llm.stream_chat(user, n=2)


def test_a_schema_in_chat_goes_through_the_template(llm: DarwinNEG) -> None:
    llm.chat([{"role": "user", "content": "hi"}], json_schema={"type": "object"})
    assert json.loads(calls("template")[-1]["json_schema"]) == {"type": "object"}
    assert calls("submit")[-1]["json_schema"] == ""
