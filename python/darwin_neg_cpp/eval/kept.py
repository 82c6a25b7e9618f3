"""Finished calls of answers that are not settled yet: a run that goes on takes them from the ledger and generates the others."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..protocols.sampler import Job, Output, Sampler
from .ledger import CallKey, Ledger


@dataclass
class _Part:
    """What a job of the inner sampler is of ours. kept: whether its outputs go into the ledger. running: samples that have not ended."""

    handle: int
    job: Job
    kept: bool
    running: int


class KeptSampler:
    """Another sampler, before which the ledger is asked. Jobs have keys (number of the question, name of the protocol).

    The calls that an earlier process finished come out of wait() first, in the order in which they ended there.
    """

    def __init__(self, sampler: Sampler, ledger: Ledger) -> None:
        self._sampler = sampler
        self._ledger = ledger
        self._next = 0
        self._parts: dict[int, _Part] = {}  # of what runs, by handle of the inner sampler
        self._ready: deque[tuple[int, int, Output]] = deque()

    def start(self, jobs: Sequence[Job]) -> list[int]:
        handles = list(range(self._next, self._next + len(jobs)))
        self._next += len(jobs)
        # where there is one call only, its answer follows at once
        keep = sum(len(job.temperatures) for job in jobs) > 1
        ready: list[tuple[int, tuple[int, int, Output]]] = []
        parts: list[_Part] = []
        for handle, job in zip(handles, jobs, strict=True):
            known = {}
            for k in range(len(job.temperatures)):
                if (found := self._ledger.kept(key_of(job, k), digest(job.prompt))) is not None:
                    known[k] = found
            ready += [(place, (handle, k, output)) for k, (place, output) in known.items()]
            parts += _missing(handle, job, known.keys(), keep)
        # together, so that they share a batch
        for inner, part in zip(self._sampler.start([part.job for part in parts]), parts, strict=True):
            self._parts[inner] = part
        self._ready.extend(one for _, one in sorted(ready, key=lambda one: one[0]))
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        if self._ready:
            return [self._ready.popleft()]
        ended = []
        for inner, index, output in self._sampler.wait():
            part = self._parts[inner]
            part.running -= 1
            if not part.running:
                del self._parts[inner]
            k = index if part.job.only is None else part.job.only
            if part.kept and output.finish_reason != "cancelled":
                self._ledger.keep(key_of(part.job, k), digest(part.job.prompt), output)
            ended.append((part.handle, k, output))
        return ended

    def cancel(self, handle: int) -> None:
        for inner, part in self._parts.items():
            if part.handle == handle:
                self._sampler.cancel(inner)

    def close(self) -> None:
        self._sampler.close()


def key_of(job: Job, k: int) -> CallKey:
    number, protocol = job.key
    assert isinstance(number, int)
    return CallKey(number, protocol, job.seed, k)


def digest(prompt: str) -> str:
    """That a kept call was made with this very prompt."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]


def _missing(handle: int, job: Job, known: Collection[int], keep: bool) -> list[_Part]:
    """Of a job, what the ledger does not hold: the whole, with its prompt decoded once, or sample by sample."""
    if not known:
        return [_Part(handle, job, keep, len(job.temperatures))]
    return [
        _Part(handle, replace(job, temperatures=(temperature,), only=k), keep, 1)
        for k, temperature in enumerate(job.temperatures)
        if k not in known
    ]
