"""A server that is asked for too much: a bounded queue, clients that leave, wrong bodies, and a crowd of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from http_server import SMALL, Server
from waiting import wait_until

# of load that is measured, after a third of it to warm up; ten minutes with 600
SECONDS = float(os.environ.get("DARWIN_NEG_LOAD_SECONDS", "60"))
GROWTH = 2 * 1024  # kB of anonymous memory per 2,000 requests
ENDLESS = {"prompt": "hello", "n_predict": -1, "ignore_eos": True, "cache_prompt": False}


def busy(server: Server) -> int:
    return sum(slot["is_processing"] for slot in server.get("/slots").json)


def waiting(server: Server) -> int:
    return int(server.metrics()["requests_deferred"])


@pytest.fixture
def small_queue(server_models) -> Iterator[Server]:
    options = ("-m", server_models.neg, "-c", 512, "-np", 1, "--max-queue", 2, "--context-shift", "--metrics")
    with Server(*SMALL, *options) as server:
        yield server


def test_full_queue_is_503_with_retry_after_until_a_client_leaves(small_queue: Server) -> None:
    server = small_queue
    with contextlib.ExitStack() as running, contextlib.ExitStack() as queued:
        assert next(iter(running.enter_context(server.opened("/completion", {**ENDLESS, "stream": True}))))
        connections = []
        for _ in range(2):
            connection = server.connect()
            queued.callback(connection.close)
            connection.request("POST", "/completion", json.dumps({**ENDLESS, "stream": True}))
            connections.append(connection)
        wait_until(lambda: waiting(server) == 2)
        for path, body in (
            ("/completion", {"prompt": "x"}),
            ("/completion", {"prompt": "x", "stream": True}),
            ("/v1/completions", {"prompt": "x"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/v1/responses", {"input": "x"}),
            ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}),
        ):
            answer = server.post(path, body)
            assert answer.status == 503 and int(answer.headers["retry-after"]) >= 1, answer.text
            assert answer.json["error"]["type"] == "unavailable_error" and "--max-queue" in answer.message
        assert server.post("/completion", {"prompt": "x", "neg": 5}).status == 400  # never a matter of the queue
        assert server.get("/health").status == 200 and waiting(server) == 2
        connections[0].close()
        wait_until(lambda: server.post("/tokenize", {"content": "x"}).status == 200 and waiting(server) == 1)
        third = server.connect()
        queued.callback(third.close)
        third.request("POST", "/completion", json.dumps({**ENDLESS, "stream": True}))
        wait_until(lambda: waiting(server) == 2)
        assert server.post("/completion", {"prompt": "x"}).status == 503
    wait_until(lambda: busy(server) == 0 and waiting(server) == 0)
    assert server.ok("/completion", {"prompt": "x", "n_predict": 2})["tokens_predicted"] == 2


def test_queue_of_none_takes_what_a_slot_is_free_for(server_models) -> None:
    with Server(*SMALL, "-m", server_models.neg, "-c", 1024, "-np", 2, "--max-queue", 0, "--context-shift") as server:
        for k in range(100):  # one after another: the place of the last is free when its answer has come
            assert server.ok("/completion", {"prompt": "x", "n_predict": 1 + k % 2, "n": 2})
            assert server.stream("/completion", {"prompt": "x", "n_predict": 1, "n": 2})
        many = server.ok("/completion", {"prompt": ["a", "b", "c", "d", "e"], "n_predict": 2})  # nothing else is there
        assert len(many) == 5
        with server.opened("/completion", {**ENDLESS, "stream": True}) as first:
            assert next(iter(first))
            assert server.post("/completion", {"prompt": "x", "n_predict": 2, "n": 2}).status == 503
            assert server.post("/completion", {"prompt": "x", "n_predict": 2}).status == 200


def test_a_client_that_leaves_frees_its_slot(server_models) -> None:
    with Server(*SMALL, "-m", server_models.neg, "-c", 1024, "-np", 2, "--context-shift") as server:
        for stream in (True, False):
            connection = server.connect()
            connection.request("POST", "/completion", json.dumps({**ENDLESS, "stream": stream}))
            wait_until(lambda: busy(server) == 1)
            connection.close()
            wait_until(lambda: busy(server) == 0)


DEEP = 100_000
BODIES: dict[str, tuple[str | bytes, int]] = {
    "one byte": ("x", 400),
    "one bracket": ("{", 400),
    "nothing": ("", 400),
    "no object": ("[]", 400),
    "a number": ("1", 400),
    "null": ("null", 400),
    "broken characters": (b'{"prompt": "\xff\xfe"}', 400),
    "deep arrays": ("[" * DEEP, 400),
    "deep arrays that close": ("[" * DEEP + "]" * DEEP, 400),
    "deep objects": ('{"a":' * DEEP + "1" + "}" * DEEP, 400),
    "a deep prompt": ('{"prompt": ' + "[" * DEEP + "]" * DEEP + "}", 400),
    "a deep neg": ('{"prompt": "x", "n_predict": 1, "neg": ' + "[" * DEEP + "]" * DEEP + "}", 400),
    "a deep unknown field": ('{"prompt": "x", "other": ' + '{"a":' * DEEP + "1" + "}" * DEEP + "}", 400),
    "brackets in a text": (json.dumps({"prompt": "x", "n_predict": 1, "other": '[{\\"' * DEEP}), 200),
    "many shallow arrays": (json.dumps({"prompt": "x", "n_predict": 1, "other": [[]] * DEEP}), 200),
    "99 MiB": (json.dumps({"prompt": "x", "n_predict": 1, "other": "x" * (99 << 20)}), 200),
    "over the limit": (json.dumps({"prompt": "x", "n_predict": 1, "other": "x" * (101 << 20)}), 413),
}


GRAMMARS = {
    "deep groups": "root ::= " + "(" * DEEP,
    "deep groups that close": "root ::= " + "(" * DEEP + '"a"' + ")" * DEEP,
    "deep behind a class": 'root ::= ["] ' + "(" * DEEP,
    "a chain of rules": "root ::= r0\n" + "".join(f"r{k} ::= r{k + 1}\n" for k in range(DEEP)) + f'r{DEEP} ::= "a"\n',
}


@pytest.mark.parametrize("name", GRAMMARS)
def test_a_grammar_that_would_exhaust_the_stack_is_refused(server: Server, name: str) -> None:
    answer = server.post("/completion", {"prompt": "x", "n_predict": 1, "grammar": GRAMMARS[name]})
    assert answer.status == 400, answer.text[:500]
    assert server.ok("/completion", {"prompt": "x", "n_predict": 1, "grammar": 'root ::= "(((" [[(\\]]+'})


@pytest.fixture(scope="module")
def server(start_server, server_models) -> Server:
    return start_server("-m", server_models.neg, "-c", 2048, "-np", 4, "--metrics", "--grammar", "root ::= [a-z ]+")


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_wrong_are_the_clients_error(server: Server, name: str) -> None:
    body, status = BODIES[name]
    answer = server.post("/completion", body)
    assert answer.status == status, answer.text[:500]
    if status == 400:
        assert answer.json["error"]["type"] == "invalid_request_error"
    assert server.ok("/completion", {"prompt": "x", "n_predict": 1})


PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize")


@pytest.mark.parametrize("path", PATHS)
def test_deep_json_is_refused_everywhere(server: Server, path: str) -> None:
    for body in ("[" * DEEP, '{"messages": ' + "[" * DEEP + "]" * DEEP + "}", '{"a":' * DEEP + "1" + "}" * DEEP):
        answer = server.post(path, body)
        assert answer.status == 400 and len(answer.text) < 500, answer.text[:500]


@pytest.mark.parametrize("key", ["right-key-wxyz", "wxy"])
def test_wrong_key_is_401_and_no_key_is_logged(server_models, key: str) -> None:
    with Server(*SMALL, "-m", server_models.neg, "-c", 512, "-np", 1, "--api-key", key, "-v") as server:
        body = {"prompt": "x", "n_predict": 1}
        assert server.post("/completion", body).status == 401
        assert server.post("/completion", body, Authorization="Bearer wrong-key-5678").status == 401
        assert server.post("/completion", body, **{"X-Api-Key": "wrong-key-5678"}).status == 401
        assert server.post("/completion", body, Authorization=f"Bearer {key}").status == 200
        assert server.post("/completion", body, **{"X-Api-Key": key}).status == 200
        log = server.log.read_text(errors="replace")
    assert "all slots are idle" in log and "api_keys: 1 keys loaded" in log
    assert "right-key" not in log and "wrong-key" not in log and "wxy" not in log, "nor its last characters"


CLIENTS = 32
MESSAGES = [{"role": "user", "content": "hi"}]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/completion", {"prompt": "hello", "n_predict": 8, "return_neg": True}),
    ("/completion", {"prompt": "a much longer beginning than the other " * 3, "n_predict": 4, "neg": {"threshold": 0}}),
    ("/v1/completions", {"prompt": "hello", "max_tokens": 8, "neg": False, "n_probs": 3}),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 8, "neg": {"action": "sample"}}),
    ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 6, "n": 2, "return_neg": True}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 8, "return_neg": True}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 8, "return_neg": True}),
]


class Crowd:
    """Clients that ask one thing after another until `end`. Some leave early, some send broken JSON."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.seed = server, seed
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lock = threading.Lock()

    def run(self, seconds: float) -> int:
        self.end = time.monotonic() + seconds
        threads = [threading.Thread(target=self._client, args=(self.seed + k,)) for k in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.faults == []
        return sum(self.counts.values())

    def _client(self, seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            path, body = rng.choice(REQUESTS)
            body = {**body, "stream": rng.random() < 0.5, "temperature": 1.0, "seed": rng.randrange(1000)}
            kind = rng.choices(["good", "leaves", "broken"], [85, 10, 5])[0]
            try:
                fault = self._ask(kind, path, body, rng)
            except (OSError, http.client.HTTPException) as error:
                fault = f"{kind} {path}: {error!r}"
            with self.lock:
                self.counts[kind] += 1
                if fault:
                    self.faults.append(fault)

    def _ask(self, kind: str, path: str, body: dict[str, Any], rng: random.Random) -> str:
        connection = self.server.connect(60)
        try:
            text = json.dumps(body)
            connection.request("POST", path, text[:-7] if kind == "broken" else text)
            if kind == "leaves":
                time.sleep(rng.random() * 0.05)
                return ""
            response = connection.getresponse()
            read = response.read().decode()
            wanted = 400 if kind == "broken" else 200
            whole = kind == "broken" or (
                len(read) > 20 and ":NaN" not in read and ",NaN" not in read and '"error"' not in read
            )
            return "" if response.status == wanted and whole else f"{kind} {path}: {response.status} {read[:200]}"
        finally:
            connection.close()


def anonymous_memory(server: Server) -> int:
    """kB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))


def test_a_crowd_leaves_no_slot_busy_and_no_memory_behind(server_models) -> None:
    options = (
        "-m",
        server_models.neg,
        "-c",
        2048,
        "-np",
        4,
        "--metrics",
        "--grammar",
        "root ::= [a-z ]+",
        "--cache-ram",
        0,
    )
    with Server(*SMALL, *options) as server:
        Crowd(server, 0).run(SECONDS / 3)
        wait_until(lambda: busy(server) == 0 and waiting(server) == 0)
        before = anonymous_memory(server)
        crowd = Crowd(server, 1000)
        requests = crowd.run(SECONDS)
        wait_until(lambda: busy(server) == 0 and waiting(server) == 0)
        grown = anonymous_memory(server) - before
        assert min(crowd.counts[kind] for kind in ("good", "leaves", "broken")) > 0
        assert grown <= GROWTH * max(requests / 2000, 1), f"{grown} kB after {requests} requests"
        assert server.ok("/completion", {"prompt": "x", "n_predict": 1})
