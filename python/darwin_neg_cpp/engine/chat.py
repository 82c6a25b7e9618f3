"""Conversations: rendering messages as a prompt, and splitting an answer into reasoning, text and tool calls."""

from __future__ import annotations

import contextlib
import json
import secrets
import string
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, cast

from ..checks import check_flag, json_text
from ..errors import RequestError, one_line
from ..files.input_file import shown
from ..results import ChatChunk, ChatReply, Chunk, Generation, ToolCall
from ..sampling import SampleOptions, SamplingParams
from . import chat_request, template_errors
from .stream import Stream
from .user_text import UserText

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._core import ChatPrompt, Engine

Message = Mapping[str, Any]
# in the types of parts of a message, whoever's form it has: image_url, input_image, image, input_audio, video ...
MEDIA = ("image", "audio", "video")


class TemplateOptions(TypedDict, total=False):
    """Options of a chat template.

    enable_thinking: for templates that know the switch; None, the default, leaves it to the template. tools: OpenAI's
    list of functions. tool_choice: "auto" unless given, "none", "required", or a dict that names the function to call.
    parallel_tool_calls: whether an answer may hold several calls; None: if the template knows them.
    chat_template_kwargs: more variables of the template.
    continue_final_message: the answer continues the last message; True, or the name of the field to continue.
    """

    enable_thinking: bool | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool | None
    chat_template_kwargs: Mapping[str, Any] | None
    continue_final_message: bool | Literal["content", "reasoning_content"]


class ChatOptions(TemplateOptions, SampleOptions, total=False):
    """The keyword arguments of a chat request, without `n`."""


class Parser(Protocol):
    """Splits an answer: the engine, or what stands before it."""

    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str:
        """JSON of the answer's content, reasoning_content and tool_calls."""
        ...


@dataclass(frozen=True)
class ChatRequest:
    """A conversation as it is submitted. parser and prompt read the answer; submitted: the prompt that goes with the
    tokens, None where they are to be taken as any others."""

    parser: Parser
    prompt: ChatPrompt
    tokens: list[int]
    params: SamplingParams
    submitted: ChatPrompt | None

    def read(self, out: Generation | list[Generation]) -> ChatReply | list[ChatReply]:
        """The reply in a generation, or in each of several."""
        if isinstance(out, list):
            return [read_reply(self.parser, self.prompt, sample) for sample in out]
        return read_reply(self.parser, self.prompt, out)


class StreamSplitter:
    """Splits one streamed answer as it comes, and remembers what has been shown of it."""

    def __init__(self, parser: Parser, prompt: ChatPrompt) -> None:
        self._parser = parser
        self._prompt = prompt
        self._raw = ""
        self._reasoning = ""
        self._text = ""

    def add(self, chunk: Chunk) -> ChatChunk:
        """What the chunk's text added to the reasoning and to the visible text."""
        self._raw += chunk.text
        partial = chunk.finish_reason is None
        reasoning, text, calls = split(self._parser, self._prompt, self._raw, partial=partial)
        new_reasoning, self._reasoning = _added(self._reasoning, reasoning)
        new_text, self._text = _added(self._text, text)
        done = calls if chunk.finish_reason is not None else ()
        return ChatChunk(text=new_text, reasoning=new_reasoning, chunk=chunk, tool_calls=done)


def split_options(options: ChatOptions) -> tuple[TemplateOptions, dict[str, Any]]:
    """The options of the template, and those of sampling."""
    sampling: dict[str, Any] = {**options}
    template = {name: sampling.pop(name) for name in TemplateOptions.__annotations__ if name in sampling}
    return cast("TemplateOptions", template), sampling


