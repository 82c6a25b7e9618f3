"""What drafts of a multi-token-prediction block bring: python benchmarks/drafts.py MODEL [--mtp N] [--temperature T,T]

MODEL is a Qwen3.5 GGUF with its block, such as `benchmarks/random_qwen35.py OUT.gguf --mtp` makes. One engine with
drafts and one without take turns at the same requests, at batch 1; medians of the rounds. At each temperature: tokens
per second, their ratio, and the share of drafts that were right, by their place in the draft. Before that, what a
decode of 1 + N rows costs against one of a single row, which is what drafts must earn: N + 1 samples side by side
against one.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from pathlib import Path

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.bench import Drafts, accepted

PROMPT = "The quick brown fox"


def seconds_per_step(llm: DarwinNEG, tokens: int, *, n: int = 1, temperature: float = 1.0) -> float:
    """Seconds from the first token of each of n samples to the last ones, by tokens of one sample."""
    outs = llm.generate(PROMPT, n=n, seed=1, max_tokens=tokens, temperature=temperature, ignore_eos=True)
    first = outs[0] if isinstance(outs, list) else outs
    return first.generate_seconds / (tokens - 1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--mtp", type=int, default=2, metavar="N", help="tokens of a draft (default 2)")
    parser.add_argument("--temperature", default="1.0", metavar="T,T")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def main() -> None:
    args = parse()
    options = {"n_ctx": 2048, "n_parallel": args.mtp + 1, "n_threads": args.threads, "prefix_cache": 0}
    with DarwinNEG(args.model, **options) as plain, DarwinNEG(args.model, mtp=args.mtp, **options) as drafting:
        print(f"{args.model.name}, {platform.machine()}, {args.threads} threads, {datetime.date.today()}")
        rows = args.mtp + 1
        costs = [seconds_per_step(plain, 32, n=rows) / seconds_per_step(plain, 32) for _ in range(args.rounds)]
        print(f"a decode of {rows} rows takes {statistics.median(costs):.2f} times one of a single row")
        print("temperature  tokens/s without  with  ratio  accepted, by place")
        for temperature in map(float, args.temperature.split(",")):
            rates: dict[DarwinNEG, list[float]] = {plain: [], drafting: []}
            drafts = []
            for _ in range(args.rounds):
                before = Drafts.of(drafting)
                for llm, found in rates.items():
                    found.append(1 / seconds_per_step(llm, args.tokens, temperature=temperature))
                drafts.append(Drafts.of(drafting) - before)
            without, with_drafts = (statistics.median(found) for found in rates.values())
            ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
            shares = " ".join(f"{share:.2f}" for share in accepted(drafts))
            print(f"{temperature:11} {without:17.1f} {with_drafts:5.1f} {ratio:6.3f}  {shares}")


if __name__ == "__main__":
    main()
