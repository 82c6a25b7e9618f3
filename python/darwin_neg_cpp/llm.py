"""The model as Python users hold it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from . import chat as chat_format
from . import collect, log
from .errors import DarwinNegError, ModelFileError, RequestError
from .results import ChatChunk, ChatReply, Chunk, Generation
from .sampling import SamplingParams, encode, merge, submit_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._core import ChatPrompt, Engine, Update
    from .async_bridge import AsyncBridge

Prompt = str | Sequence[int]

# How long the calling thread stays in C++ before it looks for Ctrl-C.
POLL_SECONDS = 0.1


class DarwinNEG:
    """A GGUF model with (or without) a NEG head, ready to generate.

    model: path of a GGUF file. neg: path of a NEG side-car; without it the head inside the model file is used, if there is one.
    n_ctx: tokens that fit in memory, of all running sequences together and at most of one; 0: what the model was trained for.
    n_parallel: sequences that generate side by side. n_batch, n_ubatch: tokens decoded in one step.
    n_threads: 0 chooses. n_gpu_layers: -1 puts all on the GPU, if this build has one. type_k, type_v: types of the KV cache.
    chat_template: jinja text instead of the model's own. progress: called with 0..1 while loading; returning False stops.

    Safe to use from several threads. Errors: ModelFileError, NegHeadError, RequestError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        neg: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int = 4096,
        n_parallel: int = 8,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int = 0,
        n_threads_batch: int = 0,
        n_gpu_layers: int = -1,
        main_gpu: int = 0,
        split_mode: str = "layer",
        flash_attn: str = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        use_mmap: bool = True,
        use_mlock: bool = False,
        chat_template: str | None = None,
        progress: Callable[[float], bool] | None = None,
    ) -> None:
        self._engine: Engine | None = None
        self._bridge: AsyncBridge | None = None
        self._pid = os.getpid()
        self._path = os.fspath(model)
        core = _load_core()
        for name, value, low in (
            ("n_ctx", n_ctx, 0),
            ("n_parallel", n_parallel, 1),
            ("n_batch", n_batch, 1),
            ("n_ubatch", n_ubatch, 1),
            ("n_threads", n_threads, 0),
            ("n_threads_batch", n_threads_batch, 0),
            ("n_gpu_layers", n_gpu_layers, -1),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**31:
                raise RequestError(f"{name} must be a whole number, at least {low}, got {value!r}")
        if os.path.isdir(self._path):
            raise ModelFileError(f"{self._path}: is a folder; give a GGUF file")
        try:
            self._engine = core.Engine(
                self._path,
                neg_path=None if neg is None else os.fspath(neg),
                n_ctx=n_ctx,
                n_batch=n_batch,
                n_ubatch=n_ubatch,
                n_parallel=n_parallel,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
                n_gpu_layers=n_gpu_layers,
                main_gpu=main_gpu,
                split_mode=split_mode,
                flash_attn=flash_attn,
                type_k=type_k,
                type_v=type_v,
                use_mmap=use_mmap,
                use_mlock=use_mlock,
                chat_template=chat_template,
                progress=progress,
            )
        finally:
            log.forward()
        self._info: dict[str, Any] = self._engine.model_info()

    @classmethod
    def from_pretrained(cls, repo: str, *, file: str | None = None, token: str | None = None, revision: str | None = None, **options: Any) -> DarwinNEG:
        """Downloads a GGUF file (and a NEG side-car beside it) from a Hugging Face repository and loads it; see hub.fetch."""
        from .hub import fetch

        model, neg = fetch(repo, file=file, token=token, revision=revision)
        return cls(model, options.pop("neg", neg), **options)

    # --- what it is

    @property
    def info(self) -> Mapping[str, Any]:
        """Architecture, sizes and special tokens of the loaded model."""
        return self._info

    @property
    def neg(self) -> Mapping[str, Any] | None:
        """Threshold, top_k, temp_scale, source ... of the NEG head, or None when the model has none."""
        head: dict[str, Any] | None = self._info["neg"]
        return head

    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF keys as text."""
        return self._open().metadata()

    def stats(self) -> dict[str, int]:
        """Counters of the engine: prompt tokens decoded, tokens generated, steps, places in use."""
        return self._open().stats()

    # --- text and tokens

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`; add_special puts the start token in front where the model wants one."""
        return self._open().tokenize(encode("text", text), add_special, parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self._open().detokenize(list(tokens), special).decode("utf-8", "replace")

    # --- generation

    @overload
    def generate(self, prompt: str, params: SamplingParams | None = None, **options: Any) -> Any: ...
    @overload
    def generate(self, prompt: Sequence[str] | Sequence[Sequence[int]] | Sequence[int], params: SamplingParams | None = None, **options: Any) -> Any: ...

    def generate(self, prompt: Any, params: SamplingParams | None = None, **options: Any) -> Any:
        """Generates from a prompt (text or token ids) or from a list of prompts, all in one batch.

        Options are those of SamplingParams and override `params`. Returns a Generation for one prompt (a list of n for n > 1),
        and a list of such for a list of prompts. Ctrl-C cancels all of them and raises KeyboardInterrupt.
        Errors: RequestError, ContextFullError, NegHeadError; with several prompts nothing is evaluated when one is refused.
        """
        merged = merge(params, options)
        if _is_one_prompt(prompt):
            return self._run([(self._tokens(prompt), None)], merged)[0]
        if not isinstance(prompt, Sequence) or not prompt:
            raise RequestError("prompt must be text, token ids, or a non-empty list of such")
        return self._run([(self._tokens(one), None) for one in prompt], merged)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **options: Any) -> Iterator[Chunk]:
        """Generates and yields chunks as their text becomes certain. Closing the iterator cancels the request."""
        merged = merge(params, options)
        return self._stream(self._tokens(prompt), merged, None)

    async def agenerate(self, prompt: Any, params: SamplingParams | None = None, **options: Any) -> Any:
        """`generate` for asyncio: any number of requests may be awaited at once; cancelling the task cancels the request."""
        merged = merge(params, options)
        one = _is_one_prompt(prompt)
        prompts = [prompt] if one else list(prompt)
        results = await self._async().gather([self._tokens(text) for text in prompts], merged, os.path.basename(self._path))
        return results[0] if one else results

    async def astream(self, prompt: Prompt, params: SamplingParams | None = None, **options: Any) -> AsyncIterator[Chunk]:
        """`stream` for asyncio."""
        merged = merge(params, options)
        async for chunk in self._async().stream(self._tokens(prompt), merged):
            yield chunk

    # --- conversations

    def chat(
        self,
        messages: Sequence[chat_format.Message],
        params: SamplingParams | None = None,
        *,
        enable_thinking: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Answers a conversation in OpenAI's message format through the model's own chat template.

        enable_thinking: for templates that know the switch. tools: OpenAI's list of functions, passed to the template.
        Returns a ChatReply (a list of n for n > 1).
        """
        merged = merge(params, options)
        prompt, merged = self._chat_prompt(messages, merged, enable_thinking, tools, tool_choice, chat_template_kwargs)
        out = self._run([(self._template_tokens(prompt), prompt)], merged)[0]
        engine = self._open()
        if isinstance(out, list):
            return [chat_format.reply(engine, prompt, one) for one in out]
        return chat_format.reply(engine, prompt, out)

    def stream_chat(
        self,
        messages: Sequence[chat_format.Message],
        params: SamplingParams | None = None,
        *,
        enable_thinking: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Iterator[ChatChunk]:
        """`chat` as a stream of chunks, each with what is new of the reasoning and of the visible text (n = 1 only)."""
        merged = merge(params, options)
        if merged.n != 1:
            raise RequestError("n must be 1 for stream_chat; use chat for several answers")
        prompt, merged = self._chat_prompt(messages, merged, enable_thinking, tools, tool_choice, chat_template_kwargs)
        chunks = self._stream(self._template_tokens(prompt), merged, prompt)
        return chat_format.stream(self._open(), prompt, chunks)

    def apply_chat_template(
        self,
        messages: Sequence[chat_format.Message],
        *,
        enable_thinking: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that the template makes of a conversation."""
        chat_format.check_messages(messages)
        prompt = self._open().apply_chat_template(
            chat_format.json_text("messages", list(messages)),
            tools_json=chat_format.json_text("tools", list(tools)) if tools else "",
            enable_thinking=enable_thinking,
            add_generation_prompt=add_generation_prompt,
            template_kwargs_json=chat_format.json_text("chat_template_kwargs", dict(chat_template_kwargs)) if chat_template_kwargs else "",
        )
        return prompt.prompt

    # --- end

    def close(self) -> None:
        """Cancels what runs and frees the memory. Safe to call twice."""
        engine, self._engine = self._engine, None
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        if engine is not None and self._pid == os.getpid():
            engine.close()
            log.forward()

    def __enter__(self) -> DarwinNEG:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self.close()

    # --- inside

    def _open(self) -> Engine:
        if self._engine is None:
            raise DarwinNegError("the model is closed; load it again")
        if self._pid != os.getpid():
            raise DarwinNegError("the model was loaded before fork() and its threads did not come along; load it in the child process")
        return self._engine

    def _async(self) -> AsyncBridge:
        from .async_bridge import AsyncBridge

        engine = self._open()
        if self._bridge is None:
            self._bridge = AsyncBridge(engine)
        return self._bridge

    def _tokens(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize(prompt)
        if not _is_one_prompt(prompt):
            raise RequestError(f"prompt must be text or a list of token ids, got {type(prompt).__name__}")
        return [int(token) for token in prompt]

    def _template_tokens(self, prompt: ChatPrompt) -> list[int]:
        # the template writes the start token itself where it wants one; a second one would change the answer
        bos = self._info["bos"]
        text = prompt.prompt
        tokens = self.tokenize(text, add_special=True)
        if len(tokens) > 1 and tokens[0] == bos and tokens[1] == bos:
            return tokens[1:]
        return tokens

    def _chat_prompt(
        self,
        messages: Sequence[chat_format.Message],
        params: SamplingParams,
        enable_thinking: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        tool_choice: str,
        kwargs: Mapping[str, Any] | None,
    ) -> tuple[ChatPrompt, SamplingParams]:
        chat_format.check_messages(messages)
        schema = submit_arguments(params, stream=False)["json_schema"]
        prompt = self._open().apply_chat_template(
            chat_format.json_text("messages", list(messages)),
            tools_json=chat_format.json_text("tools", list(tools)) if tools else "",
            tool_choice=tool_choice,
            enable_thinking=enable_thinking,
            template_kwargs_json=chat_format.json_text("chat_template_kwargs", dict(kwargs)) if kwargs else "",
            json_schema=schema,
        )
        if schema:
            # the template has put the schema's grammar behind the reasoning part; it must not be applied from the first token
            import dataclasses

            params = dataclasses.replace(params, json_schema=None)
        return prompt, params

    def _submit(self, tokens: list[int], params: SamplingParams, chat: ChatPrompt | None, *, stream: bool) -> int:
        return self._open().submit(tokens, chat=chat, **submit_arguments(params, stream=stream))

    def _run(self, prompts: list[tuple[list[int], ChatPrompt | None]], params: SamplingParams) -> list[Any]:
        engine = self._open()
        ids: list[int] = []
        try:
            for tokens, chat in prompts:
                ids.append(self._submit(tokens, params, chat, stream=False))
            return [self._finish(engine, request, params.n) for request in ids]
        finally:
            for request in ids:
                engine.release(request)
            log.forward()

    def _finish(self, engine: Engine, request: int, n: int) -> Any:
        update: Update | None = None
        while update is None:
            update = engine.wait(request, POLL_SECONDS)
        name = os.path.basename(self._path)
        done = [collect.generation([chunk], update, name) for chunk in collect.chunks(update)]
        return done[0] if n == 1 else done

    def _stream(self, tokens: list[int], params: SamplingParams, chat: ChatPrompt | None) -> Iterator[Chunk]:
        engine = self._open()
        request = self._submit(tokens, params, chat, stream=True)

        def chunks() -> Iterator[Chunk]:
            try:
                finished = False
                while not finished:
                    update = engine.wait(request, POLL_SECONDS)
                    if update is not None:
                        finished = update["finished"]
                        yield from collect.chunks(update)
            finally:
                engine.release(request)
                log.forward()

        return chunks()


def _is_one_prompt(prompt: Any) -> bool:
    """Text, or a sequence of token ids (whole numbers)."""
    if isinstance(prompt, str):
        return True
    if not hasattr(prompt, "__len__") or not hasattr(prompt, "__getitem__") or isinstance(prompt, (bytes, Mapping)):
        return False
    return len(prompt) > 0 and all(hasattr(token, "__index__") and not isinstance(token, bool) for token in prompt)


def _load_core() -> Any:
    try:
        from . import _core
    except ImportError as error:
        raise DarwinNegError(f"the compiled engine cannot be loaded ({error}); install the package with `pip install .`") from error
    return _core
