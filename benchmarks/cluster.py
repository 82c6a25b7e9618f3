"""What a Ray cluster gives and costs, on the cores of this machine.

    python benchmarks/cluster.py [--model FILE | --tiny] [--rounds N] [--prompts N] [--tokens N] [--cheap N]

Throughput: the same prompts, greedy, --tokens each, answered through `darwin-neg batch`'s function by
  - two nodes with an engine of 1 thread and --places places each,
  - one node with an engine of 2 threads and twice the places,
  - an engine of 2 threads and twice the places in this process, without Ray.
They take turns; medians and ratios of the rounds. Timed is from when all engines are loaded to the last answer on disk.

Driver: --cheap prompts of one token each, with the tests' tiny model on two nodes, so that handing out, taking back
and writing are what takes time. `CPU` is the CPU time of the driver's process (all its threads, Ray's included) per
answer, `busy` the time in which it does not wait for nodes, and `flush` the part of that in which it waits for the
disk. One driver cannot take more than 1000 / busy answers a second. Needs the extra `ray`. --tiny uses the tiny model
for both, which shows only that the script works.

Load other than this script's distorts all of it: the load average at the start is printed, and should be near 0.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import darwin_neg_cpp
from darwin_neg_cpp import DarwinNEG, SamplingParams, demo_model
from darwin_neg_cpp.batch.batch import batch
from darwin_neg_cpp.batch.requests import Request, read_requests
from darwin_neg_cpp.batch.source import LocalSource, Source
from darwin_neg_cpp.cluster.batch import ClusterSource, look
from darwin_neg_cpp.cluster.connect import open_cluster
from darwin_neg_cpp.cluster.worker import Loading
from tiny_gguf import write_tiny_llama

Opened = contextlib.AbstractContextManager[Source]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF file (default: the demo model)")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--places", type=int, default=4, help="answers side by side in an engine of one thread")
    parser.add_argument("--cheap", type=int, default=1000, metavar="N", help="answers of one token")
    return parser.parse_args()


def make_requests(count: int, tokens: int) -> list[Request]:
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    lines = "".join(f'{{"id": {k}, "prompt": "Here is a list of {k + 2} things:"}}\n' for k in range(count))
    return read_requests(lines.encode(), "prompts", params=params)


@contextlib.contextmanager
def start_ray() -> Iterator[Any]:
    """A cluster whose head takes no work. Its processes find the package where this one has found it."""
    from ray.cluster_utils import Cluster

    paths = [str(Path(darwin_neg_cpp.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(PYTHONPATH=os.pathsep.join(paths), RAY_USAGE_STATS_ENABLED="0")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


@contextlib.contextmanager
def on_nodes(ray: Any, model: Path, nodes: int, threads: int, places: int) -> Iterator[ClusterSource]:
    """Engines on nodes of so many threads each, all of them loaded."""
    added = [ray.add_node(num_cpus=threads, object_store_memory=80 << 20) for _ in range(nodes)]
    options: Any = {"n_ctx": 512 * places, "n_parallel": places, "n_threads": threads}
    try:
        with open_cluster(ray.address, Loading(str(model), None, options, look)) as cluster:
            cluster.gather(nodes)
            yield ClusterSource(cluster)
    finally:
        for node in added:
            ray.remove_node(node)


@contextlib.contextmanager
def in_process(model: Path, threads: int, places: int) -> Iterator[Source]:
    with DarwinNEG(model, n_ctx=512 * places, n_parallel=places, n_threads=threads) as llm:
        yield LocalSource(llm)


def seconds(opened: Opened, requests: Sequence[Request], tokens: int) -> float:
    """From the first request to the last answer."""
    with opened as source, tempfile.TemporaryDirectory() as folder:
        batch(source, make_requests(2, tokens), Path(folder) / "warm.jsonl")
        begin = time.perf_counter()
        done = batch(source, requests, Path(folder) / "answers.jsonl")
        assert (done.total, done.failed) == (len(requests), 0)
        return time.perf_counter() - begin


def compare(ray: Any, model: Path, args: argparse.Namespace) -> None:
    requests = make_requests(args.prompts, args.tokens)
    variants: dict[str, Callable[[], Opened]] = {
        "2 workers of 1 thread": lambda: on_nodes(ray, model, 2, 1, args.places),
        "1 worker of 2 threads": lambda: on_nodes(ray, model, 1, 2, 2 * args.places),
        "2 threads without Ray": lambda: in_process(model, 2, 2 * args.places),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, opened in variants.items():
            found[name].append(args.prompts * args.tokens / seconds(opened(), requests, args.tokens))
    names = list(variants)
    for name in names:
        rates = " ".join(f"{rate:.1f}" for rate in found[name])
        print(f"{name}  {statistics.median(found[name]):8.1f} tokens/s  ({rates})")
    for one, other in ((names[0], names[1]), (names[1], names[2]), (names[0], names[2])):
        ratio = statistics.median(a / b for a, b in zip(found[one], found[other], strict=True))
        print(f"{one} / {other}: {ratio:.3f}")


def measure_driver(ray: Any, model: Path, count: int) -> None:
    requests = make_requests(count, 1)
    waited = flushed = 0.0

    def timed(function: Callable[..., Any], add: Callable[[float], None]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                add(time.perf_counter() - begin)

        return call

    def wait(amount: float) -> None:
        nonlocal waited
        waited += amount

    def flush(amount: float) -> None:
        nonlocal flushed
        flushed += amount

    with on_nodes(ray, model, 2, 1, 8) as source, tempfile.TemporaryDirectory() as folder:
        batch(source, make_requests(2, 1), Path(folder) / "warm.jsonl")
        client = source.cluster.ray
        real, sync = client.wait, os.fsync
        client.wait, os.fsync = timed(real, wait), timed(sync, flush)
        try:
            begin, cpu = time.perf_counter(), time.process_time()
            batch(source, requests, Path(folder) / "answers.jsonl")
            wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        finally:
            client.wait, os.fsync = real, sync
    each = 1000 / count
    print(
        f"driver, {count} answers of 1 token: {count / wall:.0f} a second; for each {cpu * each:.2f} ms CPU, "
        f"{(wall - waited) * each:.2f} ms busy, of which {flushed * each:.2f} ms flush"
    )


def main() -> None:
    args = parse()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    with tempfile.TemporaryDirectory() as folder, start_ray() as ray:
        tiny = write_tiny_llama(Path(folder) / "tiny.gguf")
        model = tiny if args.tiny else args.model or demo_model.model_path()
        print(f"{model.name}, {platform.machine()}, {os.cpu_count()} CPUs, {datetime.date.today()}, load {load}")
        compare(ray, model, args)
        measure_driver(ray, tiny, args.cheap)


if __name__ == "__main__":
    main()
