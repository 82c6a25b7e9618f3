"""A server on loopback that speaks as llama-server does, says what a script says, and fails where it is told to.

What it says depends on the prompt and the seed alone: two servers agree, and a repeated request gets the same text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripted_sampler import letters

TEMPLATE = "{% scripted %}"
NEG = {"n_embd": 8, "threshold": 1.0, "top_k": 20, "temp_scale": 1.0, "source": "script", "action": "mask"}
Say = Callable[[str, int, float], list[str]]


def noisy(prompt: str, seed: int, temperature: float) -> list[str]:
    """A reasoning of some words, and a letter that the prompt offers."""
    key = prompt if temperature == 0 else f"{prompt}|{seed}"
    rng = random.Random(hashlib.sha256(key.encode()).digest())
    offered = letters(_Prompt(prompt))  # type: ignore[arg-type]
    return [*("word " for _ in range(rng.randrange(1, 12))), "\nAnswer: ", rng.choice(offered or "A")]


@dataclass
class _Prompt:
    prompt: str


@dataclass
class Completion:
    """A request for a completion. finished: how it ended: "", "whole", "left" (the client has gone), or its failure."""

    prompt: str
    body: dict[str, Any]
    begun: float
    finished: str = ""


@dataclass
class ScriptedServer:
    """Serves on a free port, or on `port`.

    say: the pieces of a text, one a token. pause: seconds before each. key: that is asked for. props: changes to what
    /props says; meta: to the model's. tail: what the template writes at the end.
    failures: of the next completions, in order, each used once: "503", "503 SECONDS" (Retry-After), "500", "400",
    "reset" (in the middle), "cut" (an end without the last event), "silent" (until let go), "hang" (one in the middle).
    health: "200", "silent" or "503". completions: all that were asked for.
    """

    slots: int = 2
    say: Say = noisy
    pause: float = 0.0
    key: str = ""
    neg: dict[str, Any] | None = field(default_factory=lambda: dict(NEG))
    props: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    tail: str = "<a>"
    failures: list[str] = field(default_factory=list)
    health: str = "200"
    port: int = 0
    tls: tuple[str, str] | None = None
    loading: int = 0  # answers of 503 to /props before it is ready
    completions: list[Completion] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> ScriptedServer:
        self.lock = threading.Lock()
        self.ending = threading.Lock()  # an answer is sent to its end and taken, or it is not
        self.let_go = threading.Event()
        self.running: set[int] = set()
        self.most_at_once = 0
        self._sockets: set[socket.socket] = set()
        self._killed = False

        class Handler(_Handler):
            script = self

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Ends it as kill -9 would: nobody listens any more, and every connection is reset."""
        if self._killed:
            return
        self._killed = True
        self.let_go.set()
        with self.ending:
            self._server.shutdown()
            self._server.server_close()
            with self.lock:
                sockets = list(self._sockets)
            for connected in sockets:
                reset(connected)

    def __exit__(self, *_: object) -> None:
        self.kill()

    def all_whole(self) -> list[Completion]:
        return [one for one in self.completions if one.finished == "whole"]


