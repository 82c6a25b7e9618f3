"""`darwin-neg quantize`: a GGUF file in another type, the NEG head as it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..convert.quantize import TYPES, quantize
from ..files.input_file import shown_path
from ..files.progress import ProgressBar
from .terminal import human_bytes


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "quantize",
        help="quantize a GGUF file",
        description="Quantizes a model through llama.cpp. The NEG head keeps its values, bit for bit.",
    )
    parser.add_argument("model", metavar="IN", help="GGUF model file in F32, F16 or BF16")
    parser.add_argument("out", metavar="OUT", help="output")
    parser.add_argument("type", metavar="TYPE", type=str.lower, help=", ".join(TYPES))
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix")
    parser.add_argument("--allow-requantize", action="store_true", help="IN may be quantized already, at a loss")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads (default: all)")
    parser.add_argument("--force", action="store_true", help="replace an existing output file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with ProgressBar("quantizing", unit=" tensors") as progress:
        quantize(
            args.model,
            args.out,
            args.type,
            imatrix=args.imatrix,
            allow_requantize=args.allow_requantize,
            threads=args.threads,
            force=args.force,
            progress=progress,
        )
    print(f"{shown_path(args.out)}: {args.type.upper()}, {human_bytes(Path(args.out).stat().st_size)}")
    return 0
