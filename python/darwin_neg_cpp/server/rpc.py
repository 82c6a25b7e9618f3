"""`rpc-server`: lends the devices of this machine to a program on another one, by ggml's RPC backend."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from ..checks import check_integer
from ..errors import DarwinNegError, OutputError, RequestError
from ..files.input_file import shown_path
from ..files.shown_text import escape_line
from ..files.usable_cpus import usable_cpus
from . import process
from .serve import check_port, is_public

logger = logging.getLogger(__name__)

MAX_THREADS = 512  # ggml's own limit


def lend_devices(
    *,
    host: str = "127.0.0.1",
    port: int = 50052,
    cache: str | os.PathLike[str] | None = None,
    devices: Sequence[str] | None = None,
    n_threads: int = 0,
) -> None:
    """Serves one program at a time until SIGTERM, and then returns; what it started still runs: end the process.

    host: an address of this machine, or a name of one. port: 0 for a free one. cache: folder that keeps large tensors,
    so that a model comes over the network once. devices: names as `darwin-neg doctor` lists them; by default the GPUs,
    or the CPU where there are none. n_threads: of the CPU, 0 chooses.
    Errors: RequestError, OutputError; DarwinNegError where it cannot listen; KeyboardInterrupt at Ctrl-C.
    """
    check_integer("port", port, low=0, high=65535)
    check_integer("n_threads", n_threads, low=0, high=MAX_THREADS)
    core = process.core()
    chosen = choose_devices(devices, core.devices())
    address = ipv4_of(host)
    port = check_port(address, port)
    folder = "" if cache is None else make_folder(cache)
    if is_public(address):
        logger.warning(
            "RPC has neither password nor encryption: whoever reaches %s:%d can read and change all that is computed, "
            "and take over this program; listen on 127.0.0.1, or in a network that nobody else can enter",
            address,
            port,
        )
    threads = n_threads or usable_cpus().default_threads or 1
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # C++ waits for clients there for ever, and Python runs the handlers of signals here
    server = threading.Thread(
        target=core.run_rpc_server, args=(f"{address}:{port}", folder, threads, chosen), daemon=True
    )
    server.start()
    while server.is_alive() and not stop.wait(0.2):
        _show_log(core.drain_log())
    _show_log(core.drain_log())
    if not stop.is_set():
        raise DarwinNegError(f"the RPC server could not listen on {address}:{port}; choose another host or port")


def _show_log(lines: Sequence[tuple[int, str]]) -> None:
    for level, line in lines:
        logger.log(level, "%s", escape_line(line))


def choose_devices(names: Sequence[str] | None, known: Sequence[dict[str, object]]) -> list[str]:
    """Names of the devices to lend. known: those of this machine."""
    by_name = {str(device["name"]): device["type"] for device in known}
    if names is None:
        gpus = [name for name, kind in by_name.items() if kind in ("gpu", "igpu")]
        return gpus or [name for name, kind in by_name.items() if kind == "cpu"]
    for name in names:
        if name not in by_name:
            raise RequestError(
                f"devices must be of this machine, which has {', '.join(by_name)}, got {escape_line(name)!r}"
            )
    if len(set(names)) < len(names) or not names:
        raise RequestError("devices must be named once each, and at least one")
    return list(names)


def ipv4_of(host: str) -> str:
    """The IPv4 address that a name stands for: ggml's RPC knows no others."""
    try:
        return str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        raise RequestError(f"host must be an IPv4 address of this machine or its name, got {host!r}") from None


def make_folder(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{shown_path(name)}: cannot be a folder to keep tensors in ({error.strerror})") from error
    if not os.access(name, os.W_OK):
        raise OutputError(f"{shown_path(name)}: cannot be written to; choose another folder")
    return name
