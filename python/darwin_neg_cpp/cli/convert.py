"""`darwin-neg convert`: a Hugging Face checkpoint to a GGUF file with its NEG head, and its vision tower to another."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..convert import convert
from ..convert.plan import OUT_TYPES, Plan
from ..convert.source import Part, Source, open_source
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
        "head; with --mmproj, the vision tower to a file of its own. Reads Qwen3.5 checkpoints in safetensors; needs "
        "neither torch nor a GPU.",
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
    parser.add_argument(
        "--mmproj",
        metavar="FILE",
        help="write the vision tower as llama.cpp's projector file, for `serve --mmproj`; without --out and --side-car "
        "that is all that is written, and of a repository only the shards that hold the tower are downloaded",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository")
    add_threads_option(parser, default="one per core")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    add_force_option(parser)
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not read the written file back and compare"
    )


@dataclass(frozen=True)
class _Files:
    """The files that the arguments name. model: whether the model file is written."""

    model: bool
    side_car: Path | None
    mmproj: Path | None
    imatrix: Path | None


def run(args: argparse.Namespace) -> int:
    files = _files(args)
    _check_options(args, files)
    # the token comes from the environment or from `hf auth login`: other users can see a command line
    token = os.environ.get("HF_TOKEN") or None
    with contextlib.ExitStack() as sources:

        def source(part: Part) -> Source:
            return sources.enter_context(open_source(args.source, revision=args.revision, token=token, part=part))

        plan = projector = None
        if files.model or files.side_car:
            main = source("whole" if files.model and not args.dry_run else "outline")
            plan = _plan(args, main, embed=files.side_car is None)
        if files.mmproj:
            tower = main if plan and (files.model or args.dry_run) else source("outline" if args.dry_run else "tower")
            projector = convert.projector_plan(tower, outtype=args.outtype)
        return _run(args, files, plan, projector)


def _files(args: argparse.Namespace) -> _Files:
    side_car, mmproj, imatrix = (Path(path) if path else None for path in (args.side_car, args.mmproj, args.imatrix))
    model = not args.side_car_only and (mmproj is None or bool(args.out) or side_car is not None)
    return _Files(model, side_car, mmproj, imatrix)


def _plan(args: argparse.Namespace, source: Source, *, embed: bool) -> Plan:
    return convert.plan(
        source,
        outtype=args.outtype,
        neg=Path(args.neg) if args.neg else None,
        without_neg=args.without_neg,
        embed=embed,
        mtp=args.mtp,
    )


def _run(args: argparse.Namespace, files: _Files, plan: Plan | None, projector: Plan | None) -> int:
    kind = args.outtype if plan is None or args.outtype in convert.QUANTIZED else plan.outtype
    out = Path(args.out or convert.default_name(plan, kind)) if plan and files.model else None
    plans = [planned for planned in (plan, projector) if planned is not None]
    for note in dict.fromkeys(note for planned in plans for note in planned.notes):
        print(f"darwin-neg: note: {escape_line(note)}", file=sys.stderr)
    if args.without_neg and plan:
        print(
            "darwin-neg: NO NEG HEAD: the file will hold the backbone alone, without predicted entropy and gate",
            file=sys.stderr,
        )
    if args.dry_run:
        if files.imatrix is not None and out is not None and plan:
            convert.check_matrix(plan, out, kind, files.imatrix)
        parts = [dry_run(plan, out, kind, files.side_car, with_imatrix=files.imatrix is not None)] if plan else []
        parts += [_dry_run_of_projector(projector, files.mmproj)] if projector and files.mmproj else []
        print("\n".join(parts))
        return 0
    inputs = [*(path for planned in plans for path in planned.sources), *([files.imatrix] if files.imatrix else [])]
    convert.check_outputs(out, files.side_car, inputs, mmproj=files.mmproj, force=args.force)
    if out is not None and plan:
        _write(args, plan, out, kind, files.imatrix)
        print(f"{_written(out, kind)}" + (", with NEG head" if plan.head_tensors else ""))
    if files.side_car is not None and plan:
        convert.write_side_car(plan, files.side_car, force=args.force)
        print(f"{shown_path(files.side_car)}: NEG side-car; use it with --side-car, or with neg= in Python")
    if files.mmproj is not None and projector:
        _write(args, projector, files.mmproj, projector.outtype, None)
        print(f"{_written(files.mmproj, projector.outtype)}, vision projector; use it with `darwin-neg serve --mmproj`")
    return 0


def _write(args: argparse.Namespace, plan: Plan, out: Path, kind: str, imatrix: Path | None) -> None:
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


def _written(out: Path, kind: str) -> str:
    return f"{shown_path(out)}: {kind.upper()}, {human_bytes(out.stat().st_size)}"


def _check_options(args: argparse.Namespace, files: _Files) -> None:
    """Refuses what is wrong with any checkpoint, before one is downloaded."""
    if args.side_car_only and files.side_car is None:
        raise RequestError("--side-car-only goes with --side-car FILE, the file to write")
    if files.side_car is not None and args.without_neg:
        raise RequestError("--side-car and --no-head are both given, but a side-car holds the head; give one")
    if args.neg and args.without_neg:
        raise RequestError("--head and --no-head are both given; give one")
    if not 0 <= args.n_threads <= 1024:
        raise RequestError(f"--threads must be between 0 and 1024, got {args.n_threads}")
    if files.mmproj is not None and not files.model and files.side_car is None:
        _check_projector_options(args)
    convert.check_type(args.outtype, files.imatrix)
    if args.neg:
        open_input(args.neg, NegHeadError).close()
    if not args.dry_run:
        out = Path(args.out) if args.out and files.model else None
        inputs = [Path(path) for path in (args.imatrix, args.neg) if path]
        convert.check_outputs(out, files.side_car, inputs, mmproj=files.mmproj, force=args.force)


def _check_projector_options(args: argparse.Namespace) -> None:
    """Refuses what says something about a model file where none is written."""
    why = "is for the model file, and --mmproj alone writes none; name one with --out"
    if args.outtype in convert.QUANTIZED:
        raise RequestError(
            f"--outtype {args.outtype} {why}, or choose {', '.join(OUT_TYPES)} or auto for the projector"
        )
    for flag, given in (("--head", args.neg), ("--imatrix", args.imatrix)):
        if given:
            raise RequestError(f"{flag} {why}, or drop it")


def dry_run(plan: Plan, out: Path | None, kind: str, side_car: Path | None, *, with_imatrix: bool = False) -> str:
    """Describes what a conversion would write: tensors, the model as `info` shows it, files and their sizes."""
    lines = []
    quantized = kind if kind in convert.QUANTIZED else None
    if out is not None:
        if quantized:
            lines += [f"in {plan.outtype.upper()}, before it is quantized to {kind.upper()}:", ""]
        model = convert.preview(plan, quantized, with_imatrix=with_imatrix)
        lines += [*_table(plan), "", describe(model).partition("\n")[2], ""]
        size = _sizes(plan, model.size_bytes if quantized else None)
        lines.append(f"{shown_path(out)}: {size}; this was a dry run")
    if side_car is not None:
        size = human_bytes(sum(data.nbytes for data in convert.bound_head(plan).tensors().values()))
        lines.append(f"{shown_path(side_car)}: {size} would be written, the NEG side-car; this was a dry run")
    return "\n".join(lines)


def _dry_run_of_projector(plan: Plan, out: Path) -> str:
    kind, size = plan.outtype.upper(), human_bytes(plan.file_size)
    return "\n".join(
        [
            *_table(plan),
            "",
            f"{shown_path(out)}: {kind}, {size} would be written, the vision projector; this was a dry run",
        ]
    )


def _sizes(plan: Plan, quantized: int | None) -> str:
    """quantized: bytes of the quantized file, None where the plan itself is written."""
    if quantized is None:
        return f"{human_bytes(plan.file_size)} would be written"
    room = human_bytes(plan.file_size + quantized)
    return (
        f"{human_bytes(quantized)} would be written, by way of {human_bytes(plan.file_size)} that are removed "
        f"again: the disk must have room for {room}"
    )


def _table(plan: Plan) -> list[str]:
    rows = [(placed.info.name, placed.output.shape, placed.info) for placed in plan.tensors]
    rows += [(info.name, data.shape, info) for info, data in plan.head_tensors]
    width = max(len(name) for name, _, _ in rows)
    return [
        f"{name:<{width}}  {info.type.name:<5} {human_bytes(info.size):>10}  {list(shape)}"
        for name, shape, info in rows
    ]
