"""The model as Python users hold it."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import os
import re
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, overload

from .engine import chat as chat_format
from .engine import log, scoring, updates
from .engine.stream import POLL_SECONDS, Stream, release
from .engine.token_ids import is_one_prompt, token_list
from .errors import DarwinNegError, ModelFileError, NegHeadError, RequestError, one_line
from .files.input_file import open_input, shown_path
from .gguf_file.preflight import check_runnable, explain
from .results import ChatChunk, Chunk, Evaluation, Generation
from .sampling import MAX_INT32, Options, SamplingParams, check_integer, encode, json_text, merge, submit_arguments

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._core import ChatPrompt, Engine, Update
    from .engine.async_bridge import AsyncBridge
    from .protocols import Answer, ModeConfig, Question
    from .protocols.modes import ModeOptions

Prompt = str | Sequence[int]
Prompts = Sequence[str] | Sequence[Sequence[int]]

MAX_THREADS = 512  # ggml's own limit

_open_models: weakref.WeakSet[DarwinNEG] = weakref.WeakSet()


class ModelOptions(TypedDict, total=False):
    """The keyword arguments of DarwinNEG, for functions that find the file and then load it."""

    n_ctx: int
    n_parallel: int
    n_batch: int
    n_ubatch: int
    n_threads: int
    n_threads_batch: int
    n_gpu_layers: int
    main_gpu: int
    split_mode: Literal["none", "layer", "row"]
    flash_attn: Literal["auto", "on", "off"]
    type_k: str
    type_v: str
    use_mmap: bool
    use_mlock: bool
    chat_template: str | None
    progress: Callable[[float], bool | None] | None


class DarwinNEG:
    """A GGUF model with (or without) a NEG head, ready to generate.

    model: path of a GGUF file. neg: path of a NEG side-car; without it the head inside the model file is used, if any.
    n_ctx: tokens that fit in memory, of all running sequences together and at most of one; 0: what the model was
        trained for.
    n_parallel: sequences that generate side by side. n_batch, n_ubatch: tokens decoded in one step.
    n_threads: 0 chooses. n_gpu_layers: -1 puts all on the GPU, if this build has one.
    type_k, type_v: types of the KV cache, "f16", "q8_0" ...
    chat_template: jinja text instead of the model's own. progress: called with 0..1 while loading; False stops it.

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
        split_mode: Literal["none", "layer", "row"] = "layer",
        flash_attn: Literal["auto", "on", "off"] = "auto",
        type_k: str = "f16",
        type_v: str = "f16",
        use_mmap: bool = True,
        use_mlock: bool = False,
        chat_template: str | None = None,
        progress: Callable[[float], bool | None] | None = None,
    ) -> None:
        self._engine: Engine | None = None
        self._bridge: AsyncBridge | None = None
        self._lock = threading.Lock()  # guards _bridge
        self._pid = os.getpid()
        core = _load_core()
        self._path = _input_path("model", model)
        neg_path = None if neg is None else _input_path("neg", neg)
        for name, value, low, high in (
            ("n_ctx", n_ctx, 0, MAX_INT32),
            ("n_parallel", n_parallel, 1, 255),
            ("n_batch", n_batch, 1, MAX_INT32),
            ("n_ubatch", n_ubatch, 1, MAX_INT32),
            ("n_threads", n_threads, 0, MAX_THREADS),
            ("n_threads_batch", n_threads_batch, 0, MAX_THREADS),
            ("n_gpu_layers", n_gpu_layers, -1, MAX_INT32),
            ("main_gpu", main_gpu, 0, MAX_INT32),
        ):
            check_integer(name, value, low=low, high=high)
        for name, text in (
            ("split_mode", split_mode),
            ("flash_attn", flash_attn),
            ("type_k", type_k),
            ("type_v", type_v),
        ):
            encode(name, text)
        if chat_template is not None:
            encode("chat_template", chat_template)
        check_runnable(self._path, use_mmap=bool(use_mmap))
        stopped = False

        def watch(fraction: float) -> bool:
            nonlocal stopped
            # Called without a callback too: it is where Ctrl-C comes through while C++ loads.
            # One that returns nothing, as tqdm's do, goes on.
            stopped = progress is not None and progress(fraction) is False
            return not stopped

        try:
            self._engine = core.Engine(
                self._path,
                neg_path=neg_path,
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
                use_mmap=bool(use_mmap),
                use_mlock=bool(use_mlock),
                chat_template=chat_template,
                progress=watch,
            )
        except (ModelFileError, NegHeadError) as error:
            if stopped:
                raise DarwinNegError(
                    f"{shown_path(self._path)}: loading was stopped by the progress callback"
                ) from None
            raise explain(self._path, error) from None
        finally:
            log.forward()
        self._info: dict[str, Any] = self._engine.model_info()
        _open_models.add(self)

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        *,
        quant: str | None = None,
        file: str | None = None,
        neg: str | os.PathLike[str] | None = None,
        token: str | None = None,
        revision: str | None = None,
        **options: Unpack[ModelOptions],
    ) -> DarwinNEG:
        """Downloads a GGUF file (and the NEG side-car beside it) from a Hugging Face repository, and loads it.

        A repository of safetensors is converted on the way, head included, and the result kept in the cache.
        quant: "Q4_K_M", picks among several files, or the type to convert to; file: names one. neg: a local side-car
        instead of the repository's.
        """
        from .pretrained import fetch

        model, side_car = fetch(repo, quant=quant, file=file, token=token, revision=revision, side_car=neg is None)
        return cls(model, neg if neg is not None else side_car, **options)

    # --- what it is

    @property
    def path(self) -> str:
        """The model file."""
        return self._path

    @property
    def info(self) -> Mapping[str, Any]:
        """Architecture, sizes and special tokens of the loaded model."""
        return self._info

    @property
    def neg(self) -> Mapping[str, Any] | None:
        """Threshold, top_k, temp_scale, source ... of the NEG head, or None when the model has none."""
        return cast("Mapping[str, Any] | None", self._info["neg"])

    @property
    def metadata(self) -> dict[str, str]:
        """The GGUF keys as text."""
        return self._open().metadata()

    def stats(self) -> dict[str, int]:
        """Counters of the engine: prompt tokens decoded, tokens generated, steps, places in use."""
        return self._open().stats()

    # --- text and tokens

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`; add_special puts the start token in front where the model wants one.

        parse_special: read control tokens written out in the text ("<|im_start|>") as such; False for untrusted text.
        """
        return self._open().tokenize(encode("text", text), add_special, parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. special: write control tokens out."""
        ids = token_list("tokens", tokens, self._info["n_vocab"])
        return self._open().detokenize(ids, special).decode("utf-8", "replace")

    # --- generation

    @overload
    def generate(
        self, prompt: list[str], params: SamplingParams | None = None, **options: Unpack[Options]
    ) -> list[Any]: ...
    @overload
    def generate(
        self, prompt: list[list[int]], params: SamplingParams | None = None, **options: Unpack[Options]
    ) -> list[Any]: ...
    @overload
    def generate(self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[Options]) -> Any: ...

    def generate(self, prompt: Any, params: SamplingParams | None = None, **options: Unpack[Options]) -> Any:
        """Generates from a prompt (text or token ids) or from a list of prompts, all in one batch.

        Options are those of SamplingParams and override `params`. Returns a Generation for one prompt (a list of n of
        them for n > 1), and a list of such for a list of prompts. Ctrl-C cancels all of them and raises
        KeyboardInterrupt. Errors: RequestError, ContextFullError, NegHeadError; one refused prompt refuses all.
        """
        merged = merge(params, options)
        prompts, single = self._prompts(prompt)
        results = self._run(prompts, merged)
        return results[0] if single else results

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[Options]) -> Stream:
        """Generates and yields chunks as their text becomes certain. Closing the stream cancels the request."""
        merged = merge(params, options)
        (request,) = self._submit([self._tokens(prompt)], merged, None, stream=True)
        return Stream(self._open(), request)

    async def agenerate(self, prompt: Any, params: SamplingParams | None = None, **options: Unpack[Options]) -> Any:
        """`generate` for asyncio: any number of requests may be awaited at once; cancelling the task cancels them."""
        merged = merge(params, options)
        prompts, single = self._prompts(prompt)
        results = await self._async().gather(prompts, merged, os.path.basename(self._path))
        return results[0] if single else results

    async def astream(
        self, prompt: Prompt, params: SamplingParams | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for asyncio. Break out of it inside `contextlib.aclosing` to cancel at once."""
        merged = merge(params, options)
        async with contextlib.aclosing(self._async().stream(self._tokens(prompt), merged)) as chunks:
            async for chunk in chunks:
                yield chunk

    def cancel(self) -> None:
        """Cancels everything that runs, from any thread; the answers so far are returned as "cancelled"."""
        self._open().cancel_all()

    # --- given texts

    def evaluate(self, prompt: Prompt, *, hidden: bool = False, top: int = 0) -> Evaluation:
        """Runs a given text (or token ids) through the model; what it says at every position.

        hidden: also the LM head's input at each. top: number of most likely next tokens to report. Runs beside generation, in a
        context of its own; the text may be as long as n_ctx. Errors: RequestError, ContextFullError.
        """
        return next(self.evaluate_many([prompt], hidden=hidden, top=top))

    def evaluate_many(
        self, prompts: Sequence[Prompt], *, hidden: bool = False, top: int = 0
    ) -> Generator[Evaluation, None, None]:
        """`evaluate` for any number of texts, in order, many of them in one batch; memory does not grow with their number."""
        check_integer("top", top, low=0, high=self._info["n_vocab"])
        threshold = None if self.neg is None else float(self.neg["threshold"])
        texts = [self._tokens(one) for one in prompts]
        engine = self._open()
        with one_line():
            yield from scoring.evaluate(engine, texts, threshold=threshold, hidden=bool(hidden), top=int(top))

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
        **options: Unpack[Options],
    ) -> Any:
        """Answers a conversation in OpenAI's message format through the model's own chat template.

        enable_thinking: for templates that know the switch. tools: OpenAI's list of functions, passed to the template.
        Returns a ChatReply (a list of n of them for n > 1).
        """
        merged = merge(params, options)
        prompt, merged = self._chat_prompt(messages, merged, enable_thinking, tools, tool_choice, chat_template_kwargs)
        out = self._run([self._template_tokens(prompt.prompt)], merged, prompt)[0]
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
        **options: Unpack[Options],
    ) -> Generator[ChatChunk, None, None]:
        """`chat` as a stream of chunks, each with what is new of the reasoning and of the visible text (n = 1 only)."""
        merged = merge(params, options)
        if merged.n != 1:
            raise RequestError("n must be 1 for stream_chat; use chat for several answers")
        prompt, merged = self._chat_prompt(messages, merged, enable_thinking, tools, tool_choice, chat_template_kwargs)
        (request,) = self._submit([self._template_tokens(prompt.prompt)], merged, prompt, stream=True)
        return chat_format.stream(self._open(), prompt, Stream(self._open(), request))

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
        with one_line():
            prompt = self._open().apply_chat_template(
                json_text("messages", list(messages)),
                tools_json=chat_format.tools_json(tools),
                enable_thinking=bool(enable_thinking),
                add_generation_prompt=bool(add_generation_prompt),
                template_kwargs_json=chat_format.kwargs_json(chat_template_kwargs),
            )
        return prompt.prompt

    # --- multiple-choice questions

    @overload
    def answer(
        self,
        question: Question,
        mode: int = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        **options: Unpack[ModeOptions],
    ) -> Answer: ...
    @overload
    def answer(
        self,
        question: Sequence[Question],
        mode: int = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        **options: Unpack[ModeOptions],
    ) -> list[Answer]: ...

    def answer(
        self,
        question: Question | Sequence[Question],
        mode: int = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        **options: Unpack[ModeOptions],
    ) -> Any:
        """Answers a multiple-choice question, or several side by side, in one of the modes of docs/protocols.md.

        mode: 0 greedy without the gate, 1 greedy with it, 2 majority over orderings of the choices, 3 ensemble with second opinions.
        Options are those of ModeConfig and override `config`. early_stop: cancel what can no longer change the winner.
        Returns an Answer, or a list of them for a list. Errors: RequestError, ContextFullError, NegHeadError.
        """
        from . import protocols
        from .protocols.modes import merge as merge_modes

        merged = merge_modes(config, options)
        if isinstance(question, protocols.Question):
            return protocols.answer(self, question, mode, config=merged, early_stop=early_stop)
        for one in question if isinstance(question, (list, tuple)) else [question]:
            if not isinstance(one, protocols.Question):
                raise RequestError(f"question must be a Question or a list of them, got {type(one).__name__}")
        return protocols.answer_many(self, question, mode, config=merged, early_stop=early_stop)

    # --- end

    def close(self) -> None:
        """Cancels what runs and frees the memory. Safe to call twice."""
        engine, self._engine = self._engine, None
        bridge, self._bridge = self._bridge, None
        if engine is None:
            return
        if self._pid != os.getpid():
            # A forked child has the object but not the engine's thread: freeing it would wait for that thread for ever.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
            return
        if bridge is not None:
            bridge.close()
        engine.close()
        log.forward()

    def __enter__(self) -> DarwinNEG:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            with contextlib.suppress(Exception):  # modules may be gone when Python ends
                self.close()

    # --- inside

    def _open(self) -> Engine:
        if self._engine is None:
            raise DarwinNegError("the model is closed; load it again")
        if self._pid != os.getpid():
            raise DarwinNegError(
                "the model was loaded before fork() and its threads did not come along; load it in the child process"
            )
        return self._engine

    def _async(self) -> AsyncBridge:
        from .engine.async_bridge import AsyncBridge

        engine = self._open()
        with self._lock:
            if self._bridge is None:
                self._bridge = AsyncBridge(engine)
            return self._bridge

    def _prompts(self, prompt: Any) -> tuple[list[list[int]], bool]:
        """Token ids of each prompt, and whether it was a single one rather than a list."""
        if is_one_prompt(prompt):
            return [self._tokens(prompt)], True
        if not isinstance(prompt, (list, tuple)) or not prompt:
            got = "nothing in it" if isinstance(prompt, (list, tuple)) else type(prompt).__name__
            raise RequestError(f"prompt must be text, token ids, or a list of prompts, got {got}")
        return [self._tokens(one) for one in prompt], False

    def _tokens(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self._open().tokenize(encode("prompt", prompt), True, True)
        return token_list("prompt", prompt, self._info["n_vocab"])

    def _template_tokens(self, text: str) -> list[int]:
        # the template writes the start token itself where it wants one; a second one would change the answer
        tokens = self._tokens(text)
        bos = self._info["bos"]
        return tokens[1:] if tokens[:2] == [bos, bos] else tokens

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
        encode("tool_choice", tool_choice)
        with one_line():
            prompt = self._open().apply_chat_template(
                json_text("messages", list(messages)),
                tools_json=chat_format.tools_json(tools),
                tool_choice=tool_choice,
                enable_thinking=bool(enable_thinking),
                template_kwargs_json=chat_format.kwargs_json(kwargs),
                json_schema=schema,
            )
        if schema:
            # the template has put the schema's grammar behind the reasoning; it must not act from the first token on
            params = dataclasses.replace(params, json_schema=None)
        return prompt, params

    def _submit(
        self, prompts: Sequence[list[int]], params: SamplingParams, chat: ChatPrompt | None, *, stream: bool
    ) -> list[int]:
        with one_line():
            return self._open().submit(prompts, chat=chat, **submit_arguments(params, stream=stream))

    def _run(
        self, prompts: Sequence[list[int]], params: SamplingParams, chat: ChatPrompt | None = None
    ) -> list[Generation | list[Generation]]:
        engine = self._open()
        ids: list[int] = []
        try:
            ids = self._submit(prompts, params, chat, stream=False)
            return [self._finish(engine, request, params.n) for request in ids]
        finally:
            for request in ids:
                release(engine, request)
            log.forward()

    def _finish(self, engine: Engine, request: int, n: int) -> Generation | list[Generation]:
        update: Update | None = None
        while update is None:
            update = engine.wait(request, POLL_SECONDS)
        name = os.path.basename(self._path)
        done = [updates.generation([chunk], update, name) for chunk in updates.chunks(update)]
        return done[0] if n == 1 else done


def _input_path(argument: str, path: object) -> str:
    """A path that names a readable regular file; opening a pipe would block for ever."""
    if not isinstance(path, (str, os.PathLike)):
        raise RequestError(f"{argument} must be a path, got {type(path).__name__}")
    name = os.fspath(path)
    if not isinstance(name, str):
        raise RequestError(f"{argument} must be a path of text, got {type(name).__name__}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ModelFileError(f"{shown_path(name)}: the name is not valid UTF-8; rename the file") from None
    open_input(name, ModelFileError).close()
    return name


def _load_core() -> Any:
    try:
        from . import _core
    except ImportError as error:
        raise DarwinNegError(
            f"the compiled engine cannot be loaded ({error}); install the package with `pip install .`"
        ) from error
    return _core


@atexit.register
def _close_all() -> None:
    # threads that come back from C++ while Python shuts down would end the process badly
    for model in list(_open_models):
        model.close()


def load_darwin_neg(
    path_or_repo: str | os.PathLike[str], hf_token: str | None = None, **options: Unpack[ModelOptions]
) -> DarwinNEG:
    """Loads a model from a GGUF file or a Hugging Face repository, like the helper on the model card."""
    name = os.fspath(path_or_repo)
    if os.path.exists(name) or name.endswith(".gguf") or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return DarwinNEG(name, **options)
    return DarwinNEG.from_pretrained(name, token=hf_token, **options)
