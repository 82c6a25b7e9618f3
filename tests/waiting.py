"""Waiting for what other threads and processes do, for the thing itself: no time is long enough on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(check: Callable[[], bool], seconds: float = 30) -> None:
    """Returns when check() is true, and fails after `seconds`."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, f"it did not come true within {seconds} seconds"
        time.sleep(0.01)
