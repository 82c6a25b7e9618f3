"""An evaluation on a cluster: every sample of a protocol goes to a node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ContextFullError, DarwinNegError, NegHeadError
from ..eval.source import LocalModel
from ..files.progress import Progress, no_progress
from ..llm import DarwinNEG
from ..protocols.modes import ModeConfig
from ..protocols.sampler import EngineSampler, Job, Output
from .nodes import Call, Cluster
from .worker import Loaded

CANCELLED = Output("", 0, "cancelled")  # of a sample that no engine has begun


@dataclass(frozen=True)
class Facts:
    """What a node says of its model. names: of its files. overhead: tokens that the chat template adds to a prompt, at
    most. The rest is as in eval.source.Source."""

    title: str
    neg: Mapping[str, Any] | None
    names: dict[str, str]
    n_ctx: int
    n_parallel: int
    overhead: int
    machine: dict[str, Any]


@dataclass(frozen=True)
class Sampling:
    """One sample: a job with one temperature."""

    job: Job
    true_entropy: bool

    async def run(self, llm: DarwinNEG) -> Output:
        sampler = EngineSampler(llm.session, true_entropy=self.true_entropy)
        with contextlib.closing(sampler):
            (handle,) = sampler.start([self.job])
            waiting = asyncio.get_running_loop().run_in_executor(None, sampler.wait)
            try:
                ((_, _, output),) = await asyncio.shield(waiting)
            except asyncio.CancelledError:
                sampler.cancel(handle)
                ((_, _, output),) = await waiting  # with what there is of it
        return output


@dataclass(frozen=True)
class Measuring:
    """Tokens of the prompts of jobs."""

    jobs: tuple[Job, ...]

    async def run(self, llm: DarwinNEG) -> list[int]:
        with contextlib.closing(EngineSampler(llm.session)) as sampler:
            return [len(sampler.prompt_tokens(job)) for job in self.jobs]


@dataclass(frozen=True)
class Look:
    """Makes what a node says of its engine before it takes part in an evaluation."""

    true_entropy: bool = False

    def __call__(self, llm: DarwinNEG, side_car: str | None) -> Loaded:
        local = LocalModel(llm, side_car, true_entropy=self.true_entropy)
        model, names = local.describe_model(progress=no_progress)
        described = {"llama_cpp": local.describe_build(), "model": model, "engine": local.describe_engine()}
        n_ctx, n_parallel = int(local.info["n_ctx"]), int(local.info["n_parallel"])
        facts = Facts(
            title=local.title,
            neg=None if local.neg is None else dict(local.neg),
            names=names,
            n_ctx=n_ctx,
            n_parallel=n_parallel,
            overhead=_overhead(local, n_ctx),
            machine=local.describe_machine(),
        )
        # nothing waits in an engine: another node may be free sooner
        return Loaded(described, slots=n_parallel, threads=n_parallel, facts=facts)


def _overhead(local: LocalModel, n_ctx: int) -> int:
    """Tokens that the chat template adds to a prompt, at most; n_ctx where it takes no prompt of one character."""
    jobs = [Job("x", (0.0,), 0, False, ModeConfig(thinking=thinking)) for thinking in (False, True)]
    try:
        return max(map(local.count_tokens, jobs))
    except DarwinNegError:
        return n_ctx


class ClusterModel:
    """What answers questions (eval.source.Source). cluster: opened with a `Look`."""

    def __init__(self, cluster: Cluster, *, true_entropy: bool = False) -> None:
        self._cluster, self._true_entropy = cluster, true_entropy

    @property
    def _facts(self) -> Facts:
        facts: Facts = self._cluster.first().facts
        return facts

    @property
    def note(self) -> str:
        return self._cluster.note

    @property
    def name(self) -> str:
        """Of the model's file."""
        return self._facts.names["model"]

    @property
    def title(self) -> str:
        return self._facts.title

    @property
    def more_context(self) -> str:
        return "raise n_ctx"

    @property
    def info(self) -> Mapping[str, Any]:
        """n_parallel: of all nodes that there are at the moment."""
        facts = self._facts
        return {"n_ctx": facts.n_ctx, "n_parallel": max(facts.n_parallel, self._cluster.slots)}

    @property
    def neg(self) -> Mapping[str, Any] | None:
        return self._facts.neg

    def sampler(self) -> ClusterSampler:
        return ClusterSampler(self._cluster, self._facts, true_entropy=self._true_entropy)

    def count_tokens(self, job: Job) -> int:
        return max(count_tokens(self._cluster, self._facts, [job]))

    def describe_model(self, *, progress: Progress = no_progress) -> tuple[dict[str, Any], dict[str, str]]:
        return self._cluster.first().described["model"], self._facts.names

    def describe_build(self) -> dict[str, Any]:
        build: dict[str, Any] = self._cluster.first().described["llama_cpp"]
        return build

    def describe_engine(self) -> dict[str, Any]:
        engine: dict[str, Any] = self._cluster.first().described["engine"]
        return engine

    def describe_machine(self) -> dict[str, Any]:
        return {**self._facts.machine, "cluster": self.note}


