"""Messages as people keep them, made ready for llama.cpp, which knows a few of their fields and drops the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import shown
from ..errors import RequestError

# fields of other interfaces that mean something: without them the conversation would be another one
DROPPED = {
    "function_call": 'write it as one of "tool_calls"',
    "images": 'write them as parts of "content", in OpenAI\'s form',
    "prefix": "pass continue_final_message=True",
    "reasoning": 'call it "reasoning_content"',
    "thinking": 'call it "reasoning_content"',
}


def check_fields(where: str, message: Mapping[str, Any]) -> None:
    """Refuses fields that would be left out of the prompt in silence."""
    for name, remedy in DROPPED.items():
        if message.get(name) and not ("reasoning" in remedy and message.get("reasoning_content")):
            raise RequestError(f'{where}: "{name}" would be left out of the prompt; {remedy}')


def tidied(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same without fields that are None, and with "{}" for the arguments of calls that have none."""
    return [_tidied(f"messages[{i}]", message) for i, message in enumerate(messages)]


def _tidied(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    out = {name: value for name, value in message.items() if value is not None or name == "content"}
    calls = out.get("tool_calls")
    if isinstance(calls, (list, tuple)):
        out["tool_calls"] = [_tidied_call(f"{where}: tool_calls[{k}]", call) for k, call in enumerate(calls)]
    return out


def _tidied_call(where: str, call: object) -> object:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments") or "{}"
    value: object = arguments
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = {}  # a template that shows them as they are takes any text
    if not isinstance(value, Mapping):
        raise RequestError(f"{where}: its arguments must be a JSON object, got {shown(arguments)}")
    kept = {name: item for name, item in call.items() if item is not None}
    return {**kept, "function": {**function, "arguments": arguments}}
