"""What a call of ours changes in huggingface_hub while it runs: time-outs for its requests, and fewer warnings."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit


class _Quiet(logging.Filter):
    """Drops huggingface_hub's warnings about every attempt that it repeats, while a call of ours runs.

    Its own HF_HUB_VERBOSITY brings them back. Calls are counted, since they may overlap; a context variable would not
    reach the threads that huggingface_hub downloads in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()  # guards _calls
        self._calls = 0

    def __enter__(self) -> None:
        import huggingface_hub.utils.logging  # noqa: F401 (gives the logger of all its modules a handler)

        with self._lock:
            self._calls += 1
            if self._calls == 1:
                for handler in logging.getLogger("huggingface_hub").handlers:
                    handler.addFilter(self)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                for handler in logging.getLogger("huggingface_hub").handlers:
                    handler.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "HF_HUB_VERBOSITY" in os.environ


QUIET = _Quiet()


def seconds() -> float:
    """How long the hub may be silent."""
    from huggingface_hub import constants

    return float(max(constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT))


class _NoAnswer(Exception):
    """A server that has not answered for a while; huggingface_hub does not repeat a request that ends so."""


class _TimeOuts:
    """Gives every request of huggingface_hub a time-out while a call of ours runs.

    Its sessions have none: listing a repository and asking for the token of a transfer would wait for a silent server
    for ever, and asking for a file's size for up to seven minutes. A host that has answered nothing for longer than the
    time-out is not asked again. Whatever is changed is restored when the last call ends; a shorter time-out that
    another user of the same sessions sets for itself is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the others
        self._calls = 0
        self._sessions: list[Any] = []
        self._failing_since: dict[str, float] = {}  # host -> when its first request without an answer ended
        self._factory: tuple[str, Any, Any] | None = None  # name, the user's or the library's own, ours
        self._variables: list[str] = []  # set in the environment

    def __enter__(self) -> None:
        from huggingface_hub.utils import _http, get_session

        with self._lock:
            self._calls += 1
            if self._calls == 1:
                self._failing_since.clear()
                self._limit_storage()
                # the public way to set the factory closes the session, whoever uses it; of versions 1 and 0 by name
                for name in ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_BACKEND_FACTORY"):
                    theirs = getattr(_http, name, None)
                    if theirs is not None:
                        ours = self._limiting(theirs)
                        self._factory = name, theirs, ours
                        setattr(_http, name, ours)
        self._limit(get_session())

    def __exit__(self, *_: object) -> None:
        from huggingface_hub.utils import _http

        with self._lock:
            self._calls -= 1
            if self._calls > 0:
                return
            if self._factory is not None:
                name, theirs, ours = self._factory
                if getattr(_http, name) is ours:
                    setattr(_http, name, theirs)
            self._factory = None
            while self._variables:
                os.environ.pop(self._variables.pop(), None)
            for session in self._sessions:
                session.__dict__.pop("send", None)
            self._sessions.clear()

    def _limit_storage(self) -> None:
        """Limits what is not asked through a session: the storage of large files, whose client waits for minutes.

        It reads the environment when its first download begins. Chunks of many files share its connections, so that one
        may wait a while for its turn.
        """
        limits = {
            "HF_XET_CLIENT_READ_TIMEOUT": f"{round(3 * seconds()) or 1}s",
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
        }
        for name, value in limits.items():
            if name not in os.environ:
                os.environ[name] = value
                self._variables.append(name)

    def _limiting(self, factory: Callable[[], Any]) -> Callable[[], Any]:
        def limiting() -> Any:
            session = factory()
            self._limit(session)
            return session

        return limiting

    def _limit(self, session: Any) -> None:
        """Puts a time-out around the one method that all requests of a session go through."""
        with self._lock:
            if any(session is known for known in self._sessions) or "send" in session.__dict__:
                return
            self._sessions.append(session)
        send = session.send

        def limited(*args: Any, **kwargs: Any) -> Any:
            request = args[0] if args else kwargs["request"]
            host = urlsplit(str(request.url)).netloc
            self._refuse_silent(host)
            _limit_request(request, kwargs)
            try:
                response = send(*args, **kwargs)
            except Exception:
                with self._lock:
                    self._failing_since.setdefault(host, time.monotonic())
                raise
            with self._lock:
                self._failing_since.pop(host, None)
            return response

        session.send = limited

    def _refuse_silent(self, host: str) -> None:
        with self._lock:
            since = self._failing_since.get(host)
        if since is not None and time.monotonic() - since > seconds():
            raise _NoAnswer(f"{host} does not answer")


def _limit_request(request: Any, arguments: dict[str, Any]) -> None:
    """Sets time-outs where a request has none, and lowers longer ones."""
    limit = seconds()

    def lower(given: float | None) -> float:
        return limit if given is None else min(given, limit)

    if hasattr(request, "extensions"):  # of httpx
        given = request.extensions.get("timeout") or {}
        limits = {part: lower(given.get(part)) for part in ("connect", "read", "write")}
        request.extensions = {**request.extensions, "timeout": {**given, **limits}}
        return
    given = arguments.get("timeout")  # of requests, which huggingface_hub before 1.0 uses
    connect, read = given if isinstance(given, tuple) else (given, given)
    arguments["timeout"] = lower(connect), lower(read)


TIME_OUTS = _TimeOuts()