class ClusterSampler:
    """Candidates from a cluster; see protocols.sampler.Sampler. Each sample is drawn with the seed that it has in its
    job."""

    def __init__(self, cluster: Cluster, facts: Facts, *, true_entropy: bool) -> None:
        self._cluster, self._facts, self._true_entropy = cluster, facts, true_entropy
        self._running: dict[Call, tuple[int, int]] = {}  # handle and index
        self._next = 0
        self._fault: DarwinNegError | None = None

    def start(self, jobs: Sequence[Job]) -> list[int]:
        if self._facts.neg is None and any(job.neg for job in jobs):
            raise NegHeadError(
                f"{self._facts.title}: has no NEG head, which modes 1 to 3 gate with; attach one with `darwin-neg neg "
                "attach`, or switch the gate off (gate=False, --no-gate)"
            )
        need = max(count_tokens(self._cluster, self._facts, jobs), default=0)
        if need >= self._facts.n_ctx:
            raise ContextFullError(f"prompt has {need} tokens, the context has {self._facts.n_ctx}; raise n_ctx")
        handles = list(range(self._next, self._next + len(jobs)))
        self._next += len(jobs)
        places = [(handle, k) for handle, job in zip(handles, jobs, strict=True) for k in range(len(job.temperatures))]
        works = [Sampling(_sample(jobs[handle - handles[0]], k), self._true_entropy) for handle, k in places]
        self._running.update(zip(self._cluster.submit(works), places, strict=True))
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        if self._fault is not None:
            raise self._fault
        ended = []
        for one in self._cluster.wait():
            handle, index = self._running.pop(one.call)
            if one.error is not None:
                self._fault = one.error  # what has ended beside it is not lost
            else:
                ended.append((handle, index, one.value or CANCELLED))
        return ended or self.wait() if self._fault is not None else ended

    def cancel(self, handle: int) -> None:
        self._cluster.cancel([call for call, (of, _) in self._running.items() if of == handle])

    def close(self) -> None:
        running, self._running = self._running, {}
        self._cluster.forget(list(running))


def count_tokens(cluster: Cluster, facts: Facts, jobs: Sequence[Job]) -> list[int]:
    """Tokens of the prompts of jobs, or more where that fits the context, too: a token is at least a byte."""
    bounds = [len(job.prompt.encode("utf-8", "replace")) + facts.overhead for job in jobs]
    if max(bounds, default=0) < facts.n_ctx:
        return bounds
    counts: list[int] = cluster.ask(Measuring(tuple(jobs)))
    return counts


def _sample(job: Job, k: int) -> Job:
    """Sample k of a job by itself."""
    return replace(job, temperatures=job.temperatures[k : k + 1], only=k if job.only is None else job.only)
