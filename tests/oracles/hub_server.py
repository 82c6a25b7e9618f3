"""A hub on loopback: a real HTTP server with the endpoints that huggingface_hub downloads a repository through."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAIN = ("main", COMMIT)


@dataclass
class Hub:
    """Serves `folder` as the repository `repo`, of models or of data.

    token: required as the bearer token. gated: refused although the token is right. cut: file name -> how often its
    download breaks off in the middle. silent: names of files that are never sent; "HEAD NAME": the question about a
    file; "tree": the list of them. stalled: names of files of which half is sent, and then nothing. storage: address of
    the storage that files named *.xet are in. requests: (method, path, Range header or "", bearer or "") of every
    request.
    """

    repo: str
    folder: Path
    kind: Literal["models", "datasets"] = "models"
    token: str = ""
    gated: bool = False
    cut: dict[str, int] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    storage: str = ""
    requests: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __enter__(self) -> Hub:
        hub = self
        self.closed = threading.Event()

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def asked_for(self, name: str, method: str = "GET") -> list[str]:
        """The Range headers of the downloads of one file."""
        return [r for m, path, r, _ in self.requests if m == method and path.endswith("/" + name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        text = json.dumps({"error": code or "no"}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if code or message:
            self.send_header("X-Error-Message", message or code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    def _answer(self, *, body: bool) -> None:
        hub = self.hub
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        path = self.path.partition("?")[0]
        if hub.storage and path == "/token":
            return self._send_token()
        hub.requests.append((self.command, path, self.headers.get("Range") or "", bearer))
        prefix = "" if hub.kind == "models" else "/datasets"
        api = re.fullmatch(rf"/api/{hub.kind}/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(rf"{prefix}/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        if found is None or found[1] != hub.repo:
            return self._refuse(404, "RepoNotFound")
        if hub.token and bearer != hub.token:
            if bearer:
                return self._refuse(401, "", "Invalid credentials in Authorization header")
            return self._refuse(401, "RepoNotFound")
        if (api[3] if api else file[2]) not in MAIN:  # type: ignore[index]
            return self._refuse(404, "RevisionNotFound")
        if (api[2] if api else f"HEAD {file[3]}" if not body else "") in hub.silent:  # type: ignore[index]
            hub.closed.wait(60)
            return None
        if api:
            return self._list(tree=api[2] == "tree")
        if hub.gated:
            return self._refuse(403, "GatedRepo")
        return self._send(file[3], body)  # type: ignore[index]

    def _list(self, *, tree: bool) -> None:
        names = sorted(p.relative_to(self.hub.folder).as_posix() for p in self.hub.folder.rglob("*") if p.is_file())
        answer: Any = {"id": self.hub.repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        if tree:
            size = {name: (self.hub.folder / name).stat().st_size for name in names}
            answer = [{"type": "file", "path": name, "size": size[name], "oid": "0"} for name in names]
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _send_token(self) -> None:
        self.send_response(200)
        self.send_header("X-Xet-Cas-Url", self.hub.storage)
        self.send_header("X-Xet-Access-Token", "token")
        self.send_header("X-Xet-Token-Expiration", "4102444800")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, name: str, body: bool) -> None:
        path = self.hub.folder / name
        if not path.is_file():
            return self._refuse(404, "EntryNotFound")
        data = path.read_bytes()
        begin, end = 0, len(data)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match:
            begin, end = int(match[1]), min(int(match[2] or end) + 1, end)
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if self.hub.storage and name.endswith(".xet"):
            self.send_header("X-Xet-Hash", hashlib.sha256(data).hexdigest())
            self.send_header("X-Xet-Refresh-Route", f"{self.hub.url}/token")
        data = data[begin:end]
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return None
        if name in self.hub.silent:
            self.wfile.flush()
            self.hub.closed.wait(60)
            return None
        if name in self.hub.stalled:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.hub.closed.wait(60)
            return None
        if self.hub.cut.get(name, 0) > 0:
            self.hub.cut[name] -= 1
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(data)
        return None
