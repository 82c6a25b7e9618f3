"""RPC servers as child processes, and a proxy that delays or cuts what goes through it at a chosen message."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO

COMMANDS = (
    *("ALLOC_BUFFER", "GET_ALIGNMENT", "GET_MAX_SIZE", "BUFFER_GET_BASE", "FREE_BUFFER", "BUFFER_CLEAR", "SET_TENSOR"),
    *("SET_TENSOR_HASH", "GET_TENSOR", "COPY_TENSOR", "GRAPH_COMPUTE", "GET_DEVICE_MEMORY", "INIT_TENSOR"),
    *("GET_ALLOC_SIZE", "HELLO", "DEVICE_COUNT", "GRAPH_RECOMPUTE", "MEMSET_TENSOR"),
)
UNANSWERED = {
    *("FREE_BUFFER", "BUFFER_CLEAR", "SET_TENSOR", "GRAPH_COMPUTE", "INIT_TENSOR", "GRAPH_RECOMPUTE", "MEMSET_TENSOR")
}
COMPUTES = ("GRAPH_COMPUTE", "GRAPH_RECOMPUTE")


class RpcServer:
    """`darwin-neg rpc-server` on a free port, once it listens. before: words that start it, as of another network."""

    def __init__(self, *options: object, before: Sequence[str] = (), host: str = "127.0.0.1") -> None:
        words = [
            *before,
            sys.executable,
            "-m",
            "darwin_neg_cpp",
            "rpc-server",
            "--host",
            host,
            "--port",
            "0",
            "-t",
            "1",
        ]
        self.process = subprocess.Popen(
            [*words, *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if line == "Listening\n":
                break
        else:
            raise AssertionError(f"the server ended: {self.process.communicate()}")
        (endpoint,) = re.findall(r"endpoint +: (\S+)", "".join(lines))
        self.address: str = endpoint
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # or it would wait for a reader

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Ends it with a signal; returns its exit code and what it wrote as errors."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        code = self.process.wait(30)
        return code, self.process.stderr.read()

    def __enter__(self) -> RpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            _close(pipe)


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        pipe.close()


class Proxy:
    """Passes on what a program and a server say to each other, message by message, on an address of its own.

    watch(command) is called before each of the program's messages is passed on. It may sleep, and return "cut": both
    sides are hung up on; "half": so they are in the middle of the answer; "silent": nothing comes after half of it.
    """

    def __init__(self, target: str, watch: Callable[[str], str | None] = lambda _: None) -> None:
        self.target, self.watch = target, watch
        self.counts: dict[str, int] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                host, _, port = self.target.rpartition(":")
                server = socket.create_connection((host, int(port)))
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = receive(client, 9)
                number, size = struct.unpack("<BQ", head)
                command = COMMANDS[number]
                body = receive(client, size)
                self.counts[command] = self.counts.get(command, 0) + 1
                what = self.watch(command)
                if what == "cut":
                    return
                server.sendall(head + body)
                if command in UNANSWERED:
                    continue
                head = receive(server, 8)
                (size,) = struct.unpack("<Q", head)
                answer = head + receive(server, size)
                if what in ("half", "silent"):
                    client.sendall(answer[: 8 + size // 2])
                    if what == "silent":
                        receive(client, 1)  # until it hangs up
                    return
                client.sendall(answer)
        except OSError:
            pass
        finally:
            for side in (client, server):
                _hang_up(side)

    def close(self) -> None:
        for each in self._open:
            _hang_up(each)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def receive(sock: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = sock.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise ConnectionError
        parts += part
    return bytes(parts)


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


class At:
    """A watch of Proxy that does something at the n-th message of some kinds, counted from when `armed` is set."""

    def __init__(self, what: str, commands: Sequence[str] = COMPUTES, n: int = 1, armed: bool = False) -> None:
        self.what, self.commands, self.left, self.armed = what, commands, n, armed

    def __call__(self, command: str) -> str | None:
        if not self.armed or command not in self.commands:
            return None
        self.left -= 1
        return self.what if self.left == 0 else None


class Slow:
    """A watch of Proxy that passes every message on late."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.armed = seconds, False

    def __call__(self, _: str) -> None:
        if self.armed:
            time.sleep(self.seconds)
