"""Conversations: rendering messages as a prompt, and splitting an answer into reasoning, text and tool calls."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from ..checks import check_flag, json_text
from ..errors import RequestError, one_line
from ..results import ChatChunk, ChatReply, Chunk, Generation, ToolCall
from ..sampling import SampleOptions
from . import chat_request
from .stream import Stream
from .user_text import UserText

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._core import ChatPrompt, Engine

Message = Mapping[str, Any]


class TemplateOptions(TypedDict, total=False):
    """Options of a chat template.

    enable_thinking: for templates that know the switch; None, the default, leaves it to the template. tools: OpenAI's
    list of functions. tool_choice: "auto" unless given, "none", "required", or a dict that names the function to call.
    chat_template_kwargs: more variables of the template.
    """

    enable_thinking: bool | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any]
    chat_template_kwargs: Mapping[str, Any] | None


class ChatOptions(TemplateOptions, SampleOptions, total=False):
    """The keyword arguments of a chat request, without `n`."""


class StreamSplitter:
    """Splits one streamed answer as it comes, and remembers what has been shown of it."""

    def __init__(self, engine: Engine, prompt: ChatPrompt) -> None:
        self._engine = engine
        self._prompt = prompt
        self._raw = ""
        self._reasoning = ""
        self._text = ""

    def add(self, chunk: Chunk) -> ChatChunk:
        """What the chunk's text added to the reasoning and to the visible text."""
        self._raw += chunk.text
        partial = chunk.finish_reason in (None, "length", "cancelled")
        reasoning, text, calls = split(self._engine, self._prompt, self._raw, partial=partial)
        new_reasoning, self._reasoning = _added(self._reasoning, reasoning)
        new_text, self._text = _added(self._text, text)
        done = calls if chunk.finish_reason is not None else ()
        return ChatChunk(text=new_text, reasoning=new_reasoning, chunk=chunk, tool_calls=done)


def split_options(options: ChatOptions) -> tuple[TemplateOptions, dict[str, Any]]:
    """The options of the template, and those of sampling."""
    sampling: dict[str, Any] = {**options}
    template = {name: sampling.pop(name) for name in TemplateOptions.__annotations__ if name in sampling}
    return cast("TemplateOptions", template), sampling


def render(
    engine: Engine,
    user_text: UserText,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    json_schema: str = "",
    **options: Unpack[TemplateOptions],
) -> ChatPrompt:
    """Puts a conversation into the model's template. json_schema: for the answer; it acts after the reasoning."""
    check_messages(messages)
    tools = chat_request.read_tools(options.get("tools"), options.get("tool_choice", "auto"))
    if json_schema and tools.tools and tools.choice != "none":
        raise RequestError('json_schema and tools are both given; give one, or tool_choice="none" with both')
    variables, thinking = chat_request.read_kwargs(options.get("chat_template_kwargs"), options.get("enable_thinking"))
    json_text("messages", list(messages))  # refuses what cannot be walked through
    chat_request.tools_text(tools.tools)
    shown_messages, shown_tools, cut = user_text.protect(messages, tools.tools)
    with one_line():
        return engine.apply_chat_template(
            json_text("messages", shown_messages),
            tools_json=chat_request.tools_text(shown_tools),
            callable_json="" if tools.callable == tools.tools else chat_request.tools_text(tools.callable),
            tool_choice=tools.choice,
            enable_thinking=thinking,
            add_generation_prompt=check_flag("add_generation_prompt", add_generation_prompt),
            template_kwargs_json=json_text("chat_template_kwargs", variables) if variables else "",
            json_schema=json_schema,
            cut=cut,
        )


def check_messages(messages: Sequence[Message]) -> None:
    """Refuses what does not have OpenAI's shape: a list of {"role": ..., "content": ...}."""
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
    """Splits an answer, or the beginning of one, into reasoning, visible text and tool calls."""
    parsed = json.loads(engine.parse_chat(text, prompt, partial))
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in parsed["tool_calls"])
    return parsed["reasoning_content"], parsed["content"], calls


def read_reply(engine: Engine, prompt: ChatPrompt, generation: Generation) -> ChatReply:
    # an answer that was cut off is still read as one, but may end inside a tag
    reasoning, text, calls = split(engine, prompt, generation.text, partial=generation.finish_reason != "stop")
    return ChatReply(text=text, reasoning=reasoning, generation=generation, tool_calls=calls)


def split_stream(engine: Engine, prompt: ChatPrompt, chunks: Stream) -> Generator[ChatChunk, None, None]:
    """Splits a stream as it comes."""
    splitter = StreamSplitter(engine, prompt)
    with chunks:
        for chunk in chunks:
            yield splitter.add(chunk)


def _added(shown: str, now: str) -> tuple[str, str]:
    """What to show next, and what is shown then. The parser may take back whitespace at the end, but not the output."""
    if now.startswith(shown):
        return now[len(shown) :], now
    return "", shown
