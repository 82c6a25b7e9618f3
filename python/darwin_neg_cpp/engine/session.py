"""A loaded model: opens and closes the engine, turns text into tokens, submits requests and finishes their results."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..checks import check_flag, check_integer, check_text, encode
from ..errors import DarwinNegError, ModelFileError, NegHeadError, RequestError, one_line
from ..files.input_file import shown_path
from ..files.shown_text import escape_line
from ..files.usable_cpus import usable_cpus
from ..gguf_file.adapter import check_adapter
from ..gguf_file.overrides import fit_overrides
from ..gguf_file.preflight import check_runnable, explain
from ..results import ChatChunk, ChatReply, Generation, Scores
from ..sampling import SamplingParams, read_file_defaults, to_engine_values
from . import chat as conversation
from . import continuation, log, prefix_file, scoring, updates
from .async_bridge import AsyncBridge
from .model_options import MAX_THREADS, WITHOUT_EFFECT_ON_STATES, ModelOptions, check_options, input_path
from .requests import NotifyName, next_update, submit
from .stream import Stream
from .token_ids import check_tokens, is_one_prompt, split_added
from .token_texts import TokenTexts
from .user_text import UserText, tokenize_pieces

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .._core import ChatPrompt, Engine, Inbox, Requests

logger = logging.getLogger(__name__)

_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    """A model that is loaded, until it is closed. See DarwinNEG for the arguments.

    path: the model file. name: its name without folders. info: architecture, sizes and special tokens.
    neg: threshold, top_k, source ... of the NEG head, None when the model has none.
    defaults: of sampling parameters, as the model file sets them.
    """

    def __init__(
        self, model: str | os.PathLike[str], neg: str | os.PathLike[str] | None = None, **options: Unpack[ModelOptions]
    ) -> None:
        self._engine: Engine | None = None
        self._bridge: AsyncBridge | None = None
        self._lock = threading.Lock()  # guards _bridge
        core = _load_core()
        self.path = input_path("model", model)
        self.name = os.path.basename(self.path)
        neg_path = None if neg is None else input_path("neg", neg)
        chat_template, progress = options.pop("chat_template", None), options.pop("progress", None)
        file_sampling = check_flag("file_sampling", options.pop("file_sampling", True))
        values = check_options(options)
        self._state_options = {name: value for name, value in values.items() if name not in WITHOUT_EFFECT_ON_STATES}
        if chat_template is not None:
            check_text("chat_template", chat_template)
            if not chat_template.strip():
                raise RequestError("chat_template is empty; pass a Jinja template, or None for the model's own")
        if progress is not None and not callable(progress):
            raise RequestError(f"progress must be a function of one number, got {type(progress).__name__}")
        overrides = values["kv_overrides"] = fit_overrides(self.path, values.get("kv_overrides", ()))
        for note in check_runnable(self.path, use_mmap=options.get("use_mmap", True), overrides=overrides):
            logger.warning("%s", note)
        for adapter, _ in values.get("lora", ()):
            check_adapter(adapter, self.path)
        if not values.get("n_threads"):
            values["n_threads"] = min(usable_cpus().default_threads, MAX_THREADS)
        stopped = False

        def watch(fraction: float) -> bool:
            nonlocal stopped
            # Called without a callback too: it is where Ctrl-C comes through while C++ loads.
            # One that returns nothing, as tqdm's do, does not stop the load.
            stopped = progress is not None and progress(fraction) is False
            return not stopped

        try:
            with one_line():
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
        self.defaults: Mapping[str, Any] = self._read_defaults() if file_sampling else {}
        self._texts = TokenTexts(self._engine)
        _open_sessions.add(self)

    def _read_defaults(self) -> Mapping[str, Any]:
        values, notes = read_file_defaults(self.engine.metadata())
        for note in notes:
            log.logger.warning("%s: %s", shown_path(self.path), escape_line(note))
        return values

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
        return self._tokenize(encode("text", text), *flags)

    def _tokenize(self, text: bytes, add_special: bool = True, parse_special: bool = True) -> list[int]:
        tokens = self.engine.tokenize(text, add_special, parse_special)
        return self._with_one_start(tokens) if add_special else tokens

    def _with_one_start(self, tokens: list[int]) -> list[int]:
        """A text that begins with the start token, as templates write it, does not get a second one."""
        return tokens[1:] if self.info.get("add_bos", False) and tokens[:2] == [self.info["bos"]] * 2 else tokens

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return self.detokenize_bytes(tokens, special=special).decode("utf-8", "replace")

    def detokenize_bytes(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes that token ids stand for, which may end inside a character."""
        ids = check_tokens("tokens", tokens, self.info["n_vocab"])
        return self.engine.detokenize(ids, check_flag("special", special))

    def tokenize_prompt(self, prompt: Any) -> list[int]:
        """Token ids of a prompt, which is text or token ids."""
        if isinstance(prompt, str):
            return self._tokenize(encode("prompt", prompt))
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
        add_generation_prompt: bool | None = None,
        **options: Unpack[conversation.TemplateOptions],
    ) -> list[int]:
        """Token ids of a conversation in the model's chat template, with the start token where the model wants one."""
        pieces, is_open = self._render_pieces(messages, add_generation_prompt, options)
        return self._tokenize_pieces(pieces, is_open=is_open)

    def chat_text(
        self,
        messages: Sequence[conversation.Message],
        *,
        add_generation_prompt: bool | None = None,
        **options: Unpack[conversation.TemplateOptions],
    ) -> str:
        """The text of `chat_tokens`, start token included: llama.cpp takes it off, but not every reader adds it."""
        pieces, is_open = self._render_pieces(messages, add_generation_prompt, options)
        text = "".join(pieces)
        begin, end = self._added(text)
        return self.detokenize(begin, special=True) + text + self.detokenize([] if is_open else end, special=True)

    def _render_pieces(
        self,
        messages: Sequence[conversation.Message],
        add_generation_prompt: bool | None,
        options: conversation.TemplateOptions,
    ) -> tuple[Sequence[str], bool]:
        """The text of a conversation, cut where no token may reach across, and whether it is open: whether something
        of the answer's message is its end."""
        conversation.check_template_options(options)
        field = continuation.continued_field(options, add_generation_prompt)
        if field is not None:
            return continuation.render_open(self.render, messages, field, options), True
        is_open = add_generation_prompt if add_generation_prompt is not None else True
        return self.render(messages, add_generation_prompt=is_open, **options).pieces, is_open

    def tokenize_rendered(self, prompt: ChatPrompt) -> list[int]:
        """Token ids of a conversation that ends with the beginning of the answer."""
        return self._tokenize_pieces(prompt.pieces, is_open=True)

    def _tokenize_pieces(self, pieces: Sequence[str], *, is_open: bool) -> list[int]:
        """Token ids of a rendered conversation.

        is_open: without the end token that some vocabularies put after every text: the answer would start after it.
        """
        text = "".join(pieces)
        if len(pieces) == 1:
            tokens = self.tokenize_prompt(text)
        else:
            tokens = self._with_one_start(tokenize_pieces(self.engine, pieces))
        if is_open and tokens[-1:] == [self.info["eos"]]:
            return tokens[: len(tokens) - len(self._added(text)[1])]
        return tokens

    def _added(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens that the vocabulary puts before and after a text."""
        return split_added(self.tokenize_prompt(text), self.tokenize(text, add_special=False))

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
        return submit(self.engine, prompts, params, inbox, notify, chat, defaults=self.defaults)

    def run(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, chat: ChatPrompt | None = None
    ) -> list[Generation | list[Generation]]:
        """Results of all prompts, in order; a Generation each, or a list of n. Raises if every sample failed."""
        inbox = self.open_inbox()
        requests = None
        results = updates.Results(params.n, self.name, self._texts)
        try:
            requests = self.submit(prompts, params, inbox, "request", chat)
            while len(results) < len(requests.ids):
                results.add(next_update(inbox))
            return results.take(requests.ids)
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
        request = self._chat_request(messages, params, options)
        (out,) = self.run([request.tokens], request.params, request.submitted)
        return request.read(out)

    async def achat(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> ChatReply | list[ChatReply]:
        """`chat` for asyncio."""
        request = self._chat_request(messages, params, options)
        bridge = self.open_bridge()
        (out,) = await bridge.gather([request.tokens], request.params, self.name, request.submitted)
        return request.read(out)

    def stream_chat(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> Generator[ChatChunk, None, None]:
        """Answers a conversation in chunks."""
        request = self._chat_request(messages, params, options, stream="stream_chat")
        chunks = self.stream(request.tokens, request.params, request.submitted)
        return conversation.split_stream(request.parser, request.prompt, chunks)

    def astream_chat(
        self, messages: Sequence[conversation.Message], params: SamplingParams, options: conversation.TemplateOptions
    ) -> AsyncGenerator[ChatChunk, None]:
        """`stream_chat` for asyncio."""
        request = self._chat_request(messages, params, options, stream="astream_chat")
        chunks = self.open_bridge().stream(request.tokens, request.params, request.submitted)
        return conversation.split_astream(request.parser, request.prompt, chunks)

    def _chat_request(
        self,
        messages: Sequence[conversation.Message],
        params: SamplingParams,
        options: conversation.TemplateOptions,
        *,
        stream: str | None = None,
    ) -> conversation.ChatRequest:
        """What a conversation is submitted as. stream: name of the method that streams the answer."""
        if stream is not None and params.n != 1:
            raise RequestError(f"n must be 1 for {stream}; use {stream.replace('stream_', '')} for several answers")
        if options.get("tools") and options.get("tool_choice") != "none":
            for name in ("grammar", "json_schema"):
                if getattr(params, name) is not None:
                    raise RequestError(f'{name} and tools are both given; give one, or tool_choice="none"')
        engine = self.engine
        field = continuation.continued_field(options, None)
        if field is not None:
            # a schema acts from the first token on: what it is about has begun, or is the whole of what is new
            opened = continuation.open_message(engine, self.render, messages, field, options)
            if not opened.thinks:
                params = dataclasses.replace(params, reasoning_budget_tokens=None)
            tokens = self._tokenize_pieces(opened.pieces, is_open=True)
            return conversation.ChatRequest(opened.parser, opened.prompt, tokens, params, opened.submitted)
        schema = to_engine_values(params)["json_schema"]
        constraint: dict[str, Any] = {"json_schema": schema, "has_grammar": params.grammar is not None}
        prompt = conversation.render(engine, self.user_text, messages, **constraint, **options)
        if schema:
            # the template has put the schema's grammar after the reasoning; it must not act from the first token on
            params = dataclasses.replace(params, json_schema=None)
        return conversation.ChatRequest(engine, prompt, self.tokenize_rendered(prompt), params, prompt)

    def save_prefix(self, path: str | os.PathLike[str], tokens: Sequence[int] | None, *, force: bool) -> int:
        """See DarwinNEG.save_prefix. tokens: None for the text used last."""
        self._require_prefixes("saved")
        engine = self.engine
        for _ in range(3):  # what others do meanwhile may push it out
            held, state = engine.save_prefix([] if tokens is None else tokens)
            if held and (tokens is None or held[: len(tokens)] == list(tokens)):
                prefix = prefix_file.Prefix(held, state)
                made_by = prefix_file.describe_model(self.path, self._state_options)
                prefix_file.write(path, prefix, made_by, inputs=[self.path], force=force)
                return len(held)
            if tokens is None:
                raise RequestError("prompt is None, but nothing has been evaluated yet; pass the text to save")
            self.run([tokens], SamplingParams(max_tokens=1, temperature=0.0))
        raise DarwinNegError("the prefix was pushed out by other requests before it could be saved; try again")

    def load_prefix(self, path: str | os.PathLike[str]) -> int:
        """See DarwinNEG.load_prefix."""
        self._require_prefixes("loaded")
        made_by = prefix_file.describe_model(self.path, self._state_options)
        prefix = prefix_file.read(path, made_by, n_vocab=self.info["n_vocab"])
        try:
            self.engine.load_prefix(prefix.tokens, prefix.state)
        except RequestError as error:
            raise RequestError(f"{shown_path(path)}: {error}") from None
        return len(prefix.tokens)

    def _require_prefixes(self, verb: str) -> None:
        if self.info["prefix_cache"] == 0:
            raise RequestError(f"prefix_cache is 0, so no prefix can be {verb}; load the model with at least 1")

    def open_bridge(self) -> AsyncBridge:
        """For asyncio: its thread starts when first asked for."""
        engine = self.engine
        with self._lock:
            if self._bridge is None:
                self._bridge = AsyncBridge(engine, self.defaults, self._texts)
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
