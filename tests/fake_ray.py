"""In the place of Ray: nodes that do what a test tells them, so that what happens in a cluster can be scripted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from darwin_neg_cpp import DarwinNegError


class FakeError(Exception):
    """Of Ray. cause: what a node has raised, None when it died."""

    def __init__(self, cause: Exception | None = None) -> None:
        super().__init__("it died")
        self.cause = cause


@dataclass(eq=False)
class Reference:
    """What a call on an actor returns. work: None for the load."""

    node: str
    work: Any = None
    number: int = 0
    result: Any = None
    is_done: bool = False


@dataclass
class FakeRay:
    """What the cluster asks of Ray. loads: by node, what it says or raises. happen: called while the cluster waits.
    answer: the result of work."""

    loads: dict[str, Any]
    happen: Callable[[FakeRay], None]
    answer: Callable[[Any], Any] = lambda work: work.value
    open: list[Reference] = field(default_factory=list)
    most: int = 0  # calls on one node at once
    exceptions = SimpleNamespace(RayError=FakeError)
    util = SimpleNamespace(
        scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
    )

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": True, "Resources": {"CPU": 1.0}, "NodeManagerAddress": name}
            for name in self.loads
        ] + [{"NodeID": "head", "Alive": True, "Resources": {}}]

    def remote(self, _worker: type) -> Any:
        return SimpleNamespace(
            options=lambda **given: SimpleNamespace(remote=lambda: self._actor(given["scheduling_strategy"]))
        )

    def _actor(self, node: str) -> Any:
        def call(work: Any = None, number: int = 0) -> Reference:
            reference = Reference(node, work, number)
            self.open.append(reference)
            if node not in self.loads:
                self.finish(reference, FakeError())
            self.most = max(self.most, *Counter(one.node for one in self.open if one.work is not None).values(), 0, 0)
            return reference

        return SimpleNamespace(
            node=node,
            load=SimpleNamespace(remote=lambda _loading: call()),
            run=SimpleNamespace(remote=lambda number, work: call(work, number)),
            cancel=SimpleNamespace(remote=self.cancel),
        )

    def cancel(self, number: int) -> None:
        for one in [one for one in self.open if one.work is not None and one.number == number]:
            self.finish(one, None)

    def finish(self, reference: Reference, result: Any = ...) -> None:
        """result: its own unless another is given; None is that of cancelled work."""
        reference.is_done = True
        if result is ...:
            result = self.loads[reference.node] if reference.work is None else self.answer(reference.work)
        reference.result = FakeError(result) if isinstance(result, DarwinNegError) else result
        self.open.remove(reference)

    def die(self, node: str) -> None:
        del self.loads[node]
        for reference in [one for one in self.open if one.node == node]:
            self.finish(reference, FakeError())

    def wait(self, references: list[Reference], *, num_returns: int, timeout: float) -> tuple[list[Reference], None]:
        if timeout:
            self.happen(self)
        return [one for one in references if one.is_done][:num_returns], None

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def kill(self, actor: Any) -> None:
        for reference in [one for one in self.open if one.node == actor.node]:
            self.open.remove(reference)
