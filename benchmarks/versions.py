"""Two installations of this package side by side: speed of decoding and of prompts, and the time that the import takes.

    python benchmarks/versions.py BEFORE/bin/python AFTER/bin/python

Each figure comes from a process of its own; the two take turns, so that both see the same machine. Ratios are after /
before: above 1 is faster for tokens, slower for the import. Besides two versions they may be a build for this machine
and the wheel for every CPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

IMPORT = "import time; t = time.perf_counter(); import darwin_neg_cpp; print(time.perf_counter() - t)"

# only what both versions have; the model is the demo's, under whichever name its module has
START = """
import sys, time
try:
    from darwin_neg_cpp import demo_model as demo
except ImportError:
    from darwin_neg_cpp import demo
from darwin_neg_cpp import DarwinNEG
model, head = demo.model_and_head()
"""

DECODE = (
    START
    + """
n, tokens = int(sys.argv[1]), int(sys.argv[2])
with DarwinNEG(model, head, n_ctx=4096, n_parallel=n) as llm:
    options = {"n": n, "temperature": 0.8, "seed": 1, "ignore_eos": True}
    llm.generate("Once upon a time", max_tokens=2, **options)
    start = time.perf_counter()
    llm.generate("Once upon a time", max_tokens=tokens, **options)
    print(n * tokens / (time.perf_counter() - start))
"""
)

PROMPT = (
    START
    + """
with DarwinNEG(model, head, n_ctx=2048, n_parallel=1) as llm:
    llm.generate("Once upon a time", max_tokens=1)
    prompt = llm.tokenize("The keeper of the lighthouse wrote down every ship that passed. " * 200)[: int(sys.argv[1])]
    start = time.perf_counter()
    llm.generate(prompt, max_tokens=1)
    print(len(prompt) / (time.perf_counter() - start))
"""
)


def measure(python: str, code: str, *arguments: int) -> float:
    """Runs `code` in a process of its own and returns the number that it prints."""
    command = [python, "-c", code, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(name: str, before: str, after: str, rounds: int, code: str, *arguments: int) -> None:
    """Prints the medians of both and the median of their ratios, taken round by round."""
    old, new = [], []
    for i in range(rounds):
        # whoever goes first has the colder caches
        for python, figures in ((before, old), (after, new)) if i % 2 == 0 else ((after, new), (before, old)):
            figures.append(measure(python, code, *arguments))
    ratio = statistics.median(b / a for a, b in zip(old, new, strict=True))
    print(f"{name:<22} {statistics.median(old):10.3f} {statistics.median(new):10.3f}   {ratio:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", help="Python interpreter of the one installation")
    parser.add_argument("after", help="of the other")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=96, help="per sequence")
    args = parser.parse_args()
    print(f"{'':<22} {'before':>10} {'after':>10}   after / before")
    for batch in (1, 16):
        name = f"tokens/s, batch {batch}"
        compare(name, args.before, args.after, args.rounds, DECODE, batch, args.tokens)
    compare("prompt tokens/s", args.before, args.after, args.rounds, PROMPT, 1024)
    compare("import, seconds", args.before, args.after, max(args.rounds, 5), IMPORT)


if __name__ == "__main__":
    sys.exit(main())
