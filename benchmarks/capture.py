"""Compares capture (hidden states and true entropies of given texts) with llama-bench's prompt processing.

    python benchmarks/capture.py [--model FILE] [--rounds N]

Both use the same pin and the same file; interleaved rounds, medians. llama-bench (-p 512 -n 0) computes the LM head for
the last token of a prompt, capture for every token, and the entropy of each distribution in addition. `ceiling` is the
share of capture's multiplications by weights that llama-bench does.
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

import numpy as np

from darwin_neg_cpp import DarwinNEG, demo_model
from darwin_neg_cpp.gguf_file.header import read_header
from oracles import stock

LENGTH = 512


def bench(binary: str, model: Path, threads: int) -> float:
    """Prompt tokens per second of llama-bench."""
    command = [binary, "-m", str(model), "-p", str(LENGTH), "-n", "0", "-r", "3", "-t", str(threads), "-o", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout)[0]["avg_ts"])


def capture(model: Path, threads: int, tokens: int) -> float:
    """Tokens per second in a process of its own, as llama-bench runs in one; loading is not counted by either."""
    command = [sys.executable, __file__, "--capture", str(model), "--threads", str(threads), "--tokens", str(tokens)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_capture(model: Path, threads: int, tokens: int) -> float:
    with DarwinNEG(model, n_ctx=LENGTH, n_parallel=1, n_threads=threads) as llm:
        ids = np.random.default_rng(0).integers(0, llm.info["n_vocab"], (tokens // LENGTH, LENGTH)).tolist()
        for _ in llm.score_many(ids[:1], hidden=True):
            pass
        begin = time.perf_counter()
        for _ in llm.score_many(ids, hidden=True):
            pass
        return len(ids) * LENGTH / (time.perf_counter() - begin)


def ceiling(model: Path) -> float:
    tensors = read_header(model).tensors
    head = tensors.get("output.weight", tensors["token_embd.weight"])
    n_head = head.shape[0] * head.shape[1]
    body = sum(t.shape[0] * t.shape[1] for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) == 2)
    return body / (body + n_head)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--capture", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.capture:
        print(run_capture(args.capture, args.threads, args.tokens))
        return
    model = args.model or demo_model.model_path()
    binary = stock.binaries()["llama-bench"]
    print(f"{model.name}, {platform.machine()}, {args.threads} threads, {datetime.date.today()}, {args.rounds} rounds")
    theirs, ours = [], []
    for _ in range(args.rounds):
        theirs.append(bench(binary, model, args.threads))
        ours.append(capture(model, args.threads, args.tokens))
    reference, speed = statistics.median(theirs), statistics.median(ours)
    print(f"llama-bench pp{LENGTH}  {reference:7.1f} tokens/s")
    print(f"capture           {speed:7.1f} tokens/s  {speed / reference:.2f} of it (ceiling {ceiling(model):.2f})")


if __name__ == "__main__":
    main()
