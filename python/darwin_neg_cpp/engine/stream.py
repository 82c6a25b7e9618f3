"""One running request as an iterator of its chunks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import DarwinNegError
from ..results import Chunk
from . import log, updates

if TYPE_CHECKING:
    from .._core import Engine

# How long the calling thread stays in C++ before it looks for Ctrl-C.
POLL_SECONDS = 0.1


def release(engine: Engine, request: int) -> None:
    """Forgets a request, and cancels it when it still runs; nothing to do when the model was closed meanwhile."""
    with contextlib.suppress(DarwinNegError):
        engine.release(request)


class Stream(Iterator[Chunk]):
    """What `DarwinNEG.stream` returns. Closing it, leaving a `with` block or dropping it cancels the request.

    The request runs from the moment of the call, whether or not anybody iterates.
    """

    def __init__(self, engine: Engine, request: int) -> None:
        self._engine = engine
        self._request: int | None = request
        self._ready: deque[Chunk] = deque()
        self._finished = False

    def __next__(self) -> Chunk:
        while not self._ready:
            if self._finished or self._request is None:
                self.close()
                raise StopIteration
            try:
                update = self._engine.wait(self._request, POLL_SECONDS)
                if update is not None:
                    self._finished = update["finished"]
                    self._ready.extend(updates.chunks(update))
            except BaseException:  # Ctrl-C too: nobody will fetch the rest
                self.close()
                raise
        return self._ready.popleft()

    def cancel(self) -> None:
        """Stops generating; the chunks still to come end with finish_reason "cancelled". Callable from any thread."""
        if self._request is not None:
            with contextlib.suppress(DarwinNegError):
                self._engine.cancel(self._request)

    def close(self) -> None:
        """Cancels what still runs and drops what was not fetched. Safe to call twice."""
        request, self._request = self._request, None
        self._ready.clear()
        if request is not None:
            release(self._engine, request)
            log.forward()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # modules may be gone when Python ends
            self.close()
