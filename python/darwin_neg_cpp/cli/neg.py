"""`darwin-neg neg attach | detach | inspect`: joins a NEG head to a model file, takes it out, looks at it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darwin_neg_cpp.cli.byte_progress import byte_progress
from darwin_neg_cpp.cli.fields import count, print_fields, size

if TYPE_CHECKING:
    from darwin_neg_cpp.neg_files import NegFile
    from darwin_neg_cpp.neg_format import NegHead

EXIT_MACHINE = 3


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "neg",
        help="attach a NEG head to a GGUF file, detach it, inspect it",
        description="Joins a NEG head to a GGUF file of any quantization, takes it out again, or shows it.",
    )
    verbs = parser.add_subparsers(dest="neg_verb", metavar="VERB", required=True)
    _add_attach(verbs)
    _add_detach(verbs)
    inspect = verbs.add_parser(
        "inspect", help="show and check the head in a file", description="Shows a head and checks it, weights included."
    )
    inspect.add_argument(
        "file", metavar="FILE", help="a GGUF model with a head, a side-car, or neg_modules.safetensors"
    )
    inspect.add_argument("--json", action="store_true", help="print one JSON object")


def _add_attach(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser(
        "attach",
        help="write a model file with a head in it, or a side-car",
        description="Writes a copy of MODEL with the head of NEG in it (the default), or the head alone as a side-car for MODEL. "
        "A file with a head in it opens with this project's build only; a side-car leaves MODEL as it is.",
    )
    parser.add_argument("model", metavar="MODEL", help="a GGUF file of any quantization")
    parser.add_argument(
        "neg", metavar="NEG", nargs="?", help="neg_modules.safetensors, a side-car, or a GGUF model that has a head"
    )
    parser.add_argument(
        "--random", metavar="SEED", type=int, help="instead of NEG: a head of RANDOM weights, to try the machinery"
    )
    _add_output(parser, "output (default: MODEL's name with -neg before .gguf)")
    parser.add_argument("--side-car", metavar="FILE", help="write the head alone to FILE, for use beside MODEL")
    parser.add_argument("--replace", action="store_true", help="replace the head that MODEL has already")


def _add_detach(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser(
        "detach",
        help="write a model file without its head",
        description="Writes a copy of MODEL without its head, and the head as a side-car when asked.",
    )
    parser.add_argument("model", metavar="MODEL", help="a GGUF file with a head")
    _add_output(parser, "output", required=True)
    parser.add_argument("--side-car", metavar="FILE", help="write the head to FILE as well")


def _add_output(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", required=required, help=what)
    parser.add_argument("--force", action="store_true", help="overwrite an existing output")
    parser.add_argument(
        "--verify",
        choices=("sampled", "whole"),
        default="sampled",
        help="compare pieces of every tensor after writing, or all bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--no-sync",
        action="store_true",
        help="do not wait until the disk has the file (faster; a power failure may damage it)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from darwin_neg_cpp.atomic_file import StorageError

    try:
        return {"attach": _attach, "detach": _detach, "inspect": _inspect}[args.neg_verb](args)
    except StorageError as e:
        print(f"darwin-neg: error: {e}", file=sys.stderr)
        return EXIT_MACHINE


def default_output(model: str) -> str:
    """model.Q4_K_M.gguf -> model.Q4_K_M-neg.gguf, in the same folder."""
    path = Path(model)
    return str(path.with_name((path.stem if path.suffix == ".gguf" else path.name) + "-neg.gguf"))


def _attach(args: argparse.Namespace) -> int:
    from darwin_neg_cpp.neg_files import attach, write_side_car

    neg = _head(args)
    started = time.monotonic()
    if args.side_car is not None:
        if args.output is not None:
            return _usage("give -o or --side-car, not both")
        out = args.side_car
        n_bytes = write_side_car(neg, args.model, out, force=args.force)
    else:
        out = args.output if args.output is not None else default_output(args.model)
        with byte_progress("attach") as progress:
            n_bytes = attach(
                args.model, neg, out, force=args.force, replace=args.replace,
                progress=progress, verify=args.verify, sync=not args.no_sync,
            )  # fmt: skip
    _report(args, out, n_bytes, time.monotonic() - started)
    return 0


def _head(args: argparse.Namespace) -> str | NegHead:
    if (args.neg is None) == (args.random is None):
        raise SystemExit(_usage("give either NEG or --random SEED"))
    if args.random is None:
        return str(args.neg)
    from darwin_neg_cpp.random_head import random_head_for

    print("darwin-neg: this head has RANDOM weights: its entropies and its gate mean nothing", file=sys.stderr)
    return random_head_for(args.model, args.random)


def _detach(args: argparse.Namespace) -> int:
    from darwin_neg_cpp.neg_files import detach

    started = time.monotonic()
    with byte_progress("detach") as progress:
        n_bytes = detach(
            args.model, args.output, side_car=args.side_car, force=args.force,
            progress=progress, verify=args.verify, sync=not args.no_sync,
        )  # fmt: skip
    _report(args, args.output, n_bytes, time.monotonic() - started)
    return 0


def _report(args: argparse.Namespace, out: str, n_bytes: int, seconds: float) -> None:
    if args.json:
        print(
            json.dumps({"output": out, "size_bytes": n_bytes, "side_car": args.side_car, "seconds": round(seconds, 3)})
        )
        return
    from darwin_neg_cpp.input_file import shown_path

    print(f"{shown_path(out)}: {size(n_bytes)}, written and checked in {seconds:.1f} s")
    if args.neg_verb == "detach" and args.side_car:
        print(f"{shown_path(args.side_car)}: the head as a side-car")


def _inspect(args: argparse.Namespace) -> int:
    from darwin_neg_cpp.input_file import shown_path
    from darwin_neg_cpp.neg_files import inspect

    found = inspect(args.file)
    if args.json:
        print(json.dumps(asdict(found)))
    else:
        print_fields(shown_path(found.path), _fields(found))
    return 0


def _fields(found: NegFile) -> list[tuple[str, str]]:
    from darwin_neg_cpp.input_file import shown

    form = {
        "model": "a model with the head in it",
        "side-car": "a side-car",
        "safetensors": "safetensors of the released layout",
    }
    return [
        ("form", form[found.form]),
        ("head", f"{found.n_embd} -> {found.n_reduced} -> 1, {count(found.n_params)} parameters, all finite"),
        ("threshold", f"{found.threshold:.6g} nats"),
        ("top-k", str(found.top_k)),
        ("temp scale", f"{found.temp_scale:.6g} ({'on' if found.temp_enabled else 'off unless asked for'})"),
        (
            "weights",
            ", ".join(f"{name.removeprefix('neg.')} {mean:.3g}" for name, mean in found.mean_abs.items())
            + " (mean size)",
        ),
        ("source", shown(found.source)),
        ("backbone", shown(found.base_arch or "") if found.form != "safetensors" else "any of this hidden size"),
        ("its norm", f"sha256:{found.base_norm_sha256}" if found.base_norm_sha256 else ""),
    ]


def _usage(message: str) -> int:
    print(f"darwin-neg neg: error: {message}", file=sys.stderr)
    return 2
