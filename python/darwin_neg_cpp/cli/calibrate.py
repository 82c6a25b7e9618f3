"""`darwin-neg calibrate`: how well a head predicts on this file, and the threshold that restores a target rate."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..checks import check_integer
from ..errors import RequestError
from ..files.input_file import shown_path
from ..files.progress import ProgressBar
from .options import add_force_option, add_json_option, add_text_model_options, load_text_model
from .text_command import command_with_texts


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "calibrate",
        help="check a head on a quantized model",
        description="Runs texts through a model with a head and compares predicted with true entropies. Quantization "
        "changes hidden states, and therefore what the head predicts: shown are the activation rate, the error, and "
        "the threshold that would restore a target rate. Nothing is written without --out.",
    )
    add_text_model_options(parser, side_car=True)
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="FILE",
        help="UTF-8 text; or JSON lines (.jsonl, .ndjson) with text, messages, or prompt and completion",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="the same model less quantized, with the same head, to compare predictions with",
    )
    parser.add_argument(
        "--target-rate",
        type=float,
        default=0.0436,
        metavar="R",
        help="share of positions with an active gate (default 0.0436)",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=20_000, metavar="N", help="maximum number of tokens of text (default 20000)"
    )
    parser.add_argument(
        "--context", type=int, default=512, metavar="N", help="tokens run through the model together (default 512)"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="write a copy with the new threshold: of the side-car, or of the model when the head is inside",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="write report.md, report.json and report.svg there: how well predicted and true entropy tell where the "
        "likeliest token is not the text's, by kind of token and position, with intervals",
    )
    add_force_option(parser)
    add_json_option(parser, "print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..training import calibrate

    if not 0 < args.target_rate < 1:
        raise RequestError(f"--target-rate must be between 0 and 1, got {args.target_rate}")
    check_integer("--max-tokens", args.max_tokens, low=1000)
    check_integer("--context", args.context, low=16)
    texts = [Path(name) for name in args.text]
    out = Path(args.out) if args.out else None
    report = Path(args.report) if args.report else None
    calibrate.check(args.model, args.side_car, out, texts, reference=args.reference, force=args.force, report=report)
    with (
        load_text_model(args, n_ctx=args.context, n_parallel=1) as llm,
        ProgressBar("evaluating", unit=" tokens") as progress,
    ):
        result = calibrate.measure(
            llm,
            texts,
            target_rate=args.target_rate,
            max_tokens=args.max_tokens,
            context=args.context,
            progress=progress,
            by_token=report is not None,
        )
    if args.reference:
        with (
            load_text_model(args, n_ctx=args.context, n_parallel=1, model=args.reference) as other,
            ProgressBar("reference", unit=" tokens") as progress,
        ):
            calibrate.add_reference(result, other, progress=progress)
    print(json.dumps(result.as_dict(), indent=2) if args.json else result.describe())
    if report is not None:
        calibrate.write_report(result, texts, report, command=command_with_texts(args))
        print(f"{shown_path(report)}: report written", file=sys.stderr)
    if out is not None:
        calibrate.write(args.model, args.side_car, result.new_threshold, out, force=args.force)
        print(
            f"{shown_path(out)}: written with threshold {result.new_threshold:.4f} nats",
            file=sys.stderr if args.json else sys.stdout,
        )
    return 0
