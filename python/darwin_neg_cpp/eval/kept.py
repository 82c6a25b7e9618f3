"""Takes finished calls of unsettled answers from the ledger, so that a resumed run generates only the others."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..protocols.sampler import Job, Output, Sampler
from .ledger import Ledger
from .ledger_lines import CallKey


@dataclass
class _Part:
    """A job of the inner sampler, which is one of our jobs or a single sample of it.

    handle: of our job. kept: whether its outputs go into the ledger. running: number of samples that have not ended.
    index: of the single sample in our job.
    """

    handle: int
    job: Job
    kept: bool
    running: int
    index: int | None = None


class KeptSampler:
    """A sampler in front of another: calls that the ledger holds are taken from there.

    Jobs have keys (number of the question, protocol). Calls that an earlier process finished come out of wait() first,
    in the order in which they ended there.
    """

    def __init__(self, sampler: Sampler, ledger: Ledger) -> None:
        self._sampler = sampler
        self._ledger = ledger
        self._next = 0
        self._parts: dict[int, _Part] = {}  # those that run, by handle of the inner sampler
        self._ready: deque[tuple[int, int, Output]] = deque()

    def start(self, jobs: Sequence[Job]) -> list[int]:
        handles = list(range(self._next, self._next + len(jobs)))
        self._next += len(jobs)
        # the answer of a single call is written at once, so the call itself need not be; but mode auto may go on
        keep = sum(len(job.temperatures) for job in jobs) > 1 or any(map(_may_go_on, jobs))
        ready: list[tuple[int, tuple[int, int, Output]]] = []
        parts: list[_Part] = []
        for handle, job in zip(handles, jobs, strict=True):
            known = {}
            for k in range(len(job.temperatures)):
                if (call := self._ledger.find_call(make_key(job, k), hash_prompt(job.prompt))) is not None:
                    known[k] = call
            ready += [(place, (handle, k, output)) for k, (place, output) in known.items()]
            parts += _find_missing(handle, job, known.keys(), keep)
        # together, so that they share a batch
        for inner, part in zip(self._sampler.start([part.job for part in parts]), parts, strict=True):
            self._parts[inner] = part
        self._ready.extend(call for _, call in sorted(ready, key=lambda place_and_call: place_and_call[0]))
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
            if part.kept and output.finish_reason != "cancelled":
                self._ledger.add_call(make_key(part.job, index), hash_prompt(part.job.prompt), output)
            ended.append((part.handle, index if part.index is None else part.index, output))
        return ended

    def cancel(self, handle: int) -> None:
        for inner, part in self._parts.items():
            if part.handle == handle:
                self._sampler.cancel(inner)

    def close(self) -> None:
        self._sampler.close()


def _may_go_on(job: Job) -> bool:
    protocol = job.key[1]
    return protocol is not None and protocol.is_auto


def make_key(job: Job, k: int) -> CallKey:
    """Names sample k of a job in the ledger, by its number in the largest job that it could be part of."""
    number, protocol = job.key
    assert isinstance(number, int) and protocol is not None
    return CallKey(number, protocol, job.seed, k if job.only is None else job.only)


def hash_prompt(prompt: str) -> str:
    """Hashes a prompt, so that a kept call is used only for the prompt it was made with."""
    return hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]


def _find_missing(handle: int, job: Job, known: Collection[int], keep: bool) -> list[_Part]:
    """Returns what the ledger lacks of a job: all of it, with its prompt decoded once, or its samples one by one."""
    if not known:
        return [_Part(handle, job, keep, len(job.temperatures))]
    return [
        _Part(handle, replace(job, temperatures=(temperature,), only=k), keep, 1, k)
        for k, temperature in enumerate(job.temperatures)
        if k not in known
    ]
