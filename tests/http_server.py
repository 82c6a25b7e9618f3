"""A server of the project, for tests: starts it on a free port with a tiny model, speaks HTTP to it, and ends it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from darwin_neg_cpp.neg import files as neg_files
from oracles import neg_reference
from tiny_gguf import HIDDEN, write_tiny_llama
from tiny_hybrid import write_tiny_hybrid

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
EXACT = ("-ctk", "f32", "-ctv", "f32", "-fa", "off")  # flash attention computes in half precision
ENDED = 128 + 15  # as a shell writes SIGTERM
SMALL = ("--no-warmup", "-t", "1", "-tb", "1", "--no-ui", "--seed", "1", *EXACT)


@dataclass(frozen=True)
class Models:
    """neg: attention only, with a head. base: the same without. side_car: that head alone. endless: with a head whose
    prediction is infinite. hybrid: a recurrent state, a block that drafts, a head."""

    neg: Path
    base: Path
    side_car: Path
    endless: Path
    hybrid: Path


def write_models(folder: Path) -> Models:
    """Models of a few hundred kilobytes that a server can run."""
    base = write_tiny_llama(folder / "base.gguf", chat_template=TEMPLATE)
    head = folder / "neg_modules.safetensors"
    tensors = neg_reference.random_released_head(head, HIDDEN, seed=3, threshold=1.0)
    neg_files.attach(base, head, folder / "neg.gguf")
    neg_files.write_side_car(head, base, folder / "side-car.gguf")
    endless = folder / "endless.safetensors"
    tensors["head.proj_down.bias"] = np.full_like(tensors["head.proj_down.bias"], 10)
    tensors["head.proj_out.weight"] = np.full_like(tensors["head.proj_out.weight"], 3e38)
    neg_reference.save_file(tensors, endless)
    neg_files.attach(base, endless, folder / "endless.gguf")
    hybrid = write_tiny_hybrid(folder / "hybrid.gguf")
    return Models(folder / "neg.gguf", base, folder / "side-car.gguf", folder / "endless.gguf", hybrid)


RAW = ("serve", "--raw")


def command(*options: object, verb: tuple[str, ...] = RAW) -> list[str]:
    """What starts the server. DARWIN_NEG_SERVER_BIN names an llama-server that takes the place of the package's own."""
    if (binary := os.environ.get("DARWIN_NEG_SERVER_BIN")) and verb == RAW:
        return [binary, *map(str, options)]
    return [sys.executable, "-m", "darwin_neg_cpp", *verb, *map(str, options)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Answer:
    """status, headers (names in lower case) and the body, as text and as JSON where it is that."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text, parse_constant=refuse)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


def refuse(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


class Server:
    def __init__(self, *options: object, seconds: float = 120, verb: tuple[str, ...] = RAW) -> None:
        self.port = free_port()
        end_of_own = options.index("--") if "--" in options else len(options)
        verb_options, more = options[:end_of_own], options[end_of_own:]
        self.log = Path(tempfile.mkstemp(prefix="serve-", suffix=".log")[1])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command(*verb_options, "--port", self.port, *more, verb=verb), stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + seconds
        while True:
            try:
                if self.get("/health").status == 200:
                    return
            except OSError:
                pass
            ended = self.process.poll() is not None
            if ended or time.monotonic() > end:
                self.close()
                raise AssertionError(f"the server {'ended' if ended else 'did not start'}:\n{self.log.read_text()}")
            time.sleep(0.05)

    def connect(self, timeout: float = 120) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path: str) -> Answer:
        return self._ask("GET", path)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """body: an object, or a text that is sent as it is."""
        return self._ask("POST", path, body if isinstance(body, (str, bytes)) else json.dumps(body), headers)

    def ok(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of an answer that must be a good one."""
        answer = self.post(path, body)
        assert answer.status == 200, answer.text
        return answer.json

    def stream(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """The data of every event of a streamed answer that must be a good one."""
        with self.opened(path, {**body, "stream": True}) as response:
            assert response.status == 200, response.read()
            return list(events(response))

    @contextmanager
    def opened(self, path: str, body: Mapping[str, Any], timeout: float = 120) -> Iterator[http.client.HTTPResponse]:
        """An answer that has begun. Whoever leaves before its end has hung up."""
        connection = self.connect(timeout)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            yield connection.getresponse()
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics").text.splitlines() if line and not line.startswith("#")]
        return {line.split()[0].removeprefix("llamacpp:"): float(line.split()[1]) for line in lines}

    def close(self) -> int:
        """Ends it and returns its exit code, which is 0, or ENDED of a program that tells what ended it."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] = {}) -> Answer:
        connection = self.connect()
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read().decode(),
            )
        finally:
            connection.close()


def events(response: http.client.HTTPResponse) -> Iterator[Any]:
    for raw in response:
        line = raw.decode().rstrip("\n")
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "), parse_constant=refuse)
