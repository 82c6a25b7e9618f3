"""Conversations: checking messages, and splitting an answer into reasoning, text and tool calls."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..results import ChatChunk, ChatReply, Chunk, Generation, ToolCall
from ..sampling import json_text
from .stream import Stream

if TYPE_CHECKING:
    from .._core import ChatPrompt, Engine

Message = Mapping[str, Any]


def kwargs_json(kwargs: Mapping[str, Any] | None) -> str:
    """Extra variables of the template, as JSON for the engine."""
    if not kwargs:
        return ""
    if not isinstance(kwargs, Mapping):
        raise RequestError(f"chat_template_kwargs must be a dict, got {type(kwargs).__name__}")
    return json_text("chat_template_kwargs", dict(kwargs))


def tools_json(tools: Sequence[Mapping[str, Any]] | None) -> str:
    """OpenAI's list of tools, as JSON for the engine."""
    if tools is None:
        return ""
    if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
        raise RequestError('tools must be a list like [{"type": "function", "function": {"name": ...}}]')
    return json_text("tools", list(tools)) if tools else ""


def check_messages(messages: Sequence[Message]) -> None:
    """OpenAI's shape: a list of {"role": ..., "content": ...}."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise RequestError('messages must be a non-empty list like [{"role": "user", "content": "Hello"}]')
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f'messages[{i}] must be a dict with a "role"')
        content = message.get("content")
        if content is None and not message.get("tool_calls"):
            raise RequestError(f'messages[{i}] has no "content"')
        if content is not None and not isinstance(content, (str, list)):
            raise RequestError(f'messages[{i}]: "content" must be text, got {type(content).__name__}')


def split(engine: Engine, prompt: ChatPrompt, text: str, *, partial: bool) -> tuple[str, str, tuple[ToolCall, ...]]:
    """(reasoning, visible text, tool calls) of an answer, or of the beginning of one."""
    parsed = json.loads(engine.parse_chat(text, prompt, partial))
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in parsed["tool_calls"])
    return parsed["reasoning_content"], parsed["content"], calls


def reply(engine: Engine, prompt: ChatPrompt, generation: Generation) -> ChatReply:
    # an answer that was cut off is still read as one, but may end inside a tag
    reasoning, text, calls = split(engine, prompt, generation.text, partial=generation.finish_reason != "stop")
    return ChatReply(text=text, reasoning=reasoning, generation=generation, tool_calls=calls)


def stream(engine: Engine, prompt: ChatPrompt, chunks: Stream) -> Generator[ChatChunk, None, None]:
    """Splits a stream as it comes: each chunk carries what its text added to the reasoning and to the visible text."""
    splitter = StreamSplitter(engine, prompt)
    with chunks:
        for chunk in chunks:
            yield splitter.add(chunk)


class StreamSplitter:
    """Remembers what has been shown of one streamed answer."""

    def __init__(self, engine: Engine, prompt: ChatPrompt) -> None:
        self._engine = engine
        self._prompt = prompt
        self._raw = ""
        self._reasoning = ""
        self._text = ""

    def add(self, chunk: Chunk) -> ChatChunk:
        self._raw += chunk.text
        partial = chunk.finish_reason in (None, "length", "cancelled")
        reasoning, text, calls = split(self._engine, self._prompt, self._raw, partial=partial)
        new_reasoning, self._reasoning = _added(self._reasoning, reasoning)
        new_text, self._text = _added(self._text, text)
        done = calls if chunk.finish_reason is not None else ()
        return ChatChunk(text=new_text, reasoning=new_reasoning, chunk=chunk, tool_calls=done)


def _added(shown: str, now: str) -> tuple[str, str]:
    """What to show next. The parser may take back trailing whitespace; what is out stays out."""
    if now.startswith(shown):
        return now[len(shown) :], now
    return "", shown
