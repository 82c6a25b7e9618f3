"""Several servers with the same model, and the calls that run on them.

Each call goes to the server with the least to do. What a server that fails was working on goes to the others, and the
server is tried again later. Nothing here knows what a call is about.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DarwinNegError, RequestError
from .address import Address
from .calls import Call, Inbox, Run, Server
from .exchange import Busy, Exchange, Failed, Lost, NotTrusted, Refused
from .identity import Identity, check_same, find_difference
from .introduction import explain, introduce, look

logger = logging.getLogger(__name__)

SILENT_SECONDS = 30.0  # without a byte, after which a server is asked whether it is there
CHECK_SECONDS = 10.0  # for its answer to that
CHECKS = 2  # unanswered ones, after which it counts as dead
IDLE_SECONDS = 2.0  # without a request, in which a server may have been started again with something else
STALLED_SECONDS = 900.0  # without a byte for one call, on a server that is there
FIRST_REST, LONGEST_REST = 0.5, 15.0  # seconds until a server that failed is tried again
ATTEMPTS = 8  # of one call, before the call itself is to blame
FAULTS = 3  # of those in which servers had an error of their own
PATIENCE = 120.0


class Fleet:
    """Servers that all run the same model. Safe to use from several threads.

    patience: seconds for which no server may do anything before that is an error.
    """

    def __init__(self, addresses: Sequence[Address], *, key: str | None, patience: float = PATIENCE) -> None:
        self._key = key
        self._patience = patience
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[Call] = deque()
        self._closed = False
        self.servers = [Server(address, number) for number, address in enumerate(addresses)]
        self._alive = time.monotonic()  # when anything last came from any server
        self.identity = self._connect()

    @property
    def slots(self) -> int:
        """Requests that run side by side, of all servers together."""
        return sum(server.slots for server in self.servers if not server.is_left_out)

    # --- before anything is asked

    def _connect(self) -> Identity:
        """Waits until all servers have said what they run. Errors: RequestError, DarwinNegError."""
        found: dict[int, Identity | DarwinNegError] = {}

        def look(server: Server) -> None:
            try:
                identity: Identity | DarwinNegError
                identity, server.slots = introduce(
                    server.address,
                    self._key,
                    seconds=CHECK_SECONDS,
                    patience=self._patience,
                    given_up=lambda: self._closed,
                )
            except DarwinNegError as error:
                identity = error
            with self._changed:
                found[server.number] = identity
                self._changed.notify_all()

        for server in self.servers:
            _start(look, server)
        try:
            with self._changed:
                while len(found) < len(self.servers):
                    if any(isinstance(identity, DarwinNegError) for identity in found.values()):
                        break
                    self._changed.wait()
        except BaseException:
            self._closed = True
            raise
        self._closed = any(isinstance(identity, DarwinNegError) for identity in found.values())
        for _, identity in sorted(found.items()):
            if isinstance(identity, DarwinNegError):
                raise identity
        known = [identity for _, identity in sorted(found.items()) if isinstance(identity, Identity)]
        for server, identity in zip(self.servers, known, strict=True):
            server.last = time.monotonic()
            check_same((self.servers[0].address, known[0]), (server.address, identity))
        return known[0]

    # --- questions that are answered at once

    def ask(self, path: str, body: Any) -> Any:
        """Sends JSON to the server with the least to do, or to another if that fails; returns the JSON of the answer.

        Errors: RequestError where a server refuses it; DarwinNegError where none answers.
        """
        begin = time.monotonic()
        faults = 0
        while True:
            with self._changed:
                server = self._choose_to_ask(begin)
            exchange = Exchange(server.address, self._key)
            try:
                answer = exchange.ask(path, body)
                with self._changed:
                    self._note_life(server)
                return answer
            except Refused as error:
                raise explain(server.address, self._key, error) from None
            except Failed as error:
                faults += 1
                if faults >= FAULTS:
                    raise DarwinNegError(f"{server.address}: {error}") from None
            except (Lost, NotTrusted) as error:
                with self._changed:
                    self._note_down(server, str(error))
            except Busy as error:
                with self._changed:
                    self._note_busy(server, error)

    def _choose_to_ask(self, begin: float) -> Server:
        """Waits until a server is there; called with the lock."""
        while True:
            self._check_open()
            now = time.monotonic()
            self._refresh(now)
            there = [s for s in self.servers if not (s.is_down or s.is_stale or s.is_left_out)]
            ready = [server for server in there if now >= server.rest_until]
            if ready:
                return min(ready, key=_load)
            if (
                not any(not server.is_left_out for server in self.servers)
                or now - max(begin, self._alive) > self._patience
            ):
                raise self._nobody()
            self._look_after(now)
            self._changed.wait(self._until_next(now))

    # --- calls

    def submit(self, calls: Sequence[Call]) -> None:
        with self._changed:
            self._check_open()
            if not self._queue and not any(server.runs for server in self.servers):
                self._alive = time.monotonic()
            for call in calls:
                call.inbox.open += 1
                self._queue.append(call)
            self._dispatch(time.monotonic())

    def wait(self, inbox: Inbox) -> list[Call]:
        """Waits for calls to end, and returns them; empty only if none runs. Errors: DarwinNegError if no server is
        left for longer than the patience."""
        with self._changed:
            while True:
                if inbox.ended:
                    ended = list(inbox.ended)
                    inbox.ended.clear()
                    return ended
                if not inbox.open:
                    return []
                self._check_open()
                now = time.monotonic()
                self._look_after(now)
                self._dispatch(now)
                self._check_hope(now)
                self._changed.wait(self._until_next(now))

    def cancel(self, calls: Sequence[Call]) -> None:
        """Ends calls that have not ended, as they are; the servers stop working on them."""
        with self._changed:
            for call in calls:
                if not call.ended:
                    call.cancelled = True
                    self._end(call)
                    if call in self._queue:
                        self._queue.remove(call)
            gone = [run for server in self.servers for run in server.runs if run.call.cancelled]
        for run in gone:
            run.exchange.abort()

    def close(self) -> None:
        """Breaks everything off. Whoever waits gets an error."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            runs = [run for server in self.servers for run in server.runs]
            self._changed.notify_all()
        for run in runs:
            run.exchange.abort()

    # --- inside, with the lock

    def _check_open(self) -> None:
        if self._closed:
            raise DarwinNegError("the servers were let go; open a new RemoteEngine")

    def _end(self, call: Call) -> None:
        call.ended = True
        call.inbox.open -= 1
        call.inbox.ended.append(call)
        self._changed.notify_all()

    def _dispatch(self, now: float) -> None:
        """Starts what the servers have room for."""
        if self._queue:
            self._refresh(now)
        while self._queue and not self._closed:
            ready = [server for server in self.servers if server.room(now) > 0]
            if not ready:
                return
            server = min(ready, key=_load)
            call = self._queue.popleft()
            call.attempts += 1
            run = Run(call, Exchange(server.address, self._key), now)
            if not server.runs:
                server.last = now
            server.runs.add(run)
            _start(self._carry_out, server, run)

    def _refresh(self, now: float) -> None:
        """Has servers looked at again that have had nothing to do."""
        for server in self.servers:
            out = server.is_down or server.is_stale or server.is_left_out or server.is_checked or self._closed
            if not (out or server.runs) and now - server.last >= IDLE_SECONDS:
                server.is_stale = server.is_checked = True
                _start(self._check, server)

    def _note_life(self, server: Server) -> None:
        server.last = self._alive = time.monotonic()
        server.strikes = 0

    def _note_success(self, server: Server) -> None:
        self._note_life(server)
        server.trouble = 0

    def _note_down(self, server: Server, reason: str) -> None:
        if not server.is_down:
            server.is_down, server.reason = True, reason
            server.trouble += 1
            server.rest_until = time.monotonic() + _rest(server.trouble)
            logger.info("%s: %s", server.address, reason)

    def _note_busy(self, server: Server, error: Busy) -> None:
        now = time.monotonic()
        server.reason = str(error)
        if now >= server.rest_until:  # else another call has been told so
            server.trouble += 1
        rest = _rest(server.trouble) if error.retry_after is None else min(error.retry_after, self._patience)
        server.rest_until = max(server.rest_until, now + rest)

    def _look_after(self, now: float) -> None:
        """Checks servers that are silent, or have rested; gives up calls that have stalled."""
        for server in self.servers:
            if server.is_left_out or server.is_checked:
                continue
            silent = bool(server.runs) and now - server.last >= SILENT_SECONDS
            if silent or (server.is_down and now >= server.rest_until):
                server.is_checked = True
                _start(self._check, server)
            for run in server.runs:
                if now - run.last >= STALLED_SECONDS:
                    run.exchange.abort()

    def _until_next(self, now: float) -> float:
        """Seconds until there is something to look after."""
        moments = [self._alive + self._patience + 0.01]
        for server in self.servers:
            if server.is_left_out:
                continue
            if now < server.rest_until:
                moments.append(server.rest_until)
            if server.runs and not server.is_checked:
                moments.append(server.last + SILENT_SECONDS)
                moments += [run.last + STALLED_SECONDS for run in server.runs]
        return max(0.01, min(moments) - now) if min(moments) > now else 1.0

    def _check_hope(self, now: float) -> None:
        working = any(server.runs for server in self.servers)
        if all(server.is_left_out for server in self.servers) or (not working and now - self._alive > self._patience):
            raise self._nobody()

    def _nobody(self) -> DarwinNegError:
        reasons = "; ".join(f"{server.address}: {server.reason or 'no answer'}" for server in self.servers)
        return DarwinNegError(f"no server answers any more ({reasons}); start one of them, and run the same again")

    # --- in threads of their own

    def _carry_out(self, server: Server, run: Run) -> None:
        call = run.call
        trouble: Exception | None = None
        try:
            self._receive(server, run)
        except (Lost, Busy, Failed, Refused, NotTrusted) as error:
            trouble = error
        except Exception as error:
            trouble = error
        with self._changed:
            server.runs.discard(run)
            if not call.ended:
                self._settle(server, call, trouble)
            self._dispatch(time.monotonic())
            self._changed.notify_all()

    def _receive(self, server: Server, run: Run) -> None:
        call = run.call
        with self._changed:
            if call.ended or self._closed:
                return
            call.restart()
        with contextlib.closing(run.exchange.events(call.path, call.body)) as events:
            for event in events:
                with self._changed:
                    self._note_life(server)
                    run.last = server.last
                    if call.ended or (event is not None and call.take(event)):
                        return
        raise Lost("the answer broke off")

    def _settle(self, server: Server, call: Call, trouble: Exception | None) -> None:
        if trouble is None:
            self._note_success(server)
            self._end(call)
            return
        if self._closed:
            return
        if isinstance(trouble, Busy):
            self._note_busy(server, trouble)
            call.attempts -= 1  # it has not been tried
        elif isinstance(trouble, (Lost, NotTrusted)):
            self._note_down(server, str(trouble))
        elif isinstance(trouble, Failed):
            call.faults += 1
            server.reason = str(trouble)
        elif isinstance(trouble, Refused):
            call.fault = explain(server.address, self._key, trouble)
        else:
            call.fault = DarwinNegError(f"{server.address}: its answer cannot be read ({trouble})")
        if call.fault is None and (call.attempts >= ATTEMPTS or call.faults >= FAULTS):
            call.fault = DarwinNegError(
                f"{server.address}: {trouble}; the same request has failed {max(call.attempts, call.faults)} times"
            )
        if call.fault is not None:
            self._end(call)
        else:
            self._queue.appendleft(call)

    def _check(self, server: Server) -> None:
        """Asks a silent server whether it is there; one that was gone, or left alone, also whether it is the same."""
        trouble: str | None = None
        busy: Busy | None = None
        difference: str | None = None
        try:
            Exchange(server.address, self._key).ask("/health", seconds=CHECK_SECONDS)
            if server.is_down or server.is_stale:
                identity, slots = look(server.address, self._key, seconds=CHECK_SECONDS)
                difference = find_difference(self.identity, identity)
                server.slots = slots
        except Busy as error:
            busy = error
        except (Lost, Failed, NotTrusted) as error:
            trouble = str(error)
        except (Refused, RequestError) as error:
            difference = str(error)
        with self._changed:
            server.is_checked, stale, server.is_stale = False, server.is_stale, False
            if difference is not None:
                server.is_left_out, server.reason = True, f"has changed ({difference})"
                logger.warning("%s: %s; it is left out from now on", server.address, server.reason)
            elif trouble is None and busy is None:
                server.strikes = 0
                server.is_down = False
                server.last = time.monotonic()
            elif stale:
                self._note_down(server, trouble or str(busy))
            else:
                self._note_unanswered(server, trouble or str(busy))
            runs = list(server.runs) if server.is_down or server.is_left_out else []
            self._dispatch(time.monotonic())
            self._changed.notify_all()
        for run in runs:
            run.exchange.abort()

    def _note_unanswered(self, server: Server, reason: str) -> None:
        if server.is_down:  # still
            server.trouble += 1
            server.reason = reason
            server.rest_until = time.monotonic() + _rest(server.trouble)
            return
        server.strikes += 1
        if server.strikes >= CHECKS:
            self._note_down(server, reason)


def _load(server: Server) -> tuple[float, int]:
    return len(server.runs) / server.slots, server.number


def _rest(trouble: int) -> float:
    return float(min(LONGEST_REST, FIRST_REST * 2 ** min(trouble - 1, 10)))


def _start(target: Callable[..., None], *args: Any) -> None:
    # a daemon: what waits for a server must not keep the program from ending
    threading.Thread(target=target, args=args, daemon=True, name="darwin-neg-server").start()
