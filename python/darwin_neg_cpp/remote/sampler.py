"""Samples of a protocol from servers: one request for each, with the seed that the engine would draw it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..engine.session import sample_seed
from ..errors import ContextFullError, DarwinNegError, NegHeadError
from ..protocols.extract import THINK_BEGIN
from ..protocols.sampler import ENDED, Job, Output, sampling_params
from ..protocols.signals import Signals, measure
from .calls import Inbox
from .completion import Completion, make_body
from .fleet import Fleet
from .rendering import Renderer

MORE_CONTEXT = "start the servers with a larger --ctx-size, or with fewer requests at once (--parallel)"


@dataclass
class _Running:
    """calls: of the job, by number of the sample. opened: what of the reasoning the prompt has opened. letters: those
    that it offers."""

    opened: str
    letters: str
    calls: list[Completion] = field(default_factory=list)


class RemoteSampler:
    """Candidates of the model that servers run; see protocols.sampler.Sampler."""

    def __init__(self, fleet: Fleet, renderer: Renderer, *, cache: bool) -> None:
        self._fleet, self._renderer, self._cache = fleet, renderer, cache
        self._inbox = Inbox()
        self._running: dict[int, _Running] = {}
        self._next = 0
        self._fault: DarwinNegError | None = None

    def start(self, jobs: Sequence[Job]) -> list[int]:
        has_neg = self._fleet.identity.neg is not None
        if not has_neg and any(job.neg for job in jobs):
            raise NegHeadError(
                f'{self._fleet.servers[0].address}: has no NEG head (no "neg" in /props), which modes 1 to 3 gate '
                "with; serve one with `darwin-neg serve`, or switch the gate off (gate=False, --no-gate)"
            )
        started: dict[int, _Running] = {}
        for job in jobs:
            handle, self._next = self._next, self._next + 1
            started[handle] = self._prepare(job, handle, has_neg)
        self._running.update(started)
        self._fleet.submit([call for running in started.values() for call in running.calls])
        return list(started)

    def wait(self) -> list[tuple[int, int, Output]]:
        if self._fault is not None:
            raise self._fault
        ended = []
        for call in self._fleet.wait(self._inbox):
            assert isinstance(call, Completion)
            if call.fault is not None:
                self._fault = call.fault  # what has ended beside it is not lost
                continue
            running = self._running[call.handle]
            ended.append((call.handle, call.index, self._output(running, call)))
            running.calls.remove(call)
            if not running.calls:
                del self._running[call.handle]
        return ended or self.wait() if self._fault is not None else ended

    def cancel(self, handle: int) -> None:
        if handle in self._running:
            self._fleet.cancel(self._running[handle].calls)

    def close(self) -> None:
        running, self._running = self._running, {}
        self._fleet.cancel([call for job in running.values() for call in job.calls])
        self._inbox = Inbox()

    def prompt_tokens(self, job: Job) -> list[int]:
        """The prompt of a job as the model gets it, chat template included."""
        return list(self._renderer.render(job.prompt, thinking=job.config.thinking).tokens)

    def _prepare(self, job: Job, handle: int, has_neg: bool) -> _Running:
        rendered = self._renderer.render(job.prompt, thinking=job.config.thinking)
        n_ctx = self._fleet.identity.n_ctx
        if len(rendered.tokens) >= n_ctx:
            raise ContextFullError(
                f"prompt has {len(rendered.tokens)} tokens, the servers' context for one request is {n_ctx}; "
                f"{MORE_CONTEXT}"
            )
        params = sampling_params(job, has_neg=has_neg)
        # a template may have written the beginning of the reasoning; without a template the prompt is the user's
        is_open = self._fleet.identity.has_template and rendered.text.rstrip().endswith(THINK_BEGIN)
        running = _Running(THINK_BEGIN if is_open else "", job.letters)
        for index, temperature in enumerate(job.temperatures):
            seed = sample_seed(job.seed, index if job.only is None else job.only)
            body = make_body(
                rendered.tokens, params, seed=seed, temperature=temperature, cache=self._cache, has_neg=has_neg
            )
            running.calls.append(Completion(self._inbox, body, handle, index))
        return running

    def _output(self, running: _Running, call: Completion) -> Output:
        return Output(
            text=running.opened + call.text,
            tokens=call.count,
            finish_reason=call.finish_reason,
            prompt_tokens=call.prompt_tokens,
            mean_entropy=call.mean_entropy(),
            activation_rate=call.activation_rate(),
            token_ids=self._renderer.complete_ids(call.tokens, call.withheld),
            signals=self._measure(running, call) if call.finish_reason in ENDED else None,
        )

    def _measure(self, running: _Running, call: Completion) -> Signals:
        """Of the predicted entropies. Log-probabilities would make a server sort its vocabulary for every token."""
        pieces, entropy = call.record()
        return measure(
            call.text,
            pieces,
            running.letters,
            truncated=call.finish_reason == "length",
            entropy=entropy,
            opened=running.opened,
        )
