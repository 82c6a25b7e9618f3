"""`darwin-neg bench`: tokens per second with the gate on and off, at several batch sizes, interleaved."""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..checks import check_integer
from ..errors import RequestError
from ..sampling import Neg
from .options import add_json_option, add_model_options, load_model

if TYPE_CHECKING:
    from ..llm import DarwinNEG


@dataclass(frozen=True)
class Variant:
    """A way of running the model: name, engine, and the gate's setting (None: the model has no head)."""

    name: str
    llm: DarwinNEG
    neg: Neg | None


@dataclass(frozen=True)
class Row:
    """Tokens per second of a test: the median over the rounds, and each round.

    accepted: share of the drafted tokens that were right, by their place in the draft; empty without drafts.
    """

    test: str
    batch: int
    variant: str
    tokens_per_second: float
    rounds: list[float]
    accepted: list[float]


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "bench",
        help="measure tokens per second",
        description="Measures prompt processing and generation at several batch sizes, with the gate on and off; "
        "rounds are interleaved and medians reported. The head is evaluated in both cases. To see what the head costs, "
        "give it as --side-car, or give the same model without a head as --base.",
    )
    parser.add_argument(
        "--batch", default="1,4,8", metavar="N,N", help="batch sizes: sequences side by side (default 1,4,8)"
    )
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="tokens per sequence (default 64)")
    parser.add_argument(
        "--prompt-tokens", type=int, default=512, metavar="N", help="length of the prompt (default 512)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of measurement (default 3)")
    parser.add_argument("--base", metavar="FILE", help="the same model without a head, to compare with")
    add_json_option(parser)
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    batches = _batches(args.batch)
    check_integer("--rounds", args.rounds, low=1)
    check_integer("--prompt-tokens", args.prompt_tokens, low=1)
    check_integer("--tokens", args.tokens, low=2)
    args.n_parallel = max(batches)
    args.n_ctx = max(args.n_ctx, args.prompt_tokens + 8, max(batches) * (args.tokens + 16)) if args.n_ctx else 0
    with contextlib.ExitStack() as stack:
        variants = open_variants(args, stack)
        rows = measure(variants, batches, args.tokens, args.prompt_tokens, args.rounds)
        report = {
            "model": variants[0].llm.path,
            "description": variants[0].llm.info["description"],
            "n_threads": variants[0].llm.info["n_threads"],
            "rows": [asdict(row) for row in rows],
            "ratios": ratios(rows),
        }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        _print(report)
    return 0


def open_variants(args: argparse.Namespace, stack: contextlib.ExitStack) -> list[Variant]:
    """Loads the model, for its gate on and off, and the model without a head when a file for that is given."""
    args.prefix_cache = 0  # each round decodes the same prompt
    args.file_sampling = False  # the same work for every model, whatever its file has for conversations
    llm = stack.enter_context(load_model(args))
    if llm.neg is None:
        return [Variant("no head", llm, None)]
    variants = [Variant("gate on", llm, Neg()), Variant("gate off", llm, Neg(enabled=False))]
    without = args.base or (args.model if args.side_car else None)
    if without:
        base = argparse.Namespace(**{**vars(args), "model": without, "side_car": None, "demo": False})
        bare = stack.enter_context(load_model(base))
        if bare.neg is not None:
            raise RequestError(f"{without}: has a NEG head; give the same model without one as --base")
        variants.append(Variant("no head", bare, None))
    return variants


def measure(variants: list[Variant], batches: list[int], tokens: int, prompt_tokens: int, rounds: int) -> list[Row]:
    """Runs every setting once per round, so that a slow moment of the machine hits all alike, after a warm-up round."""
    settings = [("prompt", 1, v) for v in variants] + [("generate", b, v) for b in batches for v in variants]
    rates: dict[tuple[str, int, str], list[float]] = {}
    drafts: dict[tuple[str, int, str], list[Drafts]] = {}
    for number in range(rounds + 1):
        for test, batch, variant in settings:
            before = Drafts.of(variant.llm)
            rate = prompt_rate(variant, prompt_tokens) if test == "prompt" else generate_rate(variant, batch, tokens)
            if number > 0:
                rates.setdefault((test, batch, variant.name), []).append(rate)
                drafts.setdefault((test, batch, variant.name), []).append(Drafts.of(variant.llm) - before)
    return [
        Row(test, batch, name, statistics.median(rounds_of), rounds_of, accepted(drafts[test, batch, name]))
        for (test, batch, name), rounds_of in rates.items()
    ]


