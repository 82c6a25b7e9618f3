"""asyncio on top of the engine: one thread waits for news of all requests and wakes whoever waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from . import collect
from .errors import DarwinNegError
from .results import Chunk
from .sampling import SamplingParams, submit_arguments

if TYPE_CHECKING:
    from ._core import Engine, Update

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
        self._closed.set()
        self._thread.join()
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for loop, event in waiting.values():
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def gather(self, prompts: list[list[int]], params: SamplingParams, model: str) -> list[Any]:
        """Results of all prompts, in order; a Generation each, or a list of n."""
        tasks = [asyncio.ensure_future(self._one(tokens, params, model)) for tokens in prompts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, tokens: list[int], params: SamplingParams, model: str) -> Any:
        async for update in self._updates(tokens, params, stream=False):
            done = [collect.generation([chunk], update, model) for chunk in collect.chunks(update)]
            return done[0] if params.n == 1 else done
        raise DarwinNegError("the model was closed while a request ran")

    async def stream(self, tokens: list[int], params: SamplingParams) -> AsyncIterator[Chunk]:
        async for update in self._updates(tokens, params, stream=True):
            for chunk in collect.chunks(update):
                yield chunk

    async def _updates(self, tokens: list[int], params: SamplingParams, *, stream: bool) -> AsyncIterator[Update]:
        event = asyncio.Event()
        request = self._engine.submit(tokens, **submit_arguments(params, stream=stream))
        with self._lock:
            self._waiting[request] = (asyncio.get_running_loop(), event)
        try:
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
        finally:
            with self._lock:
                self._waiting.pop(request, None)
            if not self._closed.is_set():
                self._engine.release(request)

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                fresh = self._engine.wait_any(WAIT_SECONDS)
            except DarwinNegError:  # closed
                return
            with self._lock:
                woken = [self._waiting[request] for request in fresh if request in self._waiting]
            for loop, event in woken:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)
