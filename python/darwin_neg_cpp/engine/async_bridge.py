"""asyncio on top of the engine: one thread waits for news and hands it to the event loops."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..results import Chunk, Generation
from ..sampling import SamplingParams
from . import log, updates
from .requests import NotifyName, submit
from .token_texts import TokenTexts

if TYPE_CHECKING:
    import asyncio

    from .._core import ChatPrompt, Engine, Requests, Update

    Queues = dict[int, asyncio.Queue[Update]]  # by request


class AsyncBridge:
    """Belongs to one session. Any number of event loops and requests share its one thread.

    A loop's queues are read and changed in that loop's own thread alone. An update goes to every loop, and the one that
    has the request's queue keeps it: one may come before `submit` has returned, but its loop cannot run before that.
    """

    def __init__(self, engine: Engine, defaults: Mapping[str, Any], texts: TokenTexts) -> None:
        """defaults: of the model, for parameters that a request does not set. texts: of its tokens."""
        self._engine = engine
        self._defaults = defaults
        self._inbox = engine.inbox()
        self._texts = texts
        self._loops: dict[asyncio.AbstractEventLoop, Queues] = {}
        self._thread = threading.Thread(target=self._hand_out, name="darwin-neg-async", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hands out what has come and ends the thread. To be called after the engine has been closed."""
        self._inbox.close()
        self._thread.join()

    async def gather(
        self, prompts: list[list[int]], params: SamplingParams, model: str, chat: ChatPrompt | None = None
    ) -> list[Generation | list[Generation]]:
        """Results of all prompts, in order; a Generation each, or a list of n. Raises if every sample failed."""
        results = updates.Results(params.n, model, self._texts)
        with self._submitted(prompts, params, "request", chat) as (requests, queue):
            while len(results) < len(requests.ids):
                results.add(await queue.get())
            return results.take(requests.ids)

    async def stream(
        self, tokens: list[int], params: SamplingParams, chat: ChatPrompt | None = None
    ) -> AsyncGenerator[Chunk, None]:
        """The chunks of one request. Closing the generator cancels it."""
        with self._submitted([tokens], params, "token", chat) as (_, queue):
            finished = False
            failures = updates.Failures()
            while not finished:
                update = await queue.get()
                finished = update["finished"]
                failures.note(update)
                for chunk in updates.read_chunks(update):
                    yield chunk
            failures.raise_if_all()

    @contextmanager
    def _submitted(
        self, prompts: list[list[int]], params: SamplingParams, notify: NotifyName, chat: ChatPrompt | None
    ) -> Iterator[tuple[Requests, asyncio.Queue[Update]]]:
        """Requests that live as long as the block, and the queue of their updates."""
        import asyncio

        loop = asyncio.get_running_loop()
        queues = self._loops.setdefault(loop, {})
        queue: asyncio.Queue[Update] = asyncio.Queue()
        requests = None
        try:
            requests = submit(self._engine, prompts, params, self._inbox, notify, chat, defaults=self._defaults)
            queues.update(dict.fromkeys(requests.ids, queue))
            yield requests, queue
        finally:
            if requests is not None:
                requests.release()
                for request in requests.ids:
                    queues.pop(request, None)
            if not queues:
                self._loops.pop(loop, None)
            log.forward()

    def _hand_out(self) -> None:
        while (update := self._inbox.wait()) is not None:
            for loop, queues in list(self._loops.items()):
                try:
                    loop.call_soon_threadsafe(_deliver, queues, update)
                except RuntimeError:  # a loop that has ended
                    self._loops.pop(loop, None)


def _deliver(queues: Queues, update: Update) -> None:
    if update["request"] in queues:
        queues[update["request"]].put_nowait(update)
