"""`darwin-neg quantize`: a GGUF file in another type, the NEG head as it was."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..convert.quantize import TYPES, quantize
from ..errors import RequestError
from ..files.input_file import shown_path
from ..files.progress import ProgressBar
from .options import add_force_option, add_threads_option
from .terminal import human_bytes


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "quantize",
        help="quantize a GGUF file",
        description="Quantizes a model through llama.cpp. The NEG head keeps its values, bit for bit.",
    )
    parser.add_argument("model", metavar="IN", help="GGUF model file in F32, F16 or BF16")
    parser.add_argument("output", metavar="OUT", nargs="?", help="output, in the place of --out, as in llama-quantize")
    parser.add_argument("type", metavar="TYPE", type=str.lower, help=", ".join(TYPES))
    parser.add_argument("-o", "--out", "--outfile", metavar="FILE", help="output")
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix")
    parser.add_argument("--allow-requantize", action="store_true", help="accept an IN that is quantized, at a loss")
    add_threads_option(parser, default="one per core")
    add_force_option(parser)
    parser.set_defaults(run=run, arguments={"threads": "n_threads"})


def run(args: argparse.Namespace) -> int:
    if (args.output is None) == (args.out is None):
        raise RequestError("give the output once, as OUT or with --out FILE")
    out = args.output or args.out
    with ProgressBar("quantizing", unit=" tensors") as progress:
        quantize(
            args.model,
            out,
            args.type,
            imatrix=args.imatrix,
            allow_requantize=args.allow_requantize,
            threads=args.n_threads,
            force=args.force,
            progress=progress,
        )
    print(f"{shown_path(out)}: {args.type.upper()}, {human_bytes(Path(out).stat().st_size)}")
    return 0
