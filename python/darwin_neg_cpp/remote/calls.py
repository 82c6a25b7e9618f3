"""Calls, the attempts at them, and the servers that they run on: what a fleet keeps account of."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..errors import DarwinNegError
from .address import Address
from .exchange import Exchange


class Inbox:
    """Where the ended calls of one user of a fleet arrive."""

    def __init__(self) -> None:
        self.ended: deque[Call] = deque()
        self.open = 0  # calls that have not ended


class Call:
    """One request for a streamed completion, and what has come of it.

    take: called with each event of the answer, in order; returns whether it was the last. restart: called before an
    attempt, to forget the last one's events. Both are called by one thread at a time. fault: why it cannot be done.
    """

    def __init__(self, inbox: Inbox, path: str, body: Any) -> None:
        self.inbox, self.path, self.body = inbox, path, body
        self.fault: DarwinNegError | None = None
        self.ended = False
        self.cancelled = False
        self.attempts = 0
        self.faults = 0

    def take(self, event: Any) -> bool:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError


@dataclass(eq=False)
class Run:
    """An attempt at a call. last: when its latest byte came."""

    call: Call
    exchange: Exchange
    last: float


@dataclass(eq=False)
class Server:
    """A server, with what runs on it and how it fares.

    rest_until: until when it is left alone. trouble: failures since it last worked. strikes: checks that it has not
    answered. last: when its latest byte came.
    """

    address: Address
    number: int
    slots: int = 1
    runs: set[Run] = field(default_factory=set)
    rest_until: float = 0.0
    trouble: int = 0
    strikes: int = 0
    last: float = 0.0
    is_down: bool = False
    is_stale: bool = False  # it may no longer be what it was
    is_checked: bool = False  # a thread is at it
    is_left_out: bool = False
    reason: str = ""

    def room(self, now: float) -> int:
        """How many more calls it can take. One alone, where it has just been in trouble."""
        if self.is_down or self.is_stale or self.is_left_out or now < self.rest_until:
            return 0
        return (1 if self.trouble else self.slots) - len(self.runs)
