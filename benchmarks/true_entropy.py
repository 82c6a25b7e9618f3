"""What `true_entropy=True` and `logprobs=0` cost: speed and CPU time of greedy generation with and without, in turns.

    python benchmarks/true_entropy.py [--model FILE] [--batches 1,8] [--tokens N] [--rounds N] [--threads N]

Without --model it is the demo model. Every round generates the same prompts in every way, another way going first from
round to round; shown are the medians, and the medians of the rounds' ratios to nothing recorded, with their range. CPU
time is that of the whole process, prompts and Python included; on a machine with other work it is the steadier of the
two.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from typing import Any

from darwin_neg_cpp import DarwinNEG, demo_model

WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "true entropy": {"true_entropy": True},
    "log-probability": {"logprobs": 0},  # of the chosen token, which the decoding modes ask for
    "both": {"true_entropy": True, "logprobs": 0},
}
PROMPTS = [f"Here are {n} facts about the history of bread, told by a baker:" for n in range(2, 34)]


def measure(llm: DarwinNEG, batch: int, tokens: int, way: str) -> tuple[float, float]:
    """Tokens/s of a batch, without the time of the prompts, and milliseconds of CPU time for each token."""
    before = time.process_time()
    outs = llm.generate(PROMPTS[:batch], max_tokens=tokens, temperature=0.0, ignore_eos=True, **WAYS[way])
    assert all((out.true_entropy is not None) == ("true_entropy" in WAYS[way]) for out in outs)
    assert all((out.logprobs is not None) == ("logprobs" in WAYS[way]) for out in outs)
    spent = 1000 * (time.process_time() - before) / (batch * tokens)
    return batch * (tokens - 1) / max(out.generate_seconds for out in outs), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    model, head = (args.model, None) if args.model else demo_model.model_and_head()
    batches = [int(batch) for batch in args.batches.split(",")]
    ways = list(WAYS)
    with DarwinNEG(model, head, n_parallel=max(batches), n_threads=args.threads) as llm:
        threads, n_vocab = llm.info["n_threads"], llm.info["n_vocab"]
        print(f"{datetime.date.today()}  {platform.processor() or platform.machine()}, {threads} threads")
        print(f"{llm.session.name}, vocabulary {n_vocab}, {args.rounds} rounds of {args.tokens} tokens")
        for batch in batches:
            measure(llm, batch, 8, "both")
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for k in range(args.rounds):
                for way in ways[k % len(ways) :] + ways[: k % len(ways)]:
                    found[way].append(measure(llm, batch, args.tokens, way))
            for way in ways:
                line = [f"batch {batch:>2}  {way:<16}"]
                for k, unit in enumerate(("tokens/s", "ms of CPU time a token")):
                    figures, plain = ([pair[k] for pair in found[name]] for name in (way, "nothing"))
                    ratios = [a / b for a, b in zip(figures, plain, strict=True)]
                    ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                    line.append(f"{statistics.median(figures):8.2f} {unit}, {ratio}")
                print("  ".join(line), flush=True)


if __name__ == "__main__":
    main()
