"""`darwin-neg bench`: tokens per second with the gate on and off, at several batch sizes, interleaved."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import RequestError
from ..llm import DarwinNEG
from ..sampling import Neg
from .options import add_model_options, load_model


@dataclass(frozen=True)
class Row:
    """Median tokens per second over the rounds. neg is None for a model without a head."""

    batch: int
    neg: str
    tokens_per_second: float


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("bench", help="measure tokens per second", description="Greedy decoding with the gate on and off at several batch sizes; interleaved rounds, medians.")
    parser.add_argument("--batch", default="1,4,8", metavar="N,N", help="sequences side by side (default 1,4,8)")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens per sequence (default 64)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (default 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        batches = [int(part) for part in args.batch.split(",")]
    except ValueError:
        raise RequestError(f"--batch must be whole numbers with commas, got {args.batch!r}") from None
    if min(batches) < 1 or args.tokens < 2 or args.rounds < 1:
        raise RequestError("--batch and --rounds must be at least 1, --tokens at least 2")
    args.n_parallel = max(batches)
    with load_model(args) as llm:
        rows = measure(llm, batches, args.tokens, args.rounds)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print("batch  gate  tokens/s")
    for row in rows:
        print(f"{row.batch:>5}  {row.neg:<4}  {row.tokens_per_second:>8.1f}")
    return 0


def measure(llm: DarwinNEG, batches: list[int], tokens: int, rounds: int) -> list[Row]:
    """Every setting once a round, so that a slow moment of the machine hits all alike."""
    settings = [(batch, gate) for batch in batches for gate in (("on", "off") if llm.neg is not None else ("-",))]
    seconds: dict[tuple[int, str], list[float]] = {setting: [] for setting in settings}
    prompt = llm.tokenize("The quick brown fox jumps over the lazy dog.")
    for _ in range(rounds):
        for batch, gate in settings:
            neg = None if gate == "-" else Neg(enabled=gate == "on")
            begin = time.perf_counter()
            llm.generate([prompt] * batch, temperature=0.0, max_tokens=tokens, ignore_eos=True, neg=neg)
            seconds[batch, gate].append(time.perf_counter() - begin)
    return [Row(batch, gate, batch * tokens / statistics.median(times)) for (batch, gate), times in seconds.items()]
