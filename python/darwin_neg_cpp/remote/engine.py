"""The model as Python users hold it, where it runs on servers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ..checks import check_flag, check_number, check_text
from ..engine.session import sample_seed
from ..errors import ContextFullError, NegHeadError, RequestError
from ..files.progress import Progress, no_progress
from ..protocols import runner
from ..protocols.modes import merge as merge_modes
from ..protocols.sampler import Job
from ..sampling import BUILT_IN, SamplingParams, fill_in
from .address import read_addresses
from .calls import Inbox
from .completion import Completion, make_body
from .fleet import PATIENCE, Fleet
from .rendering import Renderer
from .sampler import MORE_CONTEXT, RemoteSampler

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..protocols import Answer, ModeConfig, Question
    from ..protocols.modes import Mode, ModeOptions

TEMPLATE_TOKENS = 512  # more than a template adds to one message


class RemoteEngine:
    """One model on one or more servers: `darwin-neg serve`, or llama-server for everything with the gate off.

    servers: addresses, as http://127.0.0.1:8080, in a list or with commas between them. server_key: API key of all of
    them. cache_prompt: let servers use what they have of earlier prompts; None: where a server runs several requests
    side by side, because with one at a time each answer then depends on its prompt alone. server_patience: seconds for
    which nothing may come from any server, after which that is an error.

    All servers must run the same model and build, which is checked before anything else is asked. Each sample is a
    request of its own, to the server with the least to do; what a server was working on when it failed goes to the
    others. Safe to use from several threads. Errors: RequestError; DarwinNegError for a server that cannot be reached.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        server_key: str | None = None,
        cache_prompt: bool | None = None,
        server_patience: float = PATIENCE,
    ) -> None:
        addresses = read_addresses(servers)
        if server_key is not None and not (check_text("server_key", server_key).isascii() and server_key.isprintable()):
            raise RequestError("server_key must be printable ASCII")
        self._fleet = Fleet(
            addresses, key=server_key or None, patience=check_number("server_patience", server_patience, above=0)
        )
        self._renderer = Renderer(self._fleet)
        several = all(server.slots > 1 for server in self._fleet.servers)
        self._cache = several if cache_prompt is None else check_flag("cache_prompt", cache_prompt)

    # --- the model

    @property
    def name(self) -> str:
        """Of the model: that of its file, or the one that the servers were told."""
        return self._fleet.identity.model

    @property
    def servers(self) -> list[str]:
        return [str(server.address) for server in self._fleet.servers]

    @property
    def build(self) -> str:
        """llama.cpp's description of the servers' build."""
        return self._fleet.identity.build

    @property
    def info(self) -> Mapping[str, Any]:
        """Sizes of the model; n_ctx: tokens of one request; n_parallel: requests side by side, of all servers."""
        identity = self._fleet.identity
        return {
            "n_params": identity.n_params,
            "size_bytes": identity.size,
            "n_vocab": identity.n_vocab,
            "n_embd": identity.n_embd,
            "n_ctx": identity.n_ctx,
            "n_parallel": self._fleet.slots,
            "chat_template": identity.chat_template if identity.has_template else None,
        }

    @property
    def neg(self) -> Mapping[str, Any] | None:
        """Threshold, top_k ... of the NEG head, and what the servers do with it; None when there is none."""
        return self._fleet.identity.neg

    # --- evaluation (see eval.source)

    @property
    def title(self) -> str:
        return self.servers[0]

    @property
    def more_context(self) -> str:
        return MORE_CONTEXT

    def describe_model(self, *, progress: Progress = no_progress) -> tuple[dict[str, Any], dict[str, str]]:
        """What identifies the weights, as far as a server tells: not the hash of a file."""
        return self._fleet.identity.as_model(), {"model": self.name}

    def describe_build(self) -> dict[str, Any]:
        return {"servers": self.build}

    def describe_engine(self) -> dict[str, Any]:
        return {"n_ctx": self._fleet.identity.n_ctx, "cache_prompt": self._cache}

    def describe_machine(self) -> dict[str, Any]:
        return {"servers": " ".join(self.servers), "slots": self._fleet.slots}

    # --- multiple-choice questions

    @overload
    def answer(
        self,
        question: Question,
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> Answer: ...
    @overload
    def answer(
        self,
        question: Sequence[Question],
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> list[Answer]: ...

    def answer(
        self,
        question: Question | Sequence[Question],
        mode: Mode = 3,
        *,
        config: ModeConfig | None = None,
        early_stop: bool = True,
        abstain_above: float | None = None,
        abstain_signal: str = "mean_entropy",
        **options: Unpack[ModeOptions],
    ) -> Any:
        """Answers a multiple-choice question, or several side by side; see DarwinNEG.answer."""
        merged = merge_modes(config, options)
        in_flight = max(4, self._fleet.slots)
        return runner.answer_any(
            self.sampler(),
            question,
            mode,
            config=merged,
            early_stop=early_stop,
            in_flight=in_flight,
            abstain_above=abstain_above,
            abstain_signal=abstain_signal,
        )

    def sampler(self) -> RemoteSampler:
        """Where protocols get their samples from; one for each run of a protocol."""
        return RemoteSampler(self._fleet, self._renderer, cache=self._cache)

    def count_tokens(self, job: Job) -> int:
        """Tokens of a job's prompt, or a larger number where that fits the context, too."""
        bound = len(job.prompt.encode("utf-8", "replace")) + TEMPLATE_TOKENS
        if bound < self._fleet.identity.n_ctx:  # a token is at least a byte
            return bound
        return len(self._renderer.render(job.prompt, thinking=job.config.thinking).tokens)

    # --- texts

    def write(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, samples: Sequence[int] | None = None
    ) -> list[tuple[int, ...]]:
        """Token ids of a continuation of each prompt, each drawn as sample `samples[i]` (0 unless given) of a request.

        params: one temperature, a seed, and numbers; their n does not count. Errors: RequestError, ContextFullError,
        DarwinNegError.
        """
        has_neg = self.neg is not None
        params = fill_in(params, BUILT_IN)
        if params.seed is None or not isinstance(params.temperature, (int, float)):
            raise RequestError("params must have a seed and one temperature")
        if params.neg is not None and params.neg.enabled and not has_neg:
            raise NegHeadError(f"{self.servers[0]}: has no NEG head, which the gate needs; serve the model with it")
        inbox = Inbox()
        calls = []
        for i, (prompt, sample) in enumerate(zip(prompts, samples or [0] * len(prompts), strict=True)):
            if len(prompt) >= self._fleet.identity.n_ctx:
                raise ContextFullError(
                    f"prompt {i} has {len(prompt)} tokens, the servers' context is {self._fleet.identity.n_ctx}"
                )
            body = make_body(
                prompt,
                params,
                seed=sample_seed(params.seed, sample),
                temperature=params.temperature,
                cache=self._cache,
                has_neg=has_neg,
            )
            calls.append(Completion(inbox, body, i))
        try:
            self._fleet.submit(calls)
            while ended := self._fleet.wait(inbox):
                for call in ended:
                    if call.fault is not None:
                        raise call.fault
        finally:
            self._fleet.cancel(calls)
        return [self._complete_ids(call) for call in calls]

    def _complete_ids(self, call: Completion) -> tuple[int, ...]:
        ids = self._renderer.complete_ids(call.tokens, call.withheld)
        if len(ids) == call.count:
            return ids
        # up to where they are certain
        return tuple(call.tokens[: call.withheld[0][0]])

    def check_runs(self, model: str, info: Mapping[str, Any], neg: Mapping[str, Any] | None) -> None:
        """Refuses servers of another model than this file. info, neg: of the loaded model. Errors: RequestError."""
        theirs = self.info
        for name in ("n_params", "size_bytes", "n_vocab", "n_embd"):
            if theirs[name] != info[name]:
                raise RequestError(
                    f"{self.servers[0]}: runs another model than {model} ({name}: {theirs[name]} and {info[name]}); "
                    "serve this file"
                )
        for name in ("threshold", "top_k"):
            if neg is not None and self.neg is not None and not _close(self.neg.get(name, neg[name]), neg[name]):
                raise RequestError(
                    f"{self.servers[0]}: has another NEG head than {model} ({name}: {self.neg[name]} and {neg[name]}); "
                    "serve this file"
                )

    # --- end

    def close(self) -> None:
        """Breaks off what runs. The servers go on. Safe to call twice."""
        self._fleet.close()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(one: Any, other: Any) -> bool:
    return math.isclose(float(one), float(other), rel_tol=1e-5)
