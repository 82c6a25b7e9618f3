"""What answers a batch: a model in this process, or anything else that can say what it is."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..eval.settings import describe_build, describe_model
from ..files.progress import Progress, no_progress
from .reply import Reply, answer
from .requests import Request

if TYPE_CHECKING:
    from ..llm import DarwinNEG

READY = 2  # lines that wait in the engine, so that no place in it is ever free


class Source(Protocol):
    """What answers: a LocalSource, or cluster.batch.ClusterSource."""

    @property
    def note(self) -> str:
        """What to show beside the progress, in a few words; mostly nothing."""
        ...

    def has_head(self) -> bool:
        """Whether the model has a NEG head."""
        ...

    def describe(self, *, progress: Progress = no_progress) -> Mapping[str, Any]:
        """What the answers depend on. progress: called with (bytes so far, bytes in total)."""
        ...

    def replies(self, requests: Sequence[Request]) -> Generator[tuple[Request, Reply], None, None]:
        """The answers, as they come. Closing the generator ends what still runs."""
        ...


class LocalSource:
    """A model in this process. side_car: the file of its head, if it is not in the model file."""

    note = ""

    def __init__(self, llm: DarwinNEG, side_car: str | None = None) -> None:
        self._llm, self._side_car = llm, side_car

    def has_head(self) -> bool:
        return self._llm.neg is not None

    def describe(self, *, progress: Progress = no_progress) -> dict[str, Any]:
        return describe(self._llm, self._side_car, progress=progress)

    def replies(self, requests: Sequence[Request]) -> Generator[tuple[Request, Reply], None, None]:
        """The event loop runs in a thread of its own, so that there may be another one in the caller's."""
        inbox: queue.SimpleQueue[tuple[Request, Reply] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(_answer_all(self._llm, requests, inbox))

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except BaseException as error:
                inbox.put(error)
            else:
                inbox.put(None)
            finally:
                loop.close()

        thread = threading.Thread(target=work, name="darwin-neg-batch", daemon=True)
        thread.start()
        try:
            while (news := inbox.get()) is not None:
                if isinstance(news, BaseException):
                    raise news
                yield news
        finally:
            if thread.is_alive() and not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)
            thread.join()


async def _answer_all(
    llm: DarwinNEG,
    requests: Sequence[Request],
    inbox: queue.SimpleQueue[tuple[Request, Reply] | BaseException | None],
) -> None:
    """Keeps as many samples running as the engine has places."""
    waiting = deque(requests)
    running: dict[asyncio.Task[Reply], Request] = {}
    places = places_of(llm)
    try:
        while waiting or running:
            while waiting and sum(request.params.n for request in running.values()) < places + READY:
                request = waiting.popleft()
                running[asyncio.ensure_future(answer(llm, request))] = request
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                inbox.put((running.pop(task), task.result()))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def places_of(llm: DarwinNEG) -> int:
    """Sequences that the engine generates side by side."""
    return int(llm.info["n_parallel"])


def describe(llm: DarwinNEG, side_car: str | None, *, progress: Progress = no_progress) -> dict[str, Any]:
    """What answers depend on, without the number of places: that changes rounding alone."""
    from .. import __version__

    model, _ = describe_model(llm.path, side_car, progress=progress)
    return {
        "version": __version__,
        "llama_cpp": describe_build(),
        "model": model,
        "engine": {"n_ctx": llm.info["n_ctx"]},
    }
