"""A capture on a cluster: every group of texts goes to a node."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ..batch.source import describe
from ..llm import DarwinNEG
from ..training.capture import F32, Rows
from .nodes import Cluster
from .worker import Loaded

# a group that runs and one that waits, so that the engine need not wait while results travel
SLOTS = 2


@dataclass(frozen=True)
class Scoring:
    """A group of texts. Returns their hidden states and entropies; None for a model that gives none."""

    texts: tuple[tuple[int, ...], ...]

    async def run(self, llm: DarwinNEG) -> tuple[F32, F32] | None:
        return await asyncio.get_running_loop().run_in_executor(None, self._score, llm)

    def _score(self, llm: DarwinNEG) -> tuple[F32, F32] | None:
        scores = list(llm.session.score(self.texts, hidden=True, top=0))
        hidden = [one.hidden for one in scores if one.hidden is not None]
        if len(hidden) < len(scores):
            return None
        return np.concatenate(hidden), np.concatenate([one.entropy for one in scores])


def look(llm: DarwinNEG, side_car: str | None) -> Loaded:
    """What a node says of its engine before it captures. One group is scored at a time: its results are large."""
    return Loaded(describe(llm, side_car), slots=SLOTS, threads=1)


class ClusterScorer:
    """Where a capture runs its texts (training.capture.Scorer). cluster: opened with `look`. llm: the same model in
    this process, which those of the nodes are compared with. Waits for the first of them; errors: DarwinNegError when
    none has this model."""

    def __init__(self, cluster: Cluster, llm: DarwinNEG) -> None:
        self._cluster = cluster
        cluster.expect(describe(llm, None))
        cluster.first()

    def score(self, groups: Sequence[Sequence[Sequence[int]]]) -> Generator[tuple[int, Rows], None, None]:
        works = [Scoring(tuple(map(tuple, group))) for group in groups]
        numbers = {call: number for number, call in enumerate(self._cluster.submit(works))}
        try:
            while ended := self._cluster.wait():
                for one in ended:
                    if one.error is not None:
                        raise one.error
                    yield numbers.pop(one.call), [one.value or (None, None)]
        finally:
            self._cluster.forget(list(numbers))
