"""Where candidates come from: the engine, or anything else with the same four methods."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..engine import log, updates
from ..engine.stream import release
from ..errors import NegHeadError
from ..files.input_file import shown_path
from ..sampling import Neg, SamplingParams
from .extract import THINK_BEGIN
from .modes import ModeConfig
from .protocol import Protocol as DecodingProtocol

if TYPE_CHECKING:
    from .._core import ChatPrompt, Update
    from ..llm import DarwinNEG
    from ..results import Chunk

PAUSE_SECONDS = 0.005  # between looks at the engine when nothing is new; a token takes longer


@dataclass(frozen=True)
class Job:
    """One prompt with a sample for each temperature (0: greedy).

    neg: whether the gate is on. seed: sample k depends on (seed, k). key: of the task, with the protocol it is answered
        under. only: k, if this job is only sample k of a larger one.
    """

    prompt: str
    temperatures: tuple[float, ...]
    seed: int
    neg: bool
    config: ModeConfig
    key: tuple[object, DecodingProtocol | None] = (None, None)
    only: int | None = None


@dataclass(frozen=True)
class Output:
    """The outcome of one sample.

    text: with its reasoning, between <think> and </think>. tokens: number generated. prompt_tokens: number in its
        job's prompt. mean_entropy (nats), activation_rate: as predicted, None without a head.
    """

    text: str
    tokens: int
    finish_reason: str
    prompt_tokens: int = 0
    mean_entropy: float | None = None
    activation_rate: float | None = None
    token_ids: tuple[int, ...] = ()


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
    n: int
    thinks: bool  # the prompt has opened a reasoning
    parts: dict[int, list[Chunk]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)


class EngineSampler:
    """Candidates of a model: all that runs, of one question or of several, is in one batch, and each prompt is decoded once.

    Prompts go through the model's chat template as `chat` would put them; those of a model without one are continued as they are.
    """

    def __init__(self, llm: DarwinNEG) -> None:
        self._llm = llm
        self._running: dict[int, _Running] = {}

    def start(self, jobs: Sequence[Job]) -> list[int]:
        if self._llm.neg is None and any(job.neg for job in jobs):
            raise NegHeadError(
                f"{shown_path(self._llm.path)}: has no NEG head, which modes 1 to 3 gate with; attach one with `darwin-neg neg attach`, "
                "or switch the gate off (gate=False, --no-gate)"
            )
        handles: list[int] = []
        try:
            for job in jobs:
                text, tokens, chat = self._rendered(job)
                (handle,) = self._llm._submit([tokens], self._params(job), chat, stream=True)
                opened = chat is not None and text.rstrip().endswith(THINK_BEGIN)
                self._running[handle] = _Running(len(job.temperatures), opened)
                handles.append(handle)
        except BaseException:
            for handle in handles:
                del self._running[handle]
                release(self._llm._open(), handle)
            raise
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        engine = self._llm._open()
        while self._running:
            done: list[tuple[int, int, Output]] = []
            # not wait_any: its news go to whoever asks first, and asyncio users of the same model ask too
            for handle, running in list(self._running.items()):
                update = engine.wait(handle, 0.0)
                if update is None:
                    continue
                for chunk in updates.chunks(update):
                    running.parts.setdefault(chunk.index, []).append(chunk)
                    if chunk.finish_reason is not None:
                        running.finished.add(chunk.index)
                        done.append((handle, chunk.index, _output(running, chunk.index, update)))
                if len(running.finished) == running.n:
                    del self._running[handle]
                    release(engine, handle)
            if done:
                return done
            time.sleep(PAUSE_SECONDS)
        return []

    def cancel(self, handle: int) -> None:
        if handle in self._running:
            self._llm._open().cancel(handle)

    def close(self) -> None:
        """Also after the model was closed, whose requests went with it."""
        running, self._running = self._running, {}
        engine = self._llm._engine
        for handle in running:
            if engine is not None:
                release(engine, handle)
        log.forward()

    def prompt_tokens(self, job: Job) -> list[int]:
        """The prompt of a job as the model gets it, chat template included."""
        return self._rendered(job)[1]

    def _rendered(self, job: Job) -> tuple[str, list[int], ChatPrompt | None]:
        llm = self._llm
        if not llm.info.get("chat_template"):
            # the text of a question is no place for control tokens
            return job.prompt, llm.tokenize(job.prompt, parse_special=False), None
        messages = [{"role": "user", "content": job.prompt}]
        chat, _ = llm._chat_prompt(messages, SamplingParams(), job.config.thinking, None, "auto", None)
        return chat.prompt, llm._template_tokens(chat.prompt), chat

    def _params(self, job: Job) -> SamplingParams:
        config = job.config
        seed = job.seed
        if job.only is not None:
            from .._core import sample_seed

            seed = sample_seed(seed, job.only)
        return SamplingParams(
            max_tokens=config.max_tokens,
            temperature=job.temperatures,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            seed=seed,
            n=len(job.temperatures),
            neg=None if self._llm.neg is None else Neg(enabled=job.neg),
        )


def _output(running: _Running, index: int, update: Update) -> Output:
    one = updates.generation(running.parts.pop(index), update, "")
    return Output(
        text=(THINK_BEGIN if running.thinks else "") + one.text,
        tokens=len(one.token_ids),
        finish_reason=one.finish_reason,
        prompt_tokens=one.prompt_tokens,
        mean_entropy=None if one.neg is None else one.neg.mean_entropy,
        activation_rate=None if one.neg is None else one.neg.activation_rate,
        token_ids=tuple(one.token_ids.tolist()),
    )
