"""One request over HTTP, which another thread may break off, and what can become of it.

Only Python's standard library: a request is a text that goes out and a text that comes back.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from .address import Address

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0  # for what a server answers at once
MAX_BODY = 64 << 20  # bytes of an answer, or of one line of it
BUSY = (429, 503)
FROM_A_PROXY = (502, 504)  # the server behind it does not answer
KEEP_ALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


class Lost(Exception):
    """There is no connection to the server, or it has broken. The argument says why."""


class Busy(Exception):
    """The server has no room now. retry_after: seconds that it asks for."""

    def __init__(self, reason: str, retry_after: float | None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Failed(Exception):
    """The server had an error of its own."""


class Refused(Exception):
    """The server refuses the request, and would again. kind: its word for the reason."""

    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.kind = kind


class NotTrusted(Exception):
    """The connection itself is refused, on this side: a certificate, or no TLS where TLS was expected."""


class Exchange:
    """One request to a server. abort() ends it from any thread; what waits for an answer then raises Lost."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self._address = address
        self._key = key
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    # not by SSLSocket's own method, which changes an object that another thread reads from
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def ask(self, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS) -> Any:
        """Sends JSON (or nothing, with GET) and returns the JSON of the answer."""
        with self._open(path, body, seconds) as response:
            text = response.read(MAX_BODY + 1)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Failed(f"answers {path} with what is not JSON") from None

    def events(self, path: str, body: Any) -> Generator[Any, None, None]:
        """Sends JSON, and yields the JSON of each event of the answer, and None for other signs of life."""
        with self._open(path, body, None) as response:
            while line := response.readline(MAX_BODY + 1):
                if len(line) > MAX_BODY:
                    raise Failed("sends an event without an end")
                name, _, value = line.partition(b":")
                if name not in (b"data", b"error") or value.strip() in (b"", b"[DONE]"):
                    yield None
                    continue
                try:
                    event = json.loads(value)
                except (ValueError, RecursionError):
                    raise Lost("the answer broke off inside an event") from None
                yield {"error": event} if name == b"error" else event

    @contextlib.contextmanager
    def _open(self, path: str, body: Any, seconds: float | None) -> Iterator[http.client.HTTPResponse]:
        """seconds: between two pieces of the answer; None: any time."""
        with _told(self._address), contextlib.closing(self._connection()) as connection:
            connection.connect()
            assert connection.sock is not None
            _keep_alive(connection.sock)
            connection.sock.settimeout(seconds)
            with self._lock:
                if self._aborted:
                    raise Lost("broken off")
                self._socket = connection.sock
            try:
                headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
                if self._key is not None:
                    headers["Authorization"] = f"Bearer {self._key}"
                data = None
                if body is not None:
                    headers["Content-Type"] = "application/json"
                    data = json.dumps(body).encode()
                connection.request("GET" if data is None else "POST", self._address.path + path, data, headers)
                with contextlib.closing(connection.getresponse()) as response:
                    _check_status(response)
                    yield response
            finally:
                with self._lock:
                    self._socket = None

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._address.host, self._address.port
        if self._address.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=_trust())


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _keep_alive(connected: socket.socket) -> None:
    """Asks the system to notice a machine that has gone without a word."""
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE:
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextlib.contextmanager
def _told(address: Address) -> Iterator[None]:
    """Turns what connections raise into Lost, or into NotTrusted where trying again does not help."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise NotTrusted(
            f"its certificate is not trusted ({error.verify_message}); put the authority's certificate into the file "
            "that the environment variable SSL_CERT_FILE names"
        ) from None
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            raise NotTrusted(f"does not speak TLS; write http://{str(address).partition('://')[2]}") from None
        raise Lost(f"TLS failed ({error.reason or error})") from None
    except TimeoutError:
        raise Lost("no answer in time") from None
    except socket.gaierror:
        raise Lost("no such host") from None
    except OSError as error:  # refused, reset, unreachable; http.client's RemoteDisconnected is a reset
        raise Lost((error.strerror or str(error)).lower()) from None
    except http.client.IncompleteRead:
        raise Lost("the answer broke off") from None
    except (http.client.HTTPException, ValueError) as error:
        raise Lost(f"does not speak HTTP ({type(error).__name__})") from None


def _check_status(response: http.client.HTTPResponse) -> None:
    status = response.status
    if status == 200:
        return
    message, kind = _message(response.read(1 << 16))
    message = message or response.reason or "no reason given"
    if status in BUSY:
        raise Busy(f"HTTP {status}: {message}", _seconds(response.getheader("Retry-After")))
    if status in FROM_A_PROXY:
        raise Lost(f"HTTP {status}: {message}")
    if 300 <= status < 400:
        raise Refused(status, f"redirects to {response.getheader('Location')}; use that address")
    if status >= 500 and status != 501:
        raise Failed(f"HTTP {status}: {message}")
    raise Refused(status, message, kind)


def _message(text: bytes) -> tuple[str, str]:
    """The message in an error's JSON, and its type."""
    try:
        error = json.loads(text)["error"]
        if isinstance(error, str):
            return error, ""
        return str(error["message"]), str(error.get("type", ""))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return "", ""


def _seconds(retry_after: str | None) -> float | None:
    """Seconds in a Retry-After header, which is a number or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(retry_after)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
