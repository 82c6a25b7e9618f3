"""`darwin-neg info`: what a GGUF file is and what it will need, and what fits in a given memory."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from ..errors import RequestError
from ..files.input_file import shown
from ..gguf_file.info import ModelInfo
from ..neg.info import info
from ..sampling import FILE_KEYS, read_file_defaults
from .options import add_json_option
from .terminal import aligned, human_bytes

DEFAULT_CONTEXT = 4096


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "info",
        help="describe a GGUF file, or what fits in a given memory",
        description="Shows architecture, quantization, tensors, NEG head and expected memory of a GGUF file. With "
        "--fit, shows which quantizations, contexts and numbers of GPU layers fit in a given memory.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="GGUF model file, NEG side-car or projector (mmproj); with --fit a GGUF model file, a checkpoint's "
        "folder, or nothing for Darwin-9B-NEG as released",
    )
    parser.add_argument(
        "--fit",
        metavar="SIZE",
        help="memory of the GPU, or main memory where there is none: 8GB (8,000,000,000 bytes), 8GiB (8,589,934,592 "
        "bytes), or several with commas between them",
    )
    parser.add_argument(
        "-c",
        "--n-ctx",
        type=int,
        metavar="N",
        help="context to estimate memory for (default 4096), or with --fit the shortest that will do (default 8192)",
    )
    parser.add_argument(
        "--n-parallel", type=int, default=8, metavar="N", help="sequences to estimate memory for (default 8)"
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.fit is not None:
        from ..convert.fit import fit, read_sizes
        from .fit_tables import describe_fit

        report = fit(args.file, read_sizes(args.fit), n_ctx=args.n_ctx, n_parallel=args.n_parallel)
        print(json.dumps(asdict(report), indent=2) if args.json else describe_fit(report))
        return 0
    if args.file is None:
        raise RequestError("no file given; give a GGUF file, or --fit SIZE to see what of Darwin-9B-NEG fits")
    n_ctx = DEFAULT_CONTEXT if args.n_ctx is None else args.n_ctx
    found = info(args.file, n_ctx=n_ctx, n_parallel=args.n_parallel)
    print(json.dumps(asdict(found), indent=2) if args.json else describe(found))
    return 0


def describe(m: ModelInfo) -> str:
    """Formats the report as aligned lines."""
    count = f"{m.n_params / 1e9:.2f} B" if m.n_params >= 1e8 else f"{m.n_params:,}"
    types = ", ".join(f"{n} {name}" for name, n in m.tensor_types.items())
    rows = [
        ("file", f"{m.path} ({human_bytes(m.size_bytes)})"),
        ("name", m.name or "-"),
        ("architecture", m.architecture),
        ("quantization", f"{m.quantization} ({types})"),
        ("parameters", f"{count} in {m.n_tensors} tensors"),
    ]
    if m.projector is not None:
        what = f"projector for images or sound (mmproj) of type {shown(m.projector)}, not a model"
        rows += [("shape", f"{m.n_layer} layers, hidden {m.n_embd}")]
        rows += [("kind", f"{what}; give it to `darwin-neg serve -m MODEL --mmproj FILE`")]
        return aligned(rows)
    rows += [
        ("shape", f"{m.n_layer} layers, hidden {m.n_embd}, vocabulary {m.n_vocab:,}, context {m.n_ctx_train:,}"),
        ("chat template", "yes" if m.has_chat_template else "no"),
    ]
    if m.pre_tokenizer is None:
        rows.append(("pre-tokenizer", "missing (tokenizer.ggml.pre): texts become other tokens than in training"))
    elif m.pre_tokenizer:
        rows.append(("pre-tokenizer", m.pre_tokenizer))
    if m.part_error:
        rows.append(("split", f"this part of {m.split_count} only, and all numbers are its own: {m.part_error}"))
    elif m.split_count > 1:
        rows.append(("split", f"all {m.split_count} parts"))
    if m.neg_error:
        rows.append(("NEG head", f"unusable: {m.neg_error}"))
    elif m.neg is None:
        rows.append(("NEG head", "none (add one with `darwin-neg neg attach`)"))
    else:
        shape = f"{m.neg['n_embd']} -> {m.neg['n_reduced']} -> 1"
        rows.append(("NEG head", f"{shape}, threshold {m.neg['threshold']:.4f} nats, top {m.neg['top_k']}"))
        rows.append(("NEG source", m.neg["source"] or "-"))
    if m.sampling:
        rows.append(("sampling", _sampling(m)))
    if m.memory is not None:
        e = m.memory
        rows.append(
            (
                "memory",
                f"about {human_bytes(e.total)}: weights {human_bytes(e.weights)}, KV cache {human_bytes(e.kv_cache)}"
                + (f", recurrent state {human_bytes(e.recurrent)}" if e.recurrent else "")
                + f" at {e.n_ctx:,} tokens",
            )
        )
    return aligned(rows)


def _sampling(m: ModelInfo) -> str:
    """The defaults that the file sets, under the names of requests, and what of them cannot be used."""
    values, notes = read_file_defaults({FILE_KEYS + name: value for name, value in m.sampling.items()})
    texts = [f"{name} {_list(value)}" for name, value in values.items()]
    return shown(", ".join(texts) or "none") + "".join(f" ({shown(note)})" for note in notes)


def _list(value: Any) -> str:
    return ";".join(value) if isinstance(value, list) else str(value)
