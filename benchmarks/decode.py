"""Compares decoding with NEG with stock llama.cpp, and n samples in one call with n calls.

    python benchmarks/decode.py [--model FILE] [--rounds N] [--tokens N]

Same pin, same file; interleaved rounds, medians, ratios. Stock is llama-batched-bench of the unpatched tree (built into
the cache on first use): it decodes the same number of tokens per sequence and does not sample. `same tool, NEG on` is
the patched tree's llama-batched-bench on the file with a head: the price of evaluating the head. `engine` is the whole
path through this package, greedy: sampling, text and Python included.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from darwin_neg_cpp import DarwinNEG, demo_model
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head
from oracles import stock

PROMPT_TOKENS = 32
REPEATS = 3  # in each process; the median counts


def stock_speed(binary: str, model: Path, batch: int, tokens: int, threads: int) -> float:
    """Generated tokens per second of llama-batched-bench."""
    command = [
        binary,
        "-m",
        str(model),
        "-c",
        "4096",
        "-b",
        "512",
        "-ub",
        "512",
        "-npp",
        str(PROMPT_TOKENS),
        "-ntg",
        str(tokens),
    ]
    command += [
        "-npl",
        ",".join([str(batch)] * REPEATS),
        "-t",
        str(threads),
        "-tb",
        str(threads),
        "-kvu",
        "--output-format",
        "jsonl",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return statistics.median(float(line["speed_tg"]) for line in lines)


def engine_speed(model: Path, batch: int, tokens: int) -> float:
    """Measures tokens per second of this package, from the end of the prompts to the last token.

    It runs in a process of its own, as stock does.

    Two engines in one process would each keep a team of OpenMP threads spinning on the same cores.
    """
    command = [sys.executable, __file__, "--engine", str(model), "--batches", str(batch), "--tokens", str(tokens)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout)


def run_engine(model: Path, batch: int, tokens: int) -> float:
    with DarwinNEG(model, n_ctx=4096, n_parallel=batch, prefix_cache=0) as llm:
        prompt = [[*llm.tokenize("word " * (PROMPT_TOKENS - 2)), 100 + i] for i in range(batch)]
        rates = []
        for _ in range(REPEATS):
            results = llm.generate(prompt, temperature=0.0, max_tokens=tokens, ignore_eos=True)
            rates.append(batch * (tokens - 1) / max(result.generate_seconds for result in results))
        return statistics.median(rates)


def sixteen(llm: DarwinNEG, tokens: int) -> tuple[float, float]:
    """Seconds of 16 samples in one call, and of 16 calls one after another."""
    prompt = "Write a short story about a lighthouse keeper who finds a message in a bottle. " * 8
    options = {"temperature": 1.0, "max_tokens": tokens, "ignore_eos": True, "seed": 1}
    begin = time.perf_counter()
    llm.generate(prompt, n=16, **options)
    middle = time.perf_counter()
    for _ in range(16):
        llm.generate(prompt, **options)
    return middle - begin, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF without a head (default: the demo model)")
    parser.add_argument(
        "--patched-bin",
        type=Path,
        help="folder with llama-batched-bench of the patched tree (-DDARWIN_NEG_BUILD_TOOLS=ON)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        print(run_engine(args.engine, int(args.batches), args.tokens))
        return
    base = args.model or demo_model.model_path()
    with_head = base.with_name(base.stem + "-bench-neg.gguf")
    head = random_head(neg_files.hidden_size(read_header(base)), 0)
    neg_files.attach(base, head, with_head, force=True)
    binary = stock.binaries()["llama-batched-bench"]
    with DarwinNEG(base, n_ctx=512, n_parallel=1, prefix_cache=0) as llm:
        threads = int(llm.info["n_threads"])
    print(
        f"{base.name}, {platform.machine()}, {threads} threads, {datetime.date.today()}, {args.rounds} rounds, "
        f"{args.tokens} tokens"
    )
    try:
        for batch in map(int, args.batches.split(",")):
            speeds: dict[str, list[float]] = {}
            for _ in range(args.rounds):
                speeds.setdefault("stock", []).append(stock_speed(binary, base, batch, args.tokens, threads))
                if args.patched_bin:
                    patched = str(args.patched_bin / "llama-batched-bench")
                    speeds.setdefault("same tool, NEG on", []).append(
                        stock_speed(patched, with_head, batch, args.tokens, threads)
                    )
                speeds.setdefault("engine, no head", []).append(engine_speed(base, batch, args.tokens))
                speeds.setdefault("engine, NEG on", []).append(engine_speed(with_head, batch, args.tokens))
            reference = statistics.median(speeds["stock"])
            for name, values in speeds.items():
                median = statistics.median(values)
                print(
                    f"batch {batch:>2}  {name:<18} {median:8.1f} tokens/s  {median / reference:.3f} of stock",
                    flush=True,
                )
        with DarwinNEG(with_head, n_ctx=4096, n_parallel=16, prefix_cache=0) as llm:
            pairs = [sixteen(llm, args.tokens) for _ in range(max(1, args.rounds // 2))]
        one, many = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"16 samples: one call {one:.2f} s, 16 calls {many:.2f} s, {many / one:.2f}x")
    finally:
        with_head.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
