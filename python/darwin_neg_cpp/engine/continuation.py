"""Conversations whose last message is to be continued: the prompt ends inside it, and the answer is what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .chat import Message, Parser, TemplateOptions, check_messages

if TYPE_CHECKING:
    from .._core import ChatPrompt

Render = Callable[..., "ChatPrompt"]  # as Session.render

FIELDS = ("content", "reasoning_content")
# Stands at the end of the message while it is rendered. A template that trims messages takes the space at its end.
MARK = "THELASTMESSAGEENDSHERE"
PROBE = "x"  # the first of what the model might say


@dataclass(frozen=True)
class OpenMessage:
    """A conversation that ends inside its last message.

    pieces: the prompt's text, cut where no token may reach across. parser, prompt: read the answer. submitted: whether
    `prompt` goes with the request; not where the template has answers start at another place than the one that the
    message has got to. thinks: whether the answer starts as reasoning.
    """

    pieces: Sequence[str]
    parser: Parser
    prompt: ChatPrompt
    is_submitted: bool
    thinks: bool

    @property
    def submitted(self) -> ChatPrompt | None:
        return self.prompt if self.is_submitted else None


class Remainder:
    """A parser for what follows on the part of an answer that the prompt holds: `parse_chat` of both, less the part."""

    def __init__(self, parser: Parser, prompt: ChatPrompt, before: str) -> None:
        self._parser, self._before = parser, before
        parsed = json.loads(parser.parse_chat(before + PROBE, prompt, True))
        self._shown = {field: parsed[field] for field in FIELDS}
        self.field = next((field for field in FIELDS if parsed[field].endswith(PROBE)), None)
        if self.field is not None:
            self._shown[self.field] = parsed[self.field].removesuffix(PROBE)

    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str:
        parsed = json.loads(self._parser.parse_chat(self._before + text, prompt, partial))
        for field, shown in self._shown.items():
            # the parser trims what ends an answer
            parsed[field] = "" if shown.startswith(parsed[field]) else parsed[field].removeprefix(shown)
        return json.dumps(parsed)


class Plain:
    """A parser for answers without reasoning and calls."""

    def parse_chat(self, text: str, prompt: ChatPrompt, partial: bool) -> str:
        return json.dumps({"content": text, "reasoning_content": "", "tool_calls": []})


def continued_field(options: TemplateOptions, add_generation_prompt: bool | None) -> str | None:
    """The field of the last message that is to be continued, None if the answer is a message of its own."""
    given = options.get("continue_final_message", False)
    if given is False:
        return None
    if given is not True and given not in FIELDS:
        raise RequestError(
            f"continue_final_message must be True, False, or one of {', '.join(FIELDS)}, got {given!r:.80}"
        )
    if add_generation_prompt:
        raise RequestError(
            "add_generation_prompt and continue_final_message are both given; a message that is continued has no "
            "beginning, so give one"
        )
    return "content" if given is True else given


def render_open(render: Render, messages: Sequence[Message], field: str, options: TemplateOptions) -> Sequence[str]:
    """The text, in pieces, of a conversation up to the end of this field of its last message."""
    return _render_open(render, messages, field, options)[0]


def _render_open(
    render: Render, messages: Sequence[Message], field: str, options: TemplateOptions
) -> tuple[Sequence[str], ChatPrompt]:
    """The text in pieces, and the whole conversation that it is cut out of."""
    check_messages(messages)
    last = {**messages[-1]}
    if last.get("tool_calls"):
        raise RequestError("continue_final_message: the last message holds tool calls, which end it; leave them out")
    last[field] = _marked(last.get(field), field)
    whole = render([*messages[:-1], last], add_generation_prompt=False, **options)
    for at, text in reversed(list(enumerate(whole.pieces))):
        if (end := text.rfind(MARK)) >= 0:
            last_piece = text[:end] if text.startswith(" ", end + len(MARK)) else text[:end].rstrip()
            return [*whole.pieces[:at], last_piece], whole
    raise RequestError(
        f"continue_final_message: the chat template does not show the end of the last message's {field}, so it cannot "
        "be continued"
    )


def open_message(
    parser: Parser, render: Render, messages: Sequence[Message], field: str, options: TemplateOptions
) -> OpenMessage:
    """A conversation up to the end of its last message, and how the answer that follows is read."""
    pieces, whole = _render_open(render, messages, field, options)
    text = "".join(pieces)
    found: list[OpenMessage] = []
    for prompt in _beginnings(render, messages[:-1], options):
        if not text.startswith(prompt.prompt):
            continue
        rest = Remainder(parser, prompt, text[len(prompt.prompt) :])
        if rest.field is None:
            continue
        opened = OpenMessage(pieces, rest, prompt, True, rest.field == "reasoning_content")
        # the engine goes by the prompt alone, so best is one that starts where the message has got to
        if Remainder(parser, prompt, "").field == rest.field:
            return opened
        found.append(opened)
    if found and found[0].thinks:
        return found[0]
    if options.get("tools"):
        raise RequestError("continue_final_message and tools are both given, which this chat template has no place for")
    return OpenMessage(pieces, Plain(), whole, False, False)


def _beginnings(render: Render, messages: Sequence[Message], options: TemplateOptions) -> list[ChatPrompt]:
    """The conversation before the last message, ready for an answer, with and without room for reasoning."""
    if not messages:
        return []
    prompts = []
    for more in ({}, {"enable_thinking": False}, {"enable_thinking": True}):
        try:
            prompts.append(render(messages, add_generation_prompt=True, **{**options, **more}))
        except RequestError:  # many templates want the message of a user
            continue
    return prompts


def _marked(value: Any, field: str) -> Any:
    """The value of a field with the mark at its end; in the last text of one in parts."""
    if isinstance(value, str):
        return f"{value}{MARK} "
    parts = list(value) if isinstance(value, (list, tuple)) else []
    for at in reversed(range(len(parts))):
        if isinstance(parts[at], dict) and isinstance(parts[at].get("text"), str):
            parts[at] = {**parts[at], "text": f"{parts[at]['text']}{MARK} "}
            return parts
    raise RequestError(f'continue_final_message: the last message has no text in "{field}" that can be continued')