@dataclass(frozen=True)
class Drafts:
    """Tokens drafted, by their place in the draft, and how many of them were right."""

    made: Sequence[int]
    right: Sequence[int]

    @classmethod
    def of(cls, llm: DarwinNEG) -> Drafts:
        stats = llm.stats()
        return cls(stats["drafted"], stats["draft_accepted"])

    def __sub__(self, other: Drafts) -> Drafts:
        return Drafts(
            *(
                [a - b for a, b in zip(x, y, strict=True)]
                for x, y in ((self.made, other.made), (self.right, other.right))
            )
        )


def accepted(rounds: Sequence[Drafts]) -> list[float]:
    """The share of drafted tokens that were right, by their place in the draft, as far as any were made."""
    made = [sum(place) for place in zip(*(drafts.made for drafts in rounds), strict=True)]
    right = [sum(place) for place in zip(*(drafts.right for drafts in rounds), strict=True)]
    return [round(b / a, 4) for a, b in zip(made, right, strict=True) if a]


def prompt_rate(variant: Variant, prompt_tokens: int) -> float:
    """Measures prompt tokens per second."""
    n_vocab = variant.llm.info["n_vocab"]
    prompt = [(7 + 31 * i) % n_vocab for i in range(prompt_tokens)]
    out = variant.llm.generate(prompt, max_tokens=1, temperature=0.0, neg=variant.neg)
    return prompt_tokens / float(out.prompt_seconds)


def generate_rate(variant: Variant, batch: int, tokens: int, *, temperature: float | None = None) -> float:
    """Measures generated tokens per second of `batch` sequences; the prompt yields the first token of each.

    temperature: of draws from all tokens; by default as the model's file or llama.cpp has it.
    """
    usual = temperature is None
    outs = variant.llm.generate(
        "The quick brown fox",
        n=batch,
        seed=1,
        max_tokens=tokens,
        temperature=temperature,
        ignore_eos=True,
        neg=variant.neg,
        top_k=None if usual else 0,
        top_p=None if usual else 1.0,
        min_p=None if usual else 0.0,
    )
    outs = outs if isinstance(outs, list) else [outs]
    return float(batch * (tokens - 1) / outs[0].generate_seconds)


def ratios(rows: list[Row]) -> dict[str, float]:
    """Divides each variant's rate by that of the last one ("no head", or "gate off"), by test and batch size."""
    out = {}
    for test, batch in dict.fromkeys((row.test, row.batch) for row in rows):
        group = [row for row in rows if (row.test, row.batch) == (test, batch)]
        for row in group[:-1]:
            name = f"{test} batch {batch}: {row.variant} / {group[-1].variant}"
            out[name] = round(row.tokens_per_second / group[-1].tokens_per_second, 4)
    return out


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--batch must be whole numbers with commas between them, got {text!r}") from None
    if not all(1 <= batch <= 255 for batch in batches):
        raise RequestError(f"--batch must be between 1 and 255, got {text!r}")
    return batches


def _print(report: dict[str, Any]) -> None:
    print(f"{report['description']}, {report['n_threads']} threads")
    print(f"{'test':<9} {'batch':>5}  {'NEG':<9} {'tokens/s':>9}")
    for row in report["rows"]:
        shares = " ".join(f"{share:.2f}" for share in row["accepted"])
        drafts = f"  drafts accepted, by place: {shares}" if shares else ""
        print(f"{row['test']:<9} {row['batch']:>5}  {row['variant']:<9} {row['tokens_per_second']:>9.1f}{drafts}")
    for name, ratio in report["ratios"].items():
        print(f"{name}: {ratio:.3f}")
