"""The methods of DarwinNEG for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from ..results import ChatChunk, ChatReply, Chunk, Generation
from ..sampling import Options, SampleOptions, SamplingParams, merge
from .chat import ChatOptions, Message, split_options
from .session import Session

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .token_ids import Prompt, Prompts, Several


class AsyncMethods:
    """`generate`, `stream`, `chat` and `stream_chat` for asyncio. Any number of requests may be awaited at once."""

    session: Session

    @overload
    async def agenerate(
        self, prompt: Prompt, params: None = None, *, n: Literal[1] | None = None, **options: Unpack[SampleOptions]
    ) -> Generation: ...
    @overload
    async def agenerate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, n: Literal[1], **options: Unpack[SampleOptions]
    ) -> Generation: ...
    @overload
    async def agenerate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, n: Several, **options: Unpack[SampleOptions]
    ) -> list[Generation]: ...
    @overload
    async def agenerate(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> Generation | list[Generation]: ...
    @overload
    async def agenerate(
        self, prompt: Prompts, params: None = None, *, n: Literal[1] | None = None, **options: Unpack[SampleOptions]
    ) -> list[Generation]: ...
    @overload
    async def agenerate(
        self, prompt: Prompts, params: SamplingParams | None = None, *, n: Several, **options: Unpack[SampleOptions]
    ) -> list[list[Generation]]: ...
    @overload
    async def agenerate(
        self,
        prompt: Prompts,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> list[Generation] | list[list[Generation]]: ...

    async def agenerate(
        self,
        prompt: Any,
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[SampleOptions],
    ) -> Any:
        """`generate` for asyncio: any number of requests may be awaited at once; cancelling the task cancels them."""
        merged = merge_with_n(params, n, options)
        prompts, single = self.session.tokenize_prompts(prompt)
        results = await self.session.open_bridge().gather(prompts, merged, self.session.name)
        return results[0] if single else results

    def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio. Break out of it inside `contextlib.aclosing` to cancel at once."""
        merged = merge(params, options)
        return self.session.open_bridge().stream(self.session.tokenize_prompt(prompt), merged)

    @overload
    async def achat(
        self,
        messages: Sequence[Message],
        params: None = None,
        *,
        n: Literal[1] | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    @overload
    async def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: Literal[1],
        **options: Unpack[ChatOptions],
    ) -> ChatReply: ...
    @overload
    async def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: Several,
        **options: Unpack[ChatOptions],
    ) -> list[ChatReply]: ...
    @overload
    async def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> ChatReply | list[ChatReply]: ...

    async def achat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> Any:
        """`chat` for asyncio; cancelling the task cancels the request."""
        template, sampling = split_options(options)
        return await self.session.achat(messages, merge_with_n(params, n, sampling), template)

    def astream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        n: int | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncGenerator[ChatChunk, None]:
        """`stream_chat` for asyncio. Break out of it inside `contextlib.aclosing` to cancel at once."""
        template, sampling = split_options(options)
        return self.session.astream_chat(messages, merge_with_n(params, n, sampling), template)


def merge_with_n(params: SamplingParams | None, n: int | None, options: Mapping[str, Any]) -> SamplingParams:
    """`merge` of options that stand beside an `n`."""
    return merge(params, options if n is None else {**options, "n": n})
