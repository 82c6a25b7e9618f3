"""`darwin-neg convert`: a Hugging Face checkpoint to one GGUF file with its NEG head."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..convert import convert
from ..convert.plan import OUT_TYPES, Plan
from ..convert.source import Source, open_source
from ..errors import NegHeadError, RequestError
from ..files.input_file import open_input, shown_path
from ..files.progress import ProgressBar
from ..files.shown_text import escape_line
from .info import describe
from .options import add_force_option, add_threads_option
from .terminal import human_bytes


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "convert",
        help="convert a Hugging Face checkpoint to GGUF",
        description="Writes one GGUF file that holds the language model, its tokenizer, its chat template and its NEG "
        "head. Reads Qwen3.5 checkpoints in safetensors; needs neither torch nor a GPU.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run, arguments={"head": "neg", "threads": "n_threads"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    parser.add_argument("source", metavar="SOURCE", help="folder of a checkpoint, or a repository id of the hub")
    parser.add_argument(
        "-o", "--out", "--outfile", metavar="FILE", help="output (default: NAME-TYPE.gguf in the current folder)"
    )
    parser.add_argument(
        "--outtype",
        metavar="TYPE",
        default="auto",
        type=str.lower,
        help=f"{', '.join(OUT_TYPES)}; with the compiled engine also q4_k_m, q5_k_m, q6_k and the other types that "
        "llama.cpp quantizes to; or auto: BF16 or F16 where the weights are stored so, F16 for weights in F32 "
        "(default)",
    )
    parser.add_argument(
        "--head", dest="neg", metavar="FILE", help="take the NEG head from this file (default: the checkpoint's own)"
    )
    parser.add_argument("--no-head", dest="without_neg", action="store_true", help="convert the backbone alone")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix, for the quantized types")
    parser.add_argument(
        "--no-mtp", dest="mtp", action="store_false", help="leave out the block for multi-token prediction"
    )
    parser.add_argument(
        "--side-car",
        metavar="FILE",
        help="write the head into a side-car of its own; any llama.cpp can then open the model file",
    )
    parser.add_argument("--side-car-only", action="store_true", help="with --side-car: write no model file")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository")
    add_threads_option(parser, default="one per core")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    add_force_option(parser)
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not read the written file back and compare"
    )


def run(args: argparse.Namespace) -> int:
    imatrix = Path(args.imatrix) if args.imatrix else None
    side_car = Path(args.side_car) if args.side_car else None
    _check_options(args, imatrix, side_car)
    # the token comes from the environment or from `hf auth login`: other users can see a command line
    token = os.environ.get("HF_TOKEN") or None
    whole = not (args.dry_run or args.side_car_only)
    with open_source(args.source, revision=args.revision, token=token, whole=whole) as checkpoint:
        return _run(args, checkpoint, imatrix, side_car)


def _run(args: argparse.Namespace, source: Source, imatrix: Path | None, side_car: Path | None) -> int:
    plan = convert.plan(
        source,
        outtype=args.outtype,
        neg=Path(args.neg) if args.neg else None,
        without_neg=args.without_neg,
        embed=side_car is None,
        mtp=args.mtp,
    )
    kind = args.outtype if args.outtype in convert.QUANTIZED else plan.outtype
    out = None if args.side_car_only else Path(args.out or convert.default_name(plan, kind))
    for note in plan.notes:
        print(f"darwin-neg: note: {escape_line(note)}", file=sys.stderr)
    if args.without_neg:
        print(
            "darwin-neg: NO NEG HEAD: the file will hold the backbone alone, without predicted entropy and gate",
            file=sys.stderr,
        )
    if args.dry_run:
        if imatrix is not None and out is not None:
            convert.check_matrix(plan, out, kind, imatrix)
        print(dry_run(plan, out, kind, side_car))
        return 0
    convert.check_outputs(out, side_car, [*plan.sources, *([imatrix] if imatrix else [])], force=args.force)
    if out is not None:
        with ProgressBar("converting") as progress:
            convert.write_any(
                plan,
                out,
                kind,
                imatrix=imatrix,
                force=args.force,
                verify=args.verify,
                threads=args.n_threads,
                progress=progress,
            )
        size = human_bytes(out.stat().st_size)
        print(f"{shown_path(out)}: {kind.upper()}, {size}" + (", with NEG head" if plan.head_tensors else ""))
    if side_car is not None:
        convert.write_side_car(plan, side_car, force=args.force)
        print(f"{shown_path(side_car)}: NEG side-car; use it with --side-car, or with neg= in Python")
    return 0


def _check_options(args: argparse.Namespace, imatrix: Path | None, side_car: Path | None) -> None:
    """Refuses what is wrong with any checkpoint, before one is downloaded."""
    if args.side_car_only and side_car is None:
        raise RequestError("--side-car-only goes with --side-car FILE, the file to write")
    if side_car is not None and args.without_neg:
        raise RequestError("--side-car and --no-head are both given, but a side-car holds the head; give one")
    if args.neg and args.without_neg:
        raise RequestError("--head and --no-head are both given; give one")
    if not 0 <= args.n_threads <= 1024:
        raise RequestError(f"--threads must be between 0 and 1024, got {args.n_threads}")
    convert.check_type(args.outtype, imatrix)
    if args.neg:
        open_input(args.neg, NegHeadError).close()
    if not args.dry_run:
        out = Path(args.out) if args.out and not args.side_car_only else None
        inputs = [Path(path) for path in (args.imatrix, args.neg) if path]
        convert.check_outputs(out, side_car, inputs, force=args.force)


def dry_run(plan: Plan, out: Path | None, kind: str, side_car: Path | None) -> str:
    """Describes what a conversion would write: tensors, the model as `info` shows it, files and their sizes."""
    lines = []
    quantized = kind if kind in convert.QUANTIZED else None
    if out is not None:
        if quantized:
            lines += [f"in {plan.outtype.upper()}, before it is quantized to {kind.upper()}:", ""]
        lines += [*_table(plan), "", describe(convert.preview(plan, quantized)).partition("\n")[2], ""]
        lines.append(f"{shown_path(out)}: {_sizes(plan, quantized)}; this was a dry run")
    if side_car is not None:
        size = human_bytes(sum(data.nbytes for data in convert.bound_head(plan).tensors().values()))
        lines.append(f"{shown_path(side_car)}: {size} would be written, the NEG side-car; this was a dry run")
    return "\n".join(lines)


def _sizes(plan: Plan, quantized: str | None) -> str:
    if quantized is None:
        return f"{human_bytes(plan.file_size)} would be written"
    result = convert.preview(plan, quantized).size_bytes
    room = human_bytes(plan.file_size + result)
    return (
        f"about {human_bytes(result)} would be written, by way of {human_bytes(plan.file_size)} that are removed "
        f"again: the disk must have room for about {room}"
    )


def _table(plan: Plan) -> list[str]:
    rows = [(placed.info.name, placed.output.shape, placed.info) for placed in plan.tensors]
    rows += [(info.name, data.shape, info) for info, data in plan.head_tensors]
    width = max(len(name) for name, _, _ in rows)
    return [
        f"{name:<{width}}  {info.type.name:<5} {human_bytes(info.size):>10}  {list(shape)}"
        for name, shape, info in rows
    ]
