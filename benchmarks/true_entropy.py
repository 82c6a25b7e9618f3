"""What `true_entropy=True` costs: tokens/s and CPU time of greedy generation with and without it, in turns.

    python benchmarks/true_entropy.py [--model FILE] [--batches 1,8] [--tokens N] [--rounds N] [--threads N]

Without --model it is the demo model. Every round generates the same prompts both ways, the one that goes first
changing from round to round; shown are the medians, and the median of the rounds' ratios with their range. CPU time is
that of the whole process, prompts and Python included; on a machine with other work it is the steadier of the two.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time

from darwin_neg_cpp import DarwinNEG, demo_model

PROMPTS = [f"Here are {n} facts about the history of bread, told by a baker:" for n in range(2, 34)]


def measure(llm: DarwinNEG, batch: int, tokens: int, *, true_entropy: bool) -> tuple[float, float]:
    """Tokens/s of a batch, without the time of the prompts, and milliseconds of CPU time for each token."""
    before = time.process_time()
    outs = llm.generate(PROMPTS[:batch], max_tokens=tokens, temperature=0.0, ignore_eos=True, true_entropy=true_entropy)
    assert all((out.true_entropy is not None) == true_entropy for out in outs)
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
    with DarwinNEG(model, head, n_parallel=max(batches), n_threads=args.threads) as llm:
        threads, n_vocab = llm.info["n_threads"], llm.info["n_vocab"]
        print(f"{datetime.date.today()}  {platform.processor() or platform.machine()}, {threads} threads")
        print(f"{llm.session.name}, vocabulary {n_vocab}, {args.rounds} rounds of {args.tokens} tokens")
        for batch in batches:
            measure(llm, batch, 8, true_entropy=True)
            found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for round_ in range(args.rounds):
                for asked in (False, True) if round_ % 2 else (True, False):
                    found[asked].append(measure(llm, batch, args.tokens, true_entropy=asked))
            for k, unit in enumerate(("tokens/s", "ms of CPU time a token")):
                without, with_it = ([pair[k] for pair in found[asked]] for asked in (False, True))
                ratios = [b / a for a, b in zip(without, with_it, strict=True)]
                medians = f"without {statistics.median(without):7.2f}, with {statistics.median(with_it):7.2f}"
                ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
                print(f"batch {batch:>2}: {medians} {unit}; ratio {ratio}", flush=True)


if __name__ == "__main__":
    main()
