"""Errors of a chat template, told as what the user gave: which message, and which rule of the template.

llama.cpp's template engine reports a place in the template's source. A rule of the template (`raise_exception`) is
about the messages; anything else that fails is a fault of the template.
"""

from __future__ import annotations

import functools
import inspect
import re
import textwrap
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from ..errors import RequestError
from ..files.shown_text import escape_line

MOST = 300  # characters of what is quoted

_RULE = re.compile(r"\bError: Jinja Exception: (.*)$")
_FAULT = re.compile(r"\bWhile executing \w+ at line (\d+), column \d+ in source: .*?\^? ?Error: (.*)$")
_PARSED = re.compile(r"^messages or tools: Failed to parse (messages|tools): (?:\[json\.exception\.[\w.]+\] )?(.*)$")
_ARGUMENTS = re.compile(r"Failed to parse tool call arguments as JSON: (?:\[json\.exception\.[\w.]+\] )?(.*)$")
_SCHEMA = re.compile(r"\bJSON schema error at (.*?): (.*)$")
_FORM = {
    "messages": '{"role": ..., "content": "text"}',
    "tool_calls": '"tool_calls": [{"type": "function", "function": {"name": ..., "arguments": "{...}"}}]',
    "tools": '[{"type": "function", "function": {"name": ...}}]',
}


P = ParamSpec("P")
T = TypeVar("T")


def retold(render: Callable[P, T]) -> Callable[P, T]:
    """Makes a function of `messages` that renders them tell its errors in the user's terms."""
    signature = inspect.signature(render)

    @functools.wraps(render)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return render(*args, **kwargs)
        except RequestError as error:
            given = signature.bind(*args, **kwargs)
            messages = given.arguments["messages"]

            def again(first: Sequence[Any]) -> None:
                given.arguments["messages"] = first
                render(*given.args, **given.kwargs)

            asked = "json_schema" if given.kwargs.get("json_schema") else "tools"
            raise explain(error, messages, again, asked) from None

    return call


def explain(
    error: RequestError, messages: Sequence[Any], render: Callable[[Sequence[Any]], object], asked: str
) -> RequestError:
    """The error of rendering `messages`, in the user's terms. render: does it again, for the first of them.
    asked: where the schema of the answer stands."""
    text = " ".join(str(error).split())
    if rule := _RULE.search(text):
        where = _first_refused(rule[1], messages, render)
        return RequestError(
            f"{where}: the chat template refuses this: {_quoted(rule[1])}; change the messages, or pass another "
            "chat_template"
        )
    if parsed := _PARSED.search(text):
        kind, why = parsed.groups()
        where = _first_refused(why, messages, render) if kind == "messages" else kind
        form = _FORM["tool_calls" if kind == "messages" and re.search("tool call|arguments", why) else kind]
        return RequestError(f"{where}: cannot be read: {_quoted(why)}; OpenAI's form is {form}")
    if schema := _SCHEMA.search(text):
        whose = "json_schema" if asked == "json_schema" else "tools: the parameters of a function"
        return RequestError(f"{whose}: {_quoted(schema[2])} (at {_quoted(schema[1])})")
    if arguments := _ARGUMENTS.search(text):
        where = _first_refused(arguments[1], messages, render)
        return RequestError(
            f"{where}: the arguments of a tool call are not JSON ({_quoted(arguments[1])}); write an object as text"
        )
    if fault := _FAULT.search(text):
        return RequestError(
            f"the chat template fails at its line {fault[1]}: {_quoted(fault[2])}; pass another chat_template"
        )
    return RequestError(text)


def _first_refused(why: str, messages: Sequence[Any], render: Callable[[Sequence[Any]], object]) -> str:
    """The message with which this error begins, found by rendering fewer of them."""

    def fails(count: int) -> bool:
        try:
            render(messages[:count])
        except RequestError as error:
            return why in " ".join(str(error).split())
        return False

    at = bisect_left(range(1, len(messages)), True, key=fails)
    role = messages[at].get("role")
    after = f" after {_quoted(str(messages[at - 1].get('role')))}" if at else ""
    return f"messages[{at}] ({_quoted(str(role))}{after})"


def _quoted(text: str) -> str:
    return escape_line(textwrap.shorten(text, MOST, placeholder=" ..."))
