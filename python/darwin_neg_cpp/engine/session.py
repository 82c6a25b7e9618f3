"""A loaded model: opens and closes the engine, turns text into tokens, submits requests and finishes their results."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import threading
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from ..checks import MAX_INT32, check_flag, check_integer, check_text, encode
from ..errors import DarwinNegError, ModelFileError, NegHeadError, RequestError
from ..files.input_file import open_input, shown_path
from ..gguf_file.preflight import check_runnable, explain
from ..results import ChatChunk, ChatReply, Generation, Scores
from ..sampling import SamplingParams, to_engine_values
from . import chat as conversation
from . import log, scoring, updates
from .async_bridge import AsyncBridge
from .requests import NotifyName, next_update, submit
from .stream import Stream
from .token_ids import check_tokens, is_one_prompt
from .user_text import UserText, tokenize_pieces

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._core import ChatPrompt, Engine, Inbox, Requests

MAX_THREADS = 512  # ggml's own limit

_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


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


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "n_ctx": partial(check_integer, low=0),
    "n_parallel": partial(check_integer, low=1, high=255),
    "n_batch": partial(check_integer, low=1),
    "n_ubatch": partial(check_integer, low=1),
    "n_threads": partial(check_integer, low=0, high=MAX_THREADS),
    "n_threads_batch": partial(check_integer, low=0, high=MAX_THREADS),
    "n_gpu_layers": partial(check_integer, low=-1, high=MAX_INT32),
    "main_gpu": partial(check_integer, low=0),
    "split_mode": check_text,
    "flash_attn": check_text,
    "type_k": check_text,
    "type_v": check_text,
    "use_mmap": check_flag,
    "use_mlock": check_flag,
}


class Session:
    """A model that is loaded, until it is closed. See DarwinNEG for the arguments.

    path: the model file. name: its name without folders. info: architecture, sizes and special tokens.
    neg: threshold, top_k, source ... of the NEG head, None when the model has none.
    """

    def __init__(
        self, model: str | os.PathLike[str], neg: str | os.PathLike[str] | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        self._engine: Engine | None = None
        self._bridge: AsyncBridge | None = None
        self._lock = threading.Lock()  # guards _bridge
        core = _load_core()
        self.path = _input_path("model", model)
        self.name = os.path.basename(self.path)
        neg_path = None if neg is None else _input_path("neg", neg)
        chat_template, progress = options.pop("chat_template", None), options.pop("progress", None)
        values = {name: _CHECKS[name](name, value) for name, value in options.items()}
        if chat_template is not None:
            check_text("chat_template", chat_template)
        if progress is not None and not callable(progress):
            raise RequestError(f"progress must be a function of one number, got {type(progress).__name__}")
        check_runnable(self.path, use_mmap=options.get("use_mmap", True))
        stopped = False

        def watch(fraction: float) -> bool:
            nonlocal stopped
            # Called without a callback too: it is where Ctrl-C comes through while C++ loads.
            # One that returns nothing, as tqdm's do, does not stop the load.
            stopped = progress is not None and progress(fraction) is False
            return not stopped

        try:
            params = core.ModelParams(self.path, neg_path=neg_path, **values)
            self._engine = core.Engine(params, chat_template=chat_template, progress=watch)
        except (ModelFileError, NegHeadError) as error:
            if stopped:
                raise DarwinNegError(f"{shown_path(self.path)}: loading was stopped by the progress callback") from None
            raise explain(self.path, error) from None
        finally:
            log.forward()
        self.info: Mapping[str, Any] = self._engine.model_info()
        self.neg: Mapping[str, Any] | None = self.info["neg"]
        _open_sessions.add(self)

    @property
    def engine(self) -> Engine:
        """The compiled engine. Errors: DarwinNegError when the model is closed."""
        if self._engine is None:
            raise DarwinNegError("the model is closed; load it again")
        return self._engine

    @cached_property
    def user_text(self) -> UserText:
        """What of a conversation must not become control tokens."""
        return UserText(self.engine)

    def close(self) -> None:
        """Cancels what runs, whose answers still arrive, and frees the memory. Safe to call twice."""
        engine, self._engine = self._engine, None
        bridge, self._bridge = self._bridge, None
        if engine is None:
            return
        with contextlib.suppress(DarwinNegError):  # a forked child, which has nothing to close
            engine.close()
            if bridge is not None:
                bridge.close()
            log.forward()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            with contextlib.suppress(Exception):  # modules may be gone when Python ends
                self.close()

    # --- text and tokens

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        flags = check_flag("add_special", add_special), check_flag("parse_special", parse_special)
        return self.engine.tokenize(encode("text", text), *flags)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.detokenize_bytes(tokens, special=special).decode("utf-8", "replace")

    def detokenize_bytes(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes that token ids stand for, which may end inside a character."""
        ids = check_tokens("tokens", tokens, self.info["n_vocab"])
        return self.engine.detokenize(ids, check_flag("special", special))

    def tokenize_prompt(self, prompt: Any) -> list[int]:
        """Token ids of a prompt, which is text or token ids."""
        if isinstance(prompt, str):
            return self.engine.tokenize(encode("prompt", prompt), True, True)
        return check_tokens("prompt", prompt, self.info["n_vocab"])

    def tokenize_prompts(self, prompt: Any) -> tuple[list[list[int]], bool]:
        """Token ids of each prompt, and whether it was a single one rather than a list."""
        if is_one_prompt(prompt):
            return [self.tokenize_prompt(prompt)], True
        if not isinstance(prompt, (list, tuple)) or not prompt:
            got = "nothing in it" if isinstance(prompt, (list, tuple)) else type(prompt).__name__
            raise RequestError(f"prompt must be text, token ids, or a list of prompts, got {got}")
        return [self.tokenize_prompt(text) for text in prompt], False

    def render(
        self,
        messages: Sequence[conversation.Message],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[conversation.TemplateOptions],
    ) -> ChatPrompt:
        """A conversation in the model's chat template."""
        engine, user_text = self.engine, self.user_text
        return conversation.render(engine, user_text, messages, add_generation_prompt=add_generation_prompt, **options)

    def chat_tokens(
        self,
        messages: Sequence[conversation.Message],
        *,
        add_generation_prompt: bool = True,
        **options: Unpack[conversation.TemplateOptions],
    ) -> list[int]:
        """Token ids of a conversation in the model's chat template, with the start token where the model wants one."""
        return self.tokenize_rendered(self.render(messages, add_generation_prompt=add_generation_prompt, **options))

    def tokenize_rendered(self, prompt: ChatPrompt) -> list[int]:
        pieces = prompt.pieces
        tokens = self.tokenize_prompt(prompt.prompt) if len(pieces) == 1 else tokenize_pieces(self.engine, pieces)
        # some templates write the start token themselves; a second one would change the answer
        bos = self.info["bos"]
        return tokens[1:] if tokens[:2] == [bos, bos] else tokens

    # --- requests

    def open_inbox(self) -> Inbox:
        return self.engine.inbox()

    def submit(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        inbox: Inbox,
        notify: NotifyName,
        chat: ChatPrompt | None = None,
    ) -> Requests:
        """See requests.submit."""
        return submit(self.engine, prompts, params, inbox, notify, chat)

    def run(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, chat: ChatPrompt | None = None
    ) -> list[Generation | list[Generation]]:
        """Results of all prompts, in order; a Generation each, or a list of n. One failure cancels the others."""
        inbox = self.open_inbox()
        requests = None
        try:
            requests = self.submit(prompts, params, inbox, "request", chat)
            done: dict[int, Generation | list[Generation]] = {}
            while len(done) < len(requests.ids):
                update = next_update(inbox)
                done[update["request"]] = updates.read_generations(update, params.n, self.name)
            return [done[request] for request in requests.ids]
        finally:
            if requests is not None:
                requests.release()
            log.forward()

    def stream(self, tokens: Sequence[int], params: SamplingParams, chat: ChatPrompt | None = None) -> Stream:
        """Starts a request, whose chunks come as their text becomes certain."""
        inbox = self.open_inbox()
        return Stream(self.submit([tokens], params, inbox, "token", chat), inbox)

    def chat(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> ChatReply | list[ChatReply]:
        """Answers a conversation; a ChatReply, or a list of n."""
        engine = self.engine
        prompt, tokens, params = self._chat_request(messages, params, options)
        (out,) = self.run([tokens], params, prompt)
        if isinstance(out, list):
            return [conversation.read_reply(engine, prompt, sample) for sample in out]
        return conversation.read_reply(engine, prompt, out)

    def stream_chat(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> Generator[ChatChunk, None, None]:
        """Answers a conversation in chunks."""
        if params.n != 1:
            raise RequestError("n must be 1 for stream_chat; use chat for several answers")
        engine = self.engine
        prompt, tokens, params = self._chat_request(messages, params, options)
        return conversation.split_stream(engine, prompt, self.stream(tokens, params, prompt))

    def _chat_request(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> tuple[ChatPrompt, list[int], SamplingParams]:
        """What a conversation is submitted as: its prompt, the token ids of that, and parameters that go with it."""
        schema = to_engine_values(params)["json_schema"]
        prompt = conversation.render(self.engine, self.user_text, messages, json_schema=schema, **options)
        if schema:
            # the template has put the schema's grammar after the reasoning; it must not act from the first token on
            params = dataclasses.replace(params, json_schema=None)
        return prompt, self.tokenize_rendered(prompt), params

    def open_bridge(self) -> AsyncBridge:
        """For asyncio: its thread starts when first asked for."""
        engine = self.engine
        with self._lock:
            if self._bridge is None:
                self._bridge = AsyncBridge(engine)
            return self._bridge

    def score(self, prompts: Sequence[Any], *, hidden: bool, top: int) -> Generator[Scores, None, None]:
        """Scores of given texts, each text or token ids; see DarwinNEG.score_many."""
        check_integer("top", top, low=0, high=self.info["n_vocab"])
        threshold = None if self.neg is None else float(self.neg["threshold"])
        texts = [self.tokenize_prompt(prompt) for prompt in prompts]
        scoring.check_texts(texts)
        hidden = check_flag("hidden", hidden)
        return scoring.score(self.engine, texts, threshold=threshold, hidden=hidden, top=int(top))


def sample_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of a request with this seed; a request with that seed repeats the sample."""
    return int(_load_core().sample_seed(seed, index))


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
        from .. import _core
    except ImportError as error:
        raise DarwinNegError(
            f"the compiled engine cannot be loaded ({error}); install the package with `pip install .`"
        ) from error
    return _core


@atexit.register
def _close_all() -> None:
    # threads that come back from C++ while Python shuts down would end the process badly
    for session in list(_open_sessions):
        session.close()
