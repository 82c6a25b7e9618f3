"""A batch on a cluster: every request goes to a node."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..batch.reply import Reply, answer
from ..batch.requests import Request
from ..batch.source import READY, describe, places_of
from ..files.progress import Progress, no_progress
from ..llm import DarwinNEG
from .nodes import Cluster
from .worker import Loaded


@dataclass(frozen=True)
class Answering:
    """One request."""

    request: Request

    async def run(self, llm: DarwinNEG) -> Reply:
        return await answer(llm, self.request)


def look(llm: DarwinNEG, side_car: str | None) -> Loaded:
    """What a node says of its engine before it answers a batch. facts: whether the model has a head."""
    return Loaded(describe(llm, side_car), slots=places_of(llm) + READY, facts=llm.neg is not None)


class ClusterSource:
    """What answers a batch (batch.source.Source). cluster: opened with `look`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def note(self) -> str:
        return self.cluster.note

    def has_head(self) -> bool:
        return bool(self.cluster.first().facts)

    def describe(self, *, progress: Progress = no_progress) -> Mapping[str, Any]:
        return self.cluster.first().described

    def replies(self, requests: Sequence[Request]) -> Generator[tuple[Request, Reply], None, None]:
        works = [Answering(request) for request in requests]
        calls = self.cluster.submit(works, [request.params.n for request in requests])
        asked = dict(zip(calls, requests, strict=True))
        try:
            while ended := self.cluster.wait():
                for one in ended:
                    reply = one.value
                    if one.error is not None:
                        reply = Reply(None, "server_error", str(one.error), fault=True)
                    yield asked.pop(one.call), reply
        finally:
            self.cluster.forget(list(asked))
