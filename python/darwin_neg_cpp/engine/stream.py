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
    from .._core import Inbox, Requests


class Stream(Iterator[Chunk]):
    """The result of `DarwinNEG.stream`. Closing it, leaving a `with` block or dropping it cancels the request.

    The request runs from the moment of the call, whether or not anybody iterates. A sample that fails ends with a chunk
    that says so; if all have failed, the error is raised after that.
    """

    def __init__(self, requests: Requests, inbox: Inbox) -> None:
        self._requests = requests
        self._inbox = inbox
        self._ready: deque[Chunk] = deque()
        self._failures = updates.Failures()
        self._finished = False

    def __next__(self) -> Chunk:
        try:
            while not self._ready:
                if self._finished:
                    self._failures.raise_if_all()
                update = None if self._finished else self._inbox.wait()
                if update is None:  # finished, or closed by another thread
                    raise StopIteration
                self._finished = update["finished"]
                self._failures.note(update)
                self._ready.extend(updates.read_chunks(update))
            return self._ready.popleft()
        except BaseException:  # Ctrl-C too: nobody will fetch the rest
            self.close()
            raise

    def cancel(self) -> None:
        """Stops generating; the chunks still to come end with finish_reason "cancelled". Callable from any thread."""
        self._requests.cancel()

    def close(self) -> None:
        """Cancels what still runs and drops what was not fetched. Safe to call twice."""
        self._finished = True
        self._failures = updates.Failures()
        self._ready.clear()
        self._requests.release()
        with contextlib.suppress(DarwinNegError):  # in a forked child, where nothing runs
            self._inbox.close()
        log.forward()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
