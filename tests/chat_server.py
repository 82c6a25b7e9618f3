"""A server that plays scripted chat answers in llama-server's form, beside the page's files.

It has no model, and can be slow, cut or wrong on demand."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import darwin_neg_cpp

FOLDER = Path(darwin_neg_cpp.__file__).parent / "data" / "serve"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
HEAD = {"threshold": 1.175, "top_k": 20, "temp_scale": 0.6, "source": "made up", "action": "mask"}

Stream = Iterable[bytes]
Token = tuple[str, str, float | None]  # "content", "reasoning" or "" (not shown), text, entropy


class Refused(Exception):
    def __init__(self, status: int, message: Any, **headers: str) -> None:
        self.status, self.message, self.headers = status, message, headers


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunk(delta: dict[str, Any], *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    choice |= {name: more.pop(name) for name in ("logprobs",) if name in more}
    return {"object": "chat.completion.chunk", "choices": [choice], **more}


def alternatives(text: str) -> list[dict[str, Any]]:
    others = [text, " perhaps", "<b>", "\u202eback", "\n"]
    return [{"token": one, "logprob": math.log(0.5 / 2**k)} for k, one in enumerate(others)]


def written(
    tokens: Iterable[Token],
    *,
    threshold: float = 1.175,
    head: bool = True,
    return_neg: bool = True,
    finish: str = "stop",
) -> Iterator[bytes]:
    """The stream of an answer of these tokens; a token that is not shown has no chunk of its own."""
    records = []
    yield event(chunk({"role": "assistant", "content": None}))
    for part, text, entropy in tokens:
        neg = {"entropy": entropy, "active": entropy is not None and entropy > threshold}
        records.append((text, neg))
        if not part:
            continue
        entry: dict[str, Any] = {"token": text, "logprob": math.log(0.5), "top_logprobs": alternatives(text)}
        more: dict[str, Any] = {"neg": neg} if head else {}
        name = "content" if part == "content" else "reasoning_content"
        yield event(chunk({name: text}, logprobs={"content": [entry | more]}, **more))
    last = chunk({}, finish=finish, timings={"predicted_per_second": 42.5})
    if head and return_neg:
        last["choices"][0]["neg"] = {
            "tokens": [text for text, _ in records],
            "entropy": [neg["entropy"] for _, neg in records],
            "active": [neg["active"] for _, neg in records],
        }
    yield event(last)
    yield event(b"[DONE]")


@dataclass
class ChatServer:
    """answer: makes the stream for a request's body, or raises Refused. key: the API key, where one is needed."""

    answer: Callable[[dict[str, Any]], Stream] = lambda body: written([("content", "Hello", 0.5)])
    head: dict[str, Any] | None = field(default_factory=lambda: dict(HEAD))
    key: str = ""
    loading: bool = False
    asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    broken_pipes: int = 0

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for method, _, _, body in self.asked if method == "POST"]

    def start(self) -> str:
        owner = self

        class Handler(_Handler):
            server_ = owner

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return f"http://127.0.0.1:{self._http.server_port}/"

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_: ChatServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._note({})
        path = FOLDER / (self.path.lstrip("/") or "index.html")
        if path.parent == FOLDER and path.is_file():
            self._send(200, path.read_bytes(), TYPES[path.suffix])
        elif self._let_in() and self.path == "/props":
            props = {"model_alias": "tiny<b>.gguf", "default_generation_settings": {"params": {"temperature": 0.8}}}
            self._json(200, props | ({"neg": self.server_.head} if self.server_.head else {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        if not self._let_in():
            return
        try:
            stream = self.server_.answer(body)
        except Refused as error:
            self._json(error.status, {"error": {"message": error.message}}, error.headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for part in stream:
                self.wfile.write(part)
                self.wfile.flush()
        except OSError:
            self.server_.broken_pipes += 1

    def _note(self, body: dict[str, Any]) -> None:
        self.server_.asked.append((self.command, self.path, dict(self.headers), body))

    def _let_in(self) -> bool:
        if self.server_.loading:
            self._json(503, {"error": {"message": "Loading model", "code": 503}})
        elif self.server_.key and self.headers["Authorization"] != f"Bearer {self.server_.key}":
            self._json(401, {"error": {"message": "Invalid API Key", "code": 401}})
        else:
            return True
        return False

    def _json(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(data).encode(), "application/json", headers)

    def _send(self, status: int, data: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
