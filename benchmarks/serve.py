"""Compares `darwin-neg serve` with NEG on with llama-server of the same pin without the patch, over HTTP.

    python benchmarks/serve.py [--model FILE --side-car FILE] [--rounds N] [--clients 1,4] [--json FILE]

Same file, same options, same requests, at temperature 0.8: chats that are streamed, each with a prompt of its own that
is decoded whole. Both servers run, and take turns: in every round each answers the same requests, and who goes first
changes. llama-server is built from the pinned source at first use; DARWIN_NEG_STOCK_BIN names a folder that has it.

tokens/s: of all clients together, prompts included; the median over the rounds, and of the ratios too. Time to first
token: from sending a request to its first text; median and 95th percentile over all requests of all rounds. A ratio is
ours over stock's: above 1 is better for tokens/s, worse for times.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import math
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from darwin_neg_cpp import demo_model
from darwin_neg_cpp.files.usable_cpus import usable_cpus
from darwin_neg_cpp.server.serve import LAPTOP
from oracles import stock

OURS, STOCK = "ours, NEG on", "llama-server"
PROMPT = "Chapter {}. Tell a long story about an old sailor and his dog, and say how the two of them met. " * 2


@dataclass
class Measured:
    """What one server did with one number of clients."""

    per_second: list[float] = field(default_factory=list)  # of each round
    first: list[float] = field(default_factory=list)  # seconds, of each request


@contextlib.contextmanager
def running(command: Sequence[str], seconds: float = 300) -> Iterator[int]:
    """Yields the port of a server that has loaded its model."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + seconds
            while not healthy(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(f"{command[0]}: did not start:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()


def healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def check_head(port: int) -> None:
    """Raises SystemExit unless the server has a head, without which there would be nothing to compare."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/props")
        if not json.loads(connection.getresponse().read()).get("neg"):
            raise SystemExit("the server has no NEG head; check --side-car")
    finally:
        connection.close()


def ask(port: int, number: int, tokens: int) -> float:
    """Seconds to the first text of a streamed answer, which must have as many tokens as were asked for."""
    body = {
        "messages": [{"role": "user", "content": PROMPT.format(number, number)}],
        "max_tokens": tokens, "ignore_eos": True, "temperature": 0.8, "seed": number, "cache_prompt": False,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    begin, first, made = time.perf_counter(), math.nan, 0
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"port {port} answered {response.status}: {response.read().decode()}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            made = (event.get("usage") or {}).get("completion_tokens", made)
            if math.isnan(first) and any(has_text(choice["delta"]) for choice in event["choices"]):
                first = time.perf_counter() - begin
    finally:
        connection.close()
    if made != tokens or math.isnan(first):
        raise SystemExit(f"port {port} made {made} tokens, not {tokens}")
    return first


def has_text(delta: dict[str, str | None]) -> bool:
    return bool(delta.get("content") or delta.get("reasoning_content"))


def measure(port: int, clients: int, numbers: Sequence[int], tokens: int, into: Measured) -> None:
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        into.first += pool.map(lambda number: ask(port, number, tokens), numbers)
    into.per_second.append(len(numbers) * tokens / (time.perf_counter() - begin))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this share of all is not above."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def report(clients: int, found: dict[str, Measured]) -> None:
    ours, other = found[OURS], found[STOCK]
    ratio = statistics.median(a / b for a, b in zip(ours.per_second, other.per_second, strict=True))
    rows = [("tokens/s", statistics.median(other.per_second), statistics.median(ours.per_second), ratio)]
    for percent in (50, 95):
        a, b = percentile(ours.first, percent), percentile(other.first, percent)
        rows.append((f"first token p{percent}, s", b, a, a / b))
    for name, theirs, mine, share in rows:
        print(f"{clients:>2} clients  {name:<20} {theirs:10.3f} {mine:10.3f}   {share:.3f}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF without a head (default: the demo model)")
    parser.add_argument("--side-car", type=Path, help="its head")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--clients", default="1,4", metavar="N,N", help="at the same time")
    parser.add_argument("--threads", type=int, default=usable_cpus().count)
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    args = parser.parse_args()
    if (args.model is None) != (args.side_car is None):
        parser.error("--model and --side-car belong together")
    args.clients = [int(number) for number in args.clients.split(",")]
    return args


def main() -> None:
    args = parse()
    model, head = (args.model, args.side_car) if args.model else demo_model.model_and_head()
    slots = max(args.clients)
    options = ["-m", str(model), "-c", str(1024 * slots), "-t", str(args.threads)]
    ours = [sys.executable, "-m", "darwin_neg_cpp", "serve", *options, "--side-car", str(head)]
    other = [stock.server(), *options, "-np", str(slots), "--kv-unified", *LAPTOP]
    print(
        f"{model.name}, {platform.machine()}, {args.threads} threads, {datetime.date.today()}, {args.rounds} rounds, "
        f"{args.requests} requests a client, {args.tokens} tokens each, load {os.getloadavg()[0]:.1f}\n"
        f"{'':<32} {STOCK:>10} {'ours':>10}   ratio",
        flush=True,
    )
    found = {clients: {OURS: Measured(), STOCK: Measured()} for clients in args.clients}
    with running([*ours, "--n-parallel", str(slots)]) as port, running(other) as stock_port:
        check_head(port)
        turns = [(OURS, port), (STOCK, stock_port)]
        for _, each in turns:  # to warm up
            measure(each, slots, range(slots), args.tokens, Measured())
        for i in range(args.rounds):
            for clients, by_name in found.items():
                numbers = range(1000 * (i + 1), 1000 * (i + 1) + clients * args.requests)
                for name, each in turns if i % 2 == 0 else turns[::-1]:
                    measure(each, clients, numbers, args.tokens, by_name[name])
            if args.json:
                args.json.write_text(json.dumps(found, default=vars, indent=1), "utf-8")
    for clients, by_name in found.items():
        report(clients, by_name)


if __name__ == "__main__":
    main()
