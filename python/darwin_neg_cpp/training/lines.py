"""What a line of JSON holds as training data: a text, or a conversation, in the forms that published data has."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..files.input_file import shown

Message = Mapping[str, Any]

KNOWN = ("text", "messages", "conversations", "prompt", "instruction")
EXPECTED = 'an object with "text", "messages", or "prompt" and "completion"'
ROLES = {
    **{"human": "user", "user": "user", "system": "system", "gpt": "assistant", "assistant": "assistant"},
    **{"chatgpt": "assistant", "tool": "tool", "observation": "tool", "function_response": "tool"},
}


@dataclass(frozen=True)
class Line:
    """text: what was written; of a conversation the texts of its messages. messages: None where it is no conversation.
    tools: those that the conversation names."""

    text: str
    messages: tuple[Message, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None


def read_object(entry: Any) -> Line | str:
    """Returns what an object holds; or what is wrong with it, as the end of a sentence."""
    if not isinstance(entry, Mapping):
        return f"is not an object; expected {EXPECTED}"
    if isinstance(entry.get("text"), str):
        return Line(entry["text"])
    if (messages := entry.get("messages")) is not None:
        return _conversation(messages, entry, "messages")
    if (turns := entry.get("conversations")) is not None:
        return _conversation(_renamed(turns), entry, "conversations")
    if "prompt" in entry:
        return _continued(entry["prompt"], entry.get("completion"), entry)
    if isinstance(entry.get("instruction"), str) and isinstance(entry.get("output"), str):
        asked = "\n\n".join(
            part for part in (entry["instruction"], entry.get("input")) if part and isinstance(part, str)
        )
        return _conversation([{"role": "user", "content": asked}, _answer(entry["output"])], entry, "instruction")
    found = shown(", ".join(map(str, entry))) or "nothing"
    return f'has no "text"; expected {EXPECTED}; found: {found}'


def _continued(prompt: Any, completion: Any, entry: Mapping[str, Any]) -> Line | str:
    """A prompt with its completion: one text where both are texts, else one conversation."""
    if completion is None:
        return 'has a "prompt" and no "completion"; expected both'
    if isinstance(prompt, str) and isinstance(completion, str):
        return Line(prompt + completion)
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    answered = [_answer(completion)] if isinstance(completion, str) else completion
    if not isinstance(asked, list) or not isinstance(answered, list):
        return 'has a "prompt" and a "completion" that are neither texts nor lists of messages'
    return _conversation([*asked, *answered], entry, "prompt")


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _renamed(turns: Any) -> Any:
    """Messages out of turns {"from": "human", "value": ...}; what has other keys stays as it is."""
    if not isinstance(turns, list):
        return turns
    return [
        {"role": ROLES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
        if isinstance(turn, Mapping) and "from" in turn and "value" in turn
        else turn
        for turn in turns
    ]


def _conversation(messages: Any, entry: Mapping[str, Any], key: str) -> Line | str:
    if not isinstance(messages, list) or not messages:
        return f'"{key}" is not a list of messages; expected {{"role": ..., "content": ...}} for each'
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            return f'message {number} has no "role"; expected {{"role": ..., "content": ...}}'
        if not isinstance(message.get("content"), (str, list)) and not message.get("tool_calls"):
            return f'message {number} has no "content"; expected {{"role": ..., "content": ...}}'
    system = entry.get("system")  # beside the turns, as tools for training have it
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    tools = entry.get("tools")
    if isinstance(tools, str):
        with contextlib.suppress(ValueError, RecursionError):
            tools = json.loads(tools or "null")
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        return '"tools" is not a list of functions; leave it out or give a list'
    return Line("\n\n".join(filter(None, map(_text, messages))), tuple(messages), tuple(tools) if tools else None)


def _text(message: Message) -> str:
    """What a message says, its calls of tools too."""
    content, calls = message.get("content"), message.get("tool_calls")
    parts: Sequence[Any] = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts += [json.dumps(calls, ensure_ascii=False)] if calls else []
    return "\n".join(text for text in texts if isinstance(text, str))
