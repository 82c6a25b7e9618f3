"""What runs on a node: one engine, and the work that is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import demo_model
from ..files.input_file import sha256_file
from ..llm import DarwinNEG, ModelOptions


class Work(Protocol):
    """One call on a node, to which it is pickled."""

    async def run(self, llm: DarwinNEG) -> Any:
        """Returns what is pickled back. Errors: DarwinNegError, for whoever submitted it; any other takes the node for
        broken."""
        ...


@dataclass(frozen=True)
class Loaded:
    """What a node says of its engine. described: must be the same on all nodes. slots: pieces of work that it is given
    at once. threads: how many of them may block a thread at once. facts: for whoever submits work."""

    described: dict[str, Any]
    slots: int
    threads: int = 1
    facts: Any = None


@dataclass(frozen=True)
class Loading:
    """What each node loads. model: path of the file there, None for the demo model. side_car: path of the head.

    look: called there with the model and the path of its side-car.
    """

    model: str | None
    side_car: str | None
    options: ModelOptions
    look: Callable[[DarwinNEG, str | None], Loaded]


class Worker:
    """The engine of one node. Ray makes it an actor there."""

    async def load(self, loading: Loading) -> Loaded:
        model, side_car = loading.model, loading.side_car
        described_car = side_car
        if model is None:
            model, side_car = map(str, demo_model.model_and_head())
            described_car = str(demo_model.HEAD)
        self._llm = DarwinNEG(model, side_car, **loading.options)
        self._running: dict[int, asyncio.Task[Any]] = {}
        loaded = loading.look(self._llm, described_car)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(loaded.threads))
        return replace(loaded, described=with_version(loaded.described, loading.options))

    async def run(self, number: int, work: Work) -> Any:
        """Returns the result of the work; None when it was cancelled and has none."""
        task = self._running[number] = asyncio.ensure_future(work.run(self._llm))
        try:
            return await task
        except asyncio.CancelledError:
            return None
        finally:
            del self._running[number]

    async def cancel(self, number: int) -> None:
        """Cancels work as asyncio does, if it still runs."""
        if number in self._running:
            self._running[number].cancel()


def with_version(described: Mapping[str, Any], options: ModelOptions) -> dict[str, Any]:
    """A description with what else must be the same: the version, and the adapters that the model is loaded with."""
    from .. import __version__

    adapters = [[sha256_file(path), scale] for path, scale in _adapters(options)]
    return {"version": __version__, **described, **({"lora": adapters} if adapters else {})}


def with_paths(options: ModelOptions, change: Callable[[str], str]) -> ModelOptions:
    """The options with every path of a file changed."""
    if not options.get("lora"):
        return options
    return {**options, "lora": [(change(path), scale) for path, scale in _adapters(options)]}


def _adapters(options: ModelOptions) -> list[tuple[str, float]]:
    given: Any = options.get("lora") or []
    parts: Sequence[Any] = given if isinstance(given, list) else [given]
    return [(str(part[0]), float(part[1])) if isinstance(part, tuple) else (str(part), 1.0) for part in parts]
