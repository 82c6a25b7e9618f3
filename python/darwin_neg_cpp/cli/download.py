"""`darwin-neg download`: a model from a repository of the Hugging Face hub, as a GGUF file in the cache."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from ..files.input_file import shown_path
from .options import add_json_option


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "download",
        help="download a model from the Hugging Face hub",
        description="Downloads a GGUF file of a repository, and the NEG side-car beside it, or converts the "
        "repository's checkpoint; then prints the path of the model file, which lies in the cache. "
        "What is there already is not downloaded again.",
    )
    parser.add_argument(
        "repo", metavar="REPO", help="repository id, OWNER/NAME or OWNER/NAME:TYPE, or the address of its page"
    )
    parser.add_argument(
        "--quant",
        metavar="TYPE",
        help="which of several GGUF files (Q4_K_M, or a pattern: '*q4*'), or the type to convert a checkpoint to",
    )
    parser.add_argument("--file", metavar="NAME", help="the GGUF file of this name, or of this pattern")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository")
    add_json_option(parser, "print the paths of model and side-car as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..pretrained import fetch

    # the token comes from the environment or from `hf auth login`: other users can see a command line
    token = os.environ.get("HF_TOKEN") or None
    model, side_car = fetch(args.repo, quant=args.quant, file=args.file, token=token, revision=args.revision)
    if args.json:
        print(json.dumps({"model": model, "side_car": side_car}))
        return 0
    print(model)
    if side_car is not None:
        print(f"darwin-neg: NEG side-car: {shown_path(side_car)}; use it with --side-car", file=sys.stderr)
    return 0