def reset(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connected.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connected.close()


class _Handler(BaseHTTPRequestHandler):
    script: ScriptedServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.script.lock:
            self.script._sockets.add(self.connection)

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()
        with self.script.lock:
            self.script._sockets.discard(self.connection)

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        script = self.script
        script.requests.append(self.path)
        self.close_connection = True
        if self.path == "/health":
            if script.health == "silent":
                script.let_go.wait(60)
            return self._send(200 if script.health == "200" else 503, {"status": "ok"})
        if not self._is_let_in():
            return None
        if self.path == "/props":
            if script.loading > 0:
                script.loading -= 1
                return self._send(503, _error("Loading model", "unavailable_error"))
            return self._send(200, self._props())
        if self.path == "/v1/models":
            meta = {"n_vocab": 300, "n_embd": 8, "n_params": 1000, "size": 4000, "ftype": "F32", **script.meta}
            return self._send(200, {"data": [{"id": "scripted", "meta": meta}]})
        return self._send(404, _error("File Not Found", "not_found_error"))

    def _props(self) -> dict[str, Any]:
        return {
            "default_generation_settings": {"params": {"lora": []}, "n_ctx": 4096},
            "total_slots": self.script.slots,
            "model_alias": "scripted",
            "model_path": "/models/scripted.gguf",
            "model_ftype": "F32",
            "chat_template": TEMPLATE,
            "build_info": "b1-script",
            "neg": self.script.neg,
            **self.script.props,
        }

    def do_POST(self) -> None:
        script = self.script
        script.requests.append(self.path)
        self.close_connection = True
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_let_in():
            return None
        if self.path == "/apply-template":
            return self._send(200, {"prompt": f"<u>{body['messages'][0]['content']}{script.tail}"})
        if self.path == "/tokenize":
            tokens = list(body["content"].encode())
            pieces = [{"id": token, "piece": [token] if token > 127 else chr(token)} for token in tokens]
            return self._send(200, {"tokens": pieces if body.get("with_pieces") else tokens})
        if self.path == "/detokenize":
            return self._send(200, {"content": bytes(body["tokens"]).decode("utf-8", "replace")})
        if self.path == "/completion":
            return self._complete(body)
        return self._send(404, _error("File Not Found", "not_found_error"))

    def _is_let_in(self) -> bool:
        if not self.script.key or self.headers.get("Authorization") == f"Bearer {self.script.key}":
            return True
        self._send(401, _error("Invalid API Key", "authentication_error"))
        return False

    def _complete(self, body: dict[str, Any]) -> None:
        script = self.script
        asked = Completion(bytes(body["prompt"]).decode(), body, time.monotonic())
        with script.lock:
            failure = script.failures.pop(0) if script.failures else ""
            script.completions.append(asked)
            script.running.add(id(asked))
            script.most_at_once = max(script.most_at_once, len(script.running))
        try:
            self._carry_out(asked, failure)
        except OSError:
            asked.finished = "left"
            raise
        finally:
            self._leave(asked)

    def _leave(self, asked: Completion) -> None:
        """Frees the place, before the client can know that it is free: it may ask for the next text at once."""
        with self.script.lock:
            self.script.running.discard(id(asked))

    def _carry_out(self, asked: Completion, failure: str) -> None:
        script = self.script
        asked.finished = failure
        if failure.startswith("503") or failure in ("500", "400"):
            self._leave(asked)
        if failure.startswith("503"):
            return self._send(503, _error("busy", "unavailable_error"), retry_after=failure.partition(" ")[2])
        if failure in ("500", "400"):
            return self._send(int(failure), _error("it is so", "server_error"))
        if failure == "silent":
            script.let_go.wait(60)
            return None
        pieces = script.say(asked.prompt, asked.body["seed"], asked.body["temperature"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._event({"content": "", "tokens": [0], "stop": False, "prompt_progress": {}, "tokens_predicted": 0,
                     "tokens_evaluated": len(asked.body["prompt"])})  # fmt: skip
        for number, piece in enumerate(pieces, 1):
            if script.pause:
                time.sleep(script.pause)
            if failure and number > len(pieces) // 2:
                if failure == "hang":
                    script.let_go.wait(60)
                self._leave(asked)
                if failure in ("reset", "hang"):
                    return reset(self.connection)
                return self._chunk(b"")  # "cut"
            self._event(self._partial(asked, number, piece))
        with script.ending:
            asked.finished = "whole"  # before the client can know
            self._leave(asked)
            self._event(self._final(asked, pieces))
            self._chunk(b"")
            self.connection.settimeout(5)
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # the client goes when it has read all
        return None

    def _partial(self, asked: Completion, number: int, piece: str) -> dict[str, Any]:
        event = {"content": piece, "tokens": [len(piece)], "stop": False, "tokens_predicted": number,
                 "tokens_evaluated": len(asked.body["prompt"])}  # fmt: skip
        return event if self.script.neg is None else {**event, "neg": {"entropy": 0.5, "active": False}}

    def _final(self, asked: Completion, pieces: list[str]) -> dict[str, Any]:
        event = {"content": "", "tokens": [], "stop": True, "stop_type": "eos", "tokens_predicted": len(pieces),
                 "tokens_evaluated": len(asked.body["prompt"])}  # fmt: skip
        if self.script.neg is None or not asked.body.get("return_neg"):
            return event
        neg = {"tokens": pieces, "entropy": [0.5] * len(pieces), "active": [False] * len(pieces)}
        return {**event, "neg": {**neg, "mean_entropy": 0.5, "activation_rate": 0.25}}

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, content: Any, *, retry_after: str = "") -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(data)


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "type": kind}}
