"""The methods of DarwinNEG that generate."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from ..results import ChatChunk, ChatReply, Generation
from ..sampling import Options, SampleOptions, SamplingParams, merge
from .async_methods import merge_with_n
from .chat import ChatOptions, Message, split_options
from .session import Session
from .stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .token_ids import Prompt, Prompts, Several


class SyncMethods:
    """`generate`, `stream`, `chat` and `stream_chat`; async_methods has the same for asyncio."""

    session: Session

    @overload
    def generate(
        self, prompt: Prompt, params: None = None, *, n: Literal[1] | None = None, **options: Unpack[SampleOptions]
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, n: Literal[1], **options: Unpack[SampleOptions]
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, n: Several, **options: Unpack[SampleOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> Generation | list[Generation]: ...
    @overload
    def generate(
        self, prompt: Prompts, params: None = None, *, n: Literal[1] | None = None, **options: Unpack[SampleOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(
        self, prompt: Prompts, params: SamplingParams | None = None, *, n: Several, **options: Unpack[SampleOptions]
    ) -> list[list[Generation]]: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> list[Generation] | list[list[Generation]]: ...

    def generate(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> Any:
        """Generates from a prompt (text or token ids) or from a list of prompts, all in one batch.

        Options are those of SamplingParams and override `params`. Returns a Generation for one prompt (a list of n of
        them for n > 1), and a list of such for a list of prompts. Ctrl-C cancels all of them and raises
        KeyboardInterrupt. Errors: RequestError, ContextFullError, NegHeadError; one refused prompt refuses all. Where
        some of several samples fail on the way, all are returned, and those have finish_reason "error" and say why in
        `error`; if all fail, the first error is raised.
        """
        merged = merge_with_n(params, n, options)
        prompts, single = self.session.tokenize_prompts(prompt)
        results = self.session.run(prompts, merged)
        return results[0] if single else results

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[Options]) -> Stream:
        """Generates and yields chunks as their text becomes certain. Closing the stream cancels the request."""
        merged = merge(params, options)
        return self.session.stream(self.session.tokenize_prompt(prompt), merged)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: None = None,
        *,
        n: Literal[1] | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: Literal[1],
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: Several,
        **options: Unpack[ChatOptions],
    ) -> list[ChatReply]: ...
    @overload
    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply | list[ChatReply]: ...

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> Any:
        """Answers a conversation in OpenAI's message format through the model's own chat template.

        Options are those of SamplingParams, and these of the template: enable_thinking (for templates that know the
        switch; None, the default, leaves it to the template), tools (OpenAI's list of functions), tool_choice ("auto",
        "none", "required", or a dict that names the function to call), parallel_tool_calls (None: if the template knows
        several calls in one answer), chat_template_kwargs, continue_final_message (True: the answer continues the last
        message, and holds what is new).
        grammar, json_schema and stop are about the visible text: they act after the reasoning. A grammar that writes
        the tag which ends the reasoning is one of the whole answer. Neither goes together with tools.
        Returns a ChatReply (a list of n of them for n > 1).
        """
        template, sampling = split_options(options)
        return self.session.chat(messages, merge_with_n(params, n, sampling), template)

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> Generator[ChatChunk, None, None]:
        """`chat` as a stream of chunks, each with what is new of the reasoning and of the visible text (n = 1 only)."""
        template, sampling = split_options(options)
        return self.session.stream_chat(messages, merge_with_n(params, n, sampling), template)
