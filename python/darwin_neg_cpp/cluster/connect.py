"""Connects with a Ray cluster. Ray is imported here alone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..errors import RequestError
from ..files.input_file import shown
from .nodes import Cluster, first_line
from .worker import Loading, with_paths

REACH_SECONDS = 5.0  # for a cluster to answer at the start


@contextlib.contextmanager
def open_cluster(
    address: str,
    loading: Loading,
    *,
    patience: float = 120.0,
    warn: Callable[[str], None] = lambda _text: None,
) -> Iterator[Cluster]:
    """Connects with a Ray cluster: HOST:PORT, or "auto" for one of this machine.

    The package and the model must be on every node, the model under the same path.
    Errors: RequestError when Ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError:
        raise RequestError("Ray is not installed; run `pip install 'darwin-neg-cpp[ray]'`") from None
    _reach(address)
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", namespace="darwin-neg")
        except Exception as error:  # whatever Ray raises: it has no class for this
            raise RequestError(
                f"ray={shown(address)} cannot be used ({first_line(error)}); check the address"
            ) from None
    absolute = replace(
        loading,
        model=None if loading.model is None else os.path.abspath(loading.model),
        side_car=None if loading.side_car is None else os.path.abspath(loading.side_car),
        options=with_paths(loading.options, os.path.abspath),
    )
    cluster = Cluster(ray, absolute, patience, warn)
    try:
        yield cluster
    finally:
        cluster.close()
        if ours:
            ray.shutdown()


def _reach(address: str) -> None:
    """Ray tries for a minute to reach what nobody listens at."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:
        if address == "auto":
            return
        raise RequestError(f'ray must be HOST:PORT or "auto", got {shown(address)}')
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise RequestError(f"ray={shown(address)} cannot be reached ({error}); check the address") from None
