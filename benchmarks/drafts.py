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
from darwin_neg_cpp.cli.bench import Drafts, Variant, accepted, generate_rate


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
    with DarwinNEG(args.model, **options) as without, DarwinNEG(args.model, mtp=args.mtp, **options) as drafting:
        plain, drafted = Variant("without", without, None), Variant("with", drafting, None)
        print(f"{args.model.name}, {platform.machine()}, {args.threads} threads, {datetime.date.today()}")
        rows = args.mtp + 1
        one_and_more = [[generate_rate(plain, n, 32, temperature=1.0) for n in (1, rows)] for _ in range(args.rounds)]
        costs = [rows * one / more for one, more in one_and_more]
        print(f"a decode of {rows} rows takes {statistics.median(costs):.2f} times one of a single row")
        print("temperature  tokens/s without  with  ratio  accepted, by place")
        for temperature in map(float, args.temperature.split(",")):
            rates: dict[str, list[float]] = {plain.name: [], drafted.name: []}
            drafts = []
            for _ in range(args.rounds):
                before = Drafts.of(drafting)
                for variant in (plain, drafted):
                    rates[variant.name].append(generate_rate(variant, 1, args.tokens, temperature=temperature))
                drafts.append(Drafts.of(drafting) - before)
            slow, fast = (statistics.median(found) for found in rates.values())
            ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
            shares = " ".join(f"{share:.2f}" for share in accepted(drafts))
            print(f"{temperature:11} {slow:17.1f} {fast:5.1f} {ratio:6.3f}  {shares}")


if __name__ == "__main__":
    main()
