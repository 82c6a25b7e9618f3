"""`darwin-neg neg attach | detach | inspect`: joins a NEG head to a model file, takes it off, or shows it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..files.progress import ProgressBar
from ..gguf_file.parts import read_model
from ..neg import files as neg_files
from ..neg.head import random_head
from .options import add_force_option, add_json_option


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "neg", help="attach, detach or inspect a NEG head", description="Works on the NEG head of model files."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    attach = actions.add_parser(
        "attach",
        help="join a head to a model file",
        description="Writes a copy of the model with the head inside, or the head as a side-car for this model.",
    )
    attach.add_argument("model", metavar="MODEL", help="GGUF model file, any quantization")
    attach.add_argument(
        "head", metavar="HEAD", nargs="?", help="neg_modules.safetensors, a side-car, or a model with a head"
    )
    attach.add_argument("-o", "--out", metavar="FILE", help="output (default: MODEL's name with -neg before .gguf)")
    attach.add_argument(
        "--side-car", metavar="FILE", help="write only the head, as a side-car for MODEL (about 17 MB for the 9B model)"
    )
    attach.add_argument(
        "--random",
        type=int,
        metavar="SEED",
        help="instead of HEAD: a random head, to try things out; its predictions mean nothing",
    )
    attach.add_argument("--replace", action="store_true", help="drop the head that MODEL carries already")
    add_force_option(attach)
    attach.set_defaults(run=run_attach)

    detach = actions.add_parser(
        "detach",
        help="take the head off a model file",
        description="Writes a copy of the model without its head, which other llama.cpp builds can open.",
    )
    detach.add_argument("model", metavar="MODEL", help="GGUF model file with a head")
    detach.add_argument("-o", "--out", metavar="FILE", required=True, help="output")
    detach.add_argument("--side-car", metavar="FILE", help="keep the head in this side-car")
    add_force_option(detach)
    detach.set_defaults(run=run_detach)

    inspect = actions.add_parser(
        "inspect", help="show a head", description="Reads and checks the head of a model, side-car or safetensors file."
    )
    inspect.add_argument("file", metavar="FILE", help="GGUF model, side-car, or neg_modules.safetensors")
    add_json_option(inspect)
    inspect.set_defaults(run=run_inspect)


def run_attach(args: argparse.Namespace) -> int:
    if (args.head is None) == (args.random is None):
        raise RequestError("give either HEAD, the file with the head, or --random SEED")
    if args.side_car and args.out:
        raise RequestError(
            "--out and --side-car are both given, but a side-car is written instead of a model; give one"
        )
    head = args.head
    if args.random is not None:
        head = random_head(neg_files.hidden_size(read_model(args.model)), args.random)
        print("darwin-neg: this head is RANDOM; its predictions mean nothing", file=sys.stderr)
    if args.side_car:
        neg_files.write_side_car(head, args.model, args.side_car, force=args.force)
        print(f"{args.side_car}: NEG side-car for {args.model}; use it with --side-car, or with neg= in Python")
        return 0
    model = Path(args.model)
    out = args.out or str(model.with_name(f"{model.name.removesuffix('.gguf')}-neg.gguf"))
    with ProgressBar("attaching") as progress:
        neg_files.attach(model, head, out, force=args.force, replace=args.replace, progress=progress)
    print(f"{out}: model with NEG head, opens with darwin-neg only (other builds: use --side-car, or `neg detach`)")
    return 0


def run_detach(args: argparse.Namespace) -> int:
    with ProgressBar("detaching") as progress:
        neg_files.detach(args.model, args.out, side_car=args.side_car, force=args.force, progress=progress)
    print(f"{args.out}: model without NEG head" + (f"; head kept in {args.side_car}" if args.side_car else ""))
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    found = neg_files.inspect(args.file)
    head = found.head
    facts = {
        "file": found.path,
        "form": found.form,
        "shape": f"{head.n_embd} -> {head.n_reduced} -> 1",
        "threshold": head.threshold,
        "top_k": head.top_k,
        "temp_scale": head.temp_scale,
        "temp_enabled": head.temp_enabled,
        "source": head.source,
        "base_arch": head.base_arch,
        "base_norm_sha256": head.base_norm_sha256,
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        if value != "":
            print(f"{name:<16}  {value}")
    return 0
