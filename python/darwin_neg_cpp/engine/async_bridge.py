"""asyncio on top of the engine: one thread waits for news of all requests and wakes whoever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from ..errors import DarwinNegError, one_line
from ..results import Chunk, Generation
from ..sampling import SamplingParams, submit_arguments
from . import updates
from .stream import release

if TYPE_CHECKING:
    from .._core import Engine, Update

WAIT_SECONDS = 0.2


class AsyncBridge:
    """Owned by one DarwinNEG. Any number of event loops and requests share its one thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()  # guards _waiting
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="darwin-neg-async", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; requests that still run raise DarwinNegError in their tasks."""
        self._closed.set()
        self._thread.join()
        self._wake(None)

    async def gather(
        self, prompts: list[list[int]], params: SamplingParams, model: str
    ) -> list[Generation | list[Generation]]:
        """Results of all prompts, in order; a Generation each, or a list of n. One failure cancels the others."""
        requests = self._submit(prompts, params, stream=False)
        tasks = [asyncio.ensure_future(self._one(request, params, model)) for request in requests]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._release(requests)

    async def stream(self, tokens: list[int], params: SamplingParams) -> AsyncGenerator[Chunk, None]:
        requests = self._submit([tokens], params, stream=True)
        try:
            async with contextlib.aclosing(self._updates(requests[0])) as news:
                async for update in news:
                    for chunk in updates.chunks(update):
                        yield chunk
                    if update["finished"]:
                        return
        finally:
            self._release(requests)
        raise DarwinNegError("the model was closed while a request ran")

    async def _one(self, request: int, params: SamplingParams, model: str) -> Generation | list[Generation]:
        async with contextlib.aclosing(self._updates(request)) as news:
            async for update in news:
                done = [updates.generation([chunk], update, model) for chunk in updates.chunks(update)]
                return done[0] if params.n == 1 else done
        raise DarwinNegError("the model was closed while a request ran")

    def _submit(self, prompts: list[list[int]], params: SamplingParams, *, stream: bool) -> list[int]:
        with one_line():
            requests = self._engine.submit(prompts, **submit_arguments(params, stream=stream))
        loop = asyncio.get_running_loop()
        with self._lock:
            self._waiting.update((request, (loop, asyncio.Event())) for request in requests)
        return requests

    def _release(self, requests: list[int]) -> None:
        with self._lock:
            for request in requests:
                self._waiting.pop(request, None)
        for request in requests:
            release(self._engine, request)

    async def _updates(self, request: int) -> AsyncGenerator[Update, None]:
        event = self._waiting[request][1]
        while not self._closed.is_set():
            # looked at before waiting: news may have come between submit and registration
            update = self._engine.wait(request, 0.0)
            if update is None:
                await event.wait()
                event.clear()
                continue
            yield update
            if update["finished"]:
                return

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                fresh = self._engine.wait_any(WAIT_SECONDS)
            except DarwinNegError:  # closed
                return
            self._wake(set(fresh))

    def _wake(self, requests: set[int] | None) -> None:
        """Wakes the tasks that wait for these requests, or all."""
        with self._lock:
            woken = [waiting for request, waiting in self._waiting.items() if requests is None or request in requests]
        for loop, event in woken:
            with contextlib.suppress(RuntimeError):  # a loop that has ended
                loop.call_soon_threadsafe(event.set)
