"""A sampler without a model: what it says depends on what it is asked and drawn with, and on nothing else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from darwin_neg_cpp.protocols.sampler import Job, Output
from darwin_neg_cpp.protocols.signals import Signals

Say = Callable[[Job, int], Output]


def said(text: str, *, finish_reason: str = "stop", entropy: float = 1.0, active: float = 0.25) -> Output:
    """An output of as many tokens as words. Its signals follow from the entropy and the text."""
    ids = tuple(len(word) for word in text.split())
    signals = Signals(
        max_entropy=2 * entropy,
        last_quarter_entropy=entropy / 2,
        letter_entropy=entropy / 3 if "Answer:" in text else None,
        letter_logprob=-entropy if "Answer:" in text else None,
        logprob=-entropy * len(ids),
    )
    return Output(text, len(ids), finish_reason, 50, entropy, active, ids, signals=signals)


def letters(job: Job) -> str:
    """Returns the letters that the prompt offers, whichever of our prompts it is."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: sum(job.prompt.count(f"\n{c}{mark}") for c in "ABCDEFGHIJ" for mark in ").")]


def noisy(job: Job, k: int) -> Output:
    """Draws letters, fallbacks, truncated and unreadable answers.

    A greedy sample is drawn by the prompt alone, any other by seed and number too.
    """
    key = job.prompt if job.temperatures[k] == 0 else f"{job.prompt}|{job.seed}|{k}|{job.neg}"
    rng = random.Random(hashlib.sha256(key.encode()).digest())
    letter = rng.choice(letters(job))
    words = " ".join("word" for _ in range(rng.randrange(1, 30)))
    kind = rng.random()
    if kind < 0.1:
        return said(words, finish_reason="length")
    if kind < 0.2:
        return said(f"{words}\n\\boxed{{{letter}}}")
    return said(f"{words}\nAnswer: {letter}", entropy=rng.random(), active=rng.random() if job.neg else 0.0)


@dataclass
class ScriptedSampler:
    """A sampler that generates nothing.

    say: the text of sample k of a job. shuffle: seed of the order in which samples finish; None: as they were started.
    fail_after: the number of waits until it raises KeyboardInterrupt. jobs: every job that was started. said: (key,
    seed, number) of each sample that ended by itself.
    """

    say: Say = noisy
    shuffle: int | None = None
    fail_after: int | None = None
    jobs: list[Job] = field(default_factory=list)
    said: list[tuple[object, int, int]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self._running: list[tuple[int, int]] = []
        self._rng = random.Random(self.shuffle)
        self._cancelled: set[int] = set()

    def start(self, jobs: Sequence[Job]) -> list[int]:
        handles = []
        for job in jobs:
            handles.append(len(self.jobs))
            self.jobs.append(job)
            self._running += [(handles[-1], k) for k in range(len(job.temperatures))]
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        if self.fail_after is not None:
            self.fail_after -= 1
            if self.fail_after < 0:
                raise KeyboardInterrupt
        at = self._rng.randrange(len(self._running)) if self.shuffle is not None else 0
        handle, k = self._running.pop(at)
        if handle in self._cancelled:
            return [(handle, k, Output("", 0, "cancelled", 50))]
        job = self.jobs[handle]
        self.said.append((job.key, job.seed, k if job.only is None else job.only))
        if job.only is None:
            return [(handle, k, self.say(job, k))]
        # one sample of a larger job, which is what it would be there
        whole = replace(job, temperatures=(job.temperatures[0],) * (job.only + 1), only=None)
        return [(handle, k, self.say(whole, job.only))]

    def cancel(self, handle: int) -> None:
        self._cancelled.add(handle)

    def close(self) -> None:
        self.closed = True
