"""Options that several verbs share: which model, and how to sample."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import RequestError
from ..llm import DarwinNEG
from ..sampling import Neg, SamplingParams
from .terminal import progress_bar


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE", help="GGUF model file")
    group.add_argument("--side-car", metavar="FILE", help="NEG side-car for a model file without a head")
    group.add_argument("--demo", action="store_true", help="use the demo model (SmolLM2-135M, fetched once, 94 MB)")
    group.add_argument("-c", "--n-ctx", type=int, default=4096, metavar="N", help="context in tokens, 0 for the model's own (default 4096)")
    group.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="CPU threads (default: all physical cores)")
    group.add_argument("--n-parallel", type=int, default=8, metavar="N", help="sequences that generate side by side (default 8)")
    group.add_argument("-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    d = SamplingParams()
    group = parser.add_argument_group("sampling")
    group.add_argument("-n", "--max-tokens", type=int, metavar="N", help="most new tokens (default: to the end of the answer)")
    group.add_argument("--temperature", "--temp", type=float, default=d.temperature, metavar="T", help=f"0 is greedy (default {d.temperature})")
    group.add_argument("--top-k", type=int, default=d.top_k, metavar="K", help=f"0 is off (default {d.top_k})")
    group.add_argument("--top-p", type=float, default=d.top_p, metavar="P", help=f"1 is off (default {d.top_p})")
    group.add_argument("--min-p", type=float, default=d.min_p, metavar="P", help=f"0 is off (default {d.min_p})")
    group.add_argument("--repeat-penalty", type=float, default=d.repeat_penalty, metavar="X", help="1 is off (default)")
    group.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable (default: drawn, and reported with --json)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer where TEXT comes (repeatable)")
    group.add_argument("--grammar-file", metavar="FILE", help="GBNF grammar that the answer must follow")
    group.add_argument("--json-schema", metavar="JSON", help="JSON schema that the answer must follow")
    group = parser.add_argument_group("NEG gate")
    group.add_argument(
        "--neg",
        choices=("mask", "sample", "off"),
        help="mask: keep the top tokens where the predicted entropy is high (default; changes nothing under greedy decoding); "
        "sample: draw from them there, also under greedy; off: only report",
    )
    group.add_argument("--neg-threshold", type=float, metavar="NATS", help="active above this predicted entropy (default: the model's)")
    group.add_argument("--neg-top-k", type=int, metavar="K", help="tokens kept where active (default: the model's)")
    group.add_argument("--temp-scale", action="store_true", help="divide the kept logits by the model's temp_scale")


def load_model(args: argparse.Namespace) -> DarwinNEG:
    """The model that the options name. Prints the demo's notice to stderr."""
    path, side_car = args.model, args.side_car
    if args.demo:
        if path or side_car:
            raise RequestError("--demo brings its own model; leave out --model and --side-car")
        from .. import demo

        path = str(demo.model_with_head())
        print(f"darwin-neg: {demo.NOTICE}", file=sys.stderr)
    if not path:
        raise RequestError("no model given; use --model FILE, or --demo to try the demo model")
    with progress_bar("loading", unit="%") as progress:

        def report(fraction: float) -> bool:
            progress(int(fraction * 100), 100)
            return True

        return DarwinNEG(
            path,
            side_car,
            n_ctx=args.n_ctx,
            n_parallel=args.n_parallel,
            n_threads=args.threads,
            n_gpu_layers=args.n_gpu_layers,
            progress=report,
        )


def sampling_params(args: argparse.Namespace, *, has_head: bool) -> SamplingParams:
    """SamplingParams from the options; NEG options need a head."""
    asked = args.neg is not None or args.neg_threshold is not None or args.neg_top_k is not None or args.temp_scale
    if args.neg == "off" and not has_head:
        asked = False  # off is what a model without a head does anyway
    neg = None
    if asked:
        neg = Neg(
            enabled=args.neg != "off",
            action=args.neg or "mask",
            threshold=args.neg_threshold,
            top_k=args.neg_top_k,
            use_temp_scale=True if args.temp_scale else None,
        )
    return SamplingParams(
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_penalty=args.repeat_penalty,
        seed=args.seed,
        stop=args.stop,
        grammar=Path(args.grammar_file).read_text("utf-8") if args.grammar_file else None,
        json_schema=args.json_schema,
        neg=neg,
    )
