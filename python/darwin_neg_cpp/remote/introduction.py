"""Asks a server what it runs, and says what is wrong where it does not tell."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import DarwinNegError, RequestError
from .address import Address
from .exchange import Busy, Exchange, Failed, Lost, NotTrusted, Refused
from .identity import Identity, read_identity


def introduce(
    address: Address, key: str | None, *, seconds: float, patience: float, given_up: Callable[[], bool]
) -> tuple[Identity, int]:
    """What a server runs, and its number of places; waits while it loads its model.

    seconds: for an answer. patience: for loading. Errors: RequestError, DarwinNegError.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return look(address, key, seconds=seconds)
        except (Busy, Failed) as error:
            if time.monotonic() > end or given_up():
                raise DarwinNegError(f"{address}: is not ready ({error}); wait for it, or leave it out") from None
            time.sleep(0.5)
        except Lost as error:
            raise DarwinNegError(f"{address}: cannot be reached ({error}); start the server, or leave it out") from None
        except NotTrusted as error:
            raise RequestError(f"{address}: {error}") from None
        except Refused as error:
            raise explain(address, key, error) from None


def look(address: Address, key: str | None, *, seconds: float) -> tuple[Identity, int]:
    """The same at once. Errors: those of Exchange.ask; RequestError for what is not llama-server."""
    props = Exchange(address, key).ask("/props", seconds=seconds)
    models = Exchange(address, key).ask("/v1/models", seconds=seconds)
    return read_identity(address, props, models)


def explain(address: Address, key: str | None, error: Refused) -> DarwinNegError:
    """What to tell of a request that a server has refused."""
    if error.status in (401, 403):
        what = "asks for a key" if key is None else "does not take the key"
        return RequestError(f"{address}: {what} (HTTP {error.status}); pass server_key=...")
    return RequestError(f"{address}: {error}")
