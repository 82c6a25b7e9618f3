"""Where candidates come from: the engine, or anything else with the same four methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ..engine import log, updates
from ..engine.requests import next_update
from ..engine.session import Session, sample_seed
from ..errors import NegHeadError
from ..files.input_file import shown_path
from ..sampling import BUILT_IN, Neg, SamplingParams, fill_in
from .extract import THINK_BEGIN
from .modes import ModeConfig
from .protocol import Protocol as DecodingProtocol
from .signals import Signals, measure

if TYPE_CHECKING:
    from ..engine.requests import ChatPrompt, Requests, Update
    from ..results import Chunk, Generation

ENDED = ("stop", "length")


@dataclass(frozen=True)
class Job:
    """One prompt with a sample for each temperature (0: greedy).

    neg: whether the gate is on. seed: sample k depends on (seed, k). key: of the task, with the protocol it is answered
        under. only: k, if this job is only sample k of a larger one. letters: those that the prompt offers.
    """

    prompt: str
    temperatures: tuple[float, ...]
    seed: int
    neg: bool
    config: ModeConfig
    key: tuple[object, DecodingProtocol | None] = (None, None)
    only: int | None = None
    letters: str = ""


@dataclass(frozen=True)
class Output:
    """The outcome of one sample.

    text: with its reasoning, between <think> and </think>. tokens: number generated. prompt_tokens: number in its
        job's prompt. mean_entropy (nats), activation_rate: as predicted, None without a head.
    error: why the sample could not be finished, with finish_reason "error". signals: of its certainty, None when it did
        not come to an end.
    """

    text: str
    tokens: int
    finish_reason: str
    prompt_tokens: int = 0
    mean_entropy: float | None = None
    activation_rate: float | None = None
    token_ids: tuple[int, ...] = ()
    error: str | None = None
    signals: Signals | None = None


class Sampler(Protocol):
    """Where the runner gets samples from."""

    def start(self, jobs: Sequence[Job]) -> list[int]:
        """Starts jobs together and returns a handle for each; on an error none of them runs."""
        ...

    def wait(self) -> list[tuple[int, int, Output]]:
        """Waits for samples to end and returns them as (handle, index, output); empty only if nothing runs."""
        ...

    def cancel(self, handle: int) -> None:
        """Ends the samples of a job that still run.

        They come out of wait() with finish_reason "cancelled", or with their own if they ended first.
        """
        ...

    def close(self) -> None:
        """Cancels and forgets everything."""
        ...


@dataclass
class _Running:
    requests: Requests  # one request, which ends when this is dropped
    opened: str  # what of the reasoning the prompt has opened
    letters: str


class EngineSampler:
    """Candidates of a model.

    All that runs, of one question or of several, is in one batch, and each prompt is decoded once. Prompts go through
    the model's chat template as those of `chat` do; without a template they are continued as they are.
    true_entropy: also record true entropies, which changes no token.
    """

    def __init__(self, session: Session, *, true_entropy: bool = False) -> None:
        self._session = session
        self._true_entropy = true_entropy
        self._inbox = session.open_inbox()
        self._running: dict[int, _Running] = {}

    def start(self, jobs: Sequence[Job]) -> list[int]:
        if self._session.neg is None and any(job.neg for job in jobs):
            raise NegHeadError(
                f"{shown_path(self._session.path)}: has no NEG head, which modes 1 to 3 gate with; attach one with "
                "`darwin-neg neg attach`, or switch the gate off (gate=False, --no-gate)"
            )
        started: dict[int, _Running] = {}
        for job in jobs:
            text, tokens, chat = self._render(job)
            opened = chat is not None and text.rstrip().endswith(THINK_BEGIN)
            params = sampling_params(job, has_neg=self._session.neg is not None)
            if self._true_entropy:
                params = replace(params, true_entropy=True)
            requests = self._session.submit([tokens], params, self._inbox, "sample", chat)
            started[requests.ids[0]] = _Running(requests, THINK_BEGIN if opened else "", job.letters)
        self._running.update(started)
        return list(started)

    def wait(self) -> list[tuple[int, int, Output]]:
        while self._running:
            update = next_update(self._inbox)
            handle = update["request"]
            if handle not in self._running:  # one that start() has given up
                continue
            running = self._running[handle]
            updates.raise_fault(update)
            ended = [(handle, chunk.index, _output(running, chunk, update)) for chunk in updates.read_chunks(update)]
            if update["finished"]:
                del self._running[handle]
                running.requests.release()
            if ended:
                return ended
        return []

    def cancel(self, handle: int) -> None:
        if handle in self._running:
            self._running[handle].requests.cancel()

    def close(self) -> None:
        """Also works after the model was closed, whose requests went with it."""
        running, self._running = self._running, {}
        for job in running.values():
            job.requests.release()
        log.forward()

    def prompt_tokens(self, job: Job) -> list[int]:
        """The prompt of a job as the model gets it, chat template included."""
        return self._render(job)[1]

    def _render(self, job: Job) -> tuple[str, list[int], ChatPrompt | None]:
        session = self._session
        if not session.info.get("chat_template"):
            # the text of a question is no place for control tokens
            return job.prompt, session.tokenize(job.prompt, parse_special=False), None
        chat = session.render([{"role": "user", "content": job.prompt}], enable_thinking=job.config.thinking)
        return chat.prompt, session.tokenize_rendered(chat), chat


def sampling_params(job: Job, *, has_neg: bool) -> SamplingParams:
    """What a job asks for, with everything set: a protocol is the same for every model, so what it does not name is not
    for a model file to set."""
    config = job.config
    params = SamplingParams(
        max_tokens=config.max_tokens,
        temperature=job.temperatures,
        top_p=config.top_p,
        top_k=config.top_k,
        min_p=config.min_p,
        seed=job.seed if job.only is None else sample_seed(job.seed, job.only),
        n=len(job.temperatures),
        logprobs=0,
        neg=Neg(enabled=job.neg) if has_neg else None,
    )
    return fill_in(params, BUILT_IN)


def _output(running: _Running, chunk: Chunk, update: Update) -> Output:
    """chunk: the whole sample."""
    sample = updates.join_chunks([chunk], "")
    return Output(
        text=running.opened + sample.text,
        tokens=len(sample.token_ids),
        finish_reason=sample.finish_reason,
        prompt_tokens=sample.prompt_tokens,
        mean_entropy=None if sample.neg is None else sample.neg.mean_entropy,
        activation_rate=None if sample.neg is None else sample.neg.activation_rate,
        token_ids=tuple(sample.token_ids.tolist()),
        error=sample.error,
        signals=_measure(running, sample) if sample.finish_reason in ENDED else None,
    )


def _measure(running: _Running, sample: Generation) -> Signals:
    return measure(
        sample.text,
        sample.pieces,
        running.letters,
        truncated=sample.finish_reason == "length",
        entropy=None if sample.neg is None else sample.neg.entropy,
        logprobs=None if sample.logprobs is None else sample.logprobs.chosen,
        true_entropy=sample.true_entropy,
        opened=running.opened,
    )