@template_errors.retold
def render(
    engine: Engine,
    user_text: UserText,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    json_schema: str = "",
    has_grammar: bool = False,
    **options: Unpack[TemplateOptions],
) -> ChatPrompt:
    """Puts a conversation into the model's template. json_schema: for the answer; it acts after the reasoning.
    has_grammar: the answer's text will follow a grammar."""
    check_messages(messages)
    parallel = options.get("parallel_tool_calls")
    tools = chat_request.read_tools(options.get("tools"), options.get("tool_choice", "auto"))
    variables, thinking = chat_request.read_kwargs(options.get("chat_template_kwargs"), options.get("enable_thinking"))
    # made before anything is walked through: what has no end, or is no JSON, is refused here
    messages_json, tools_json = json_text("messages", list(messages)), chat_request.tools_text(tools.tools)
    shown_messages, shown_tools, cut = user_text.protect(messages, tools.tools)
    if cut:
        messages_json, tools_json = json_text("messages", shown_messages), chat_request.tools_text(shown_tools)
    with one_line():
        return engine.apply_chat_template(
            messages_json,
            tools_json=tools_json,
            callable_json="" if tools.callable == tools.tools else chat_request.tools_text(tools.callable),
            tool_choice=tools.choice,
            enable_thinking=thinking,
            add_generation_prompt=check_flag("add_generation_prompt", add_generation_prompt),
            template_kwargs_json=json_text("chat_template_kwargs", variables) if variables else "",
            parallel_tool_calls=None if parallel is None else check_flag("parallel_tool_calls", parallel),
            json_schema=json_schema,
            has_grammar=has_grammar,
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
        if isinstance(content, list):
            _check_parts(i, content)


def _check_parts(i: int, parts: list[Any]) -> None:
    """Refuses images and sound, which the engine does not read, and says what does."""
    for j, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and any(medium in kind for medium in MEDIA):
            raise RequestError(
                f"messages[{i}]: part {j} of its content has type '{shown(kind)}', and chat takes text alone; for "
                "questions about images use a server: `darwin-neg serve -m MODEL --mmproj FILE`"
            )


def split(parser: Parser, prompt: ChatPrompt, text: str, *, partial: bool) -> tuple[str, str, tuple[ToolCall, ...]]:
    """Splits an answer into reasoning, visible text and complete tool calls.

    partial: more of it is to come, and what may still become a call is left out.
    """
    parsed = json.loads(parser.parse_chat(text, prompt, partial))
    ids = unique_ids([call["id"] for call in parsed["tool_calls"]])
    calls = (
        ToolCall(call_id, call["name"], call["arguments"])
        for call_id, call in zip(ids, parsed["tool_calls"], strict=True)
    )
    return parsed["reasoning_content"], parsed["content"], tuple(calls)


def unique_ids(given: Sequence[str]) -> list[str]:
    """Ids of an answer's calls: those that the model wrote, and new ones for calls without one of their own.

    New ones are of 9 letters and digits, because that is the only form that some templates accept.
    """
    ids: list[str] = []
    for call_id in given:
        new = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        ids.append(call_id if call_id and call_id not in ids else new)
    return ids


def read_reply(parser: Parser, prompt: ChatPrompt, generation: Generation) -> ChatReply:
    reasoning, text, calls = split(parser, prompt, generation.text, partial=False)
    return ChatReply(text=text, reasoning=reasoning, generation=generation, tool_calls=calls)


def split_stream(parser: Parser, prompt: ChatPrompt, chunks: Stream) -> Generator[ChatChunk, None, None]:
    """Splits a stream as it comes."""
    splitter = StreamSplitter(parser, prompt)
    with chunks:
        for chunk in chunks:
            yield splitter.add(chunk)


async def split_astream(
    parser: Parser, prompt: ChatPrompt, chunks: AsyncGenerator[Chunk, None]
) -> AsyncGenerator[ChatChunk, None]:
    """Splits a stream of asyncio as it comes."""
    splitter = StreamSplitter(parser, prompt)
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            yield splitter.add(chunk)


def _added(shown: str, now: str) -> tuple[str, str]:
    """What to show next, and what is shown then. The parser may take back whitespace at the end, but not the output."""
    if now.startswith(shown):
        return now[len(shown) :], now
    return "", shown
