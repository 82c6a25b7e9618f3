"""`darwin-neg info FILE`: what a model file is, and the memory that running it takes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from darwin_neg_cpp.cli.fields import count, print_fields, size

if TYPE_CHECKING:
    from darwin_neg_cpp.gguf_info import ModelInfo


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "info",
        help="what a GGUF file holds and the memory it takes",
        description="Shows architecture, quantization, tensors, NEG head and expected memory of a GGUF file. Reads its header only.",
    )
    parser.add_argument("file", metavar="FILE", help="a GGUF file: model or NEG side-car")
    parser.add_argument(
        "--n-ctx",
        type=_positive,
        help="tokens of context to expect memory for (default: 4096, or the trained context if shorter)",
    )
    parser.add_argument(
        "--n-parallel", type=_positive, default=1, help="sequences at once to expect memory for (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from darwin_neg_cpp.gguf_info import info

    found = info(args.file, n_ctx=args.n_ctx, n_parallel=args.n_parallel)
    if args.json:
        print(json.dumps({**asdict(found), "memory": {**asdict(found.memory), "total": found.memory.total}}))
    else:
        from darwin_neg_cpp.input_file import shown_path

        print_fields(f"{shown_path(found.path)}  ({size(found.size_bytes)})", _fields(found))
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return value


def _fields(found: ModelInfo) -> Iterator[tuple[str, str]]:
    from darwin_neg_cpp.input_file import shown

    kind = "NEG side-car" if found.is_side_car else shown(found.architecture or "not told")
    yield "architecture", f"{kind}, {shown(found.name)}" if found.name else kind
    types = ", ".join(f"{name} {c.n_tensors}" for name, c in found.tensor_types.items())
    yield "quantization", f"{found.quantization or 'not told'} (tensors: {types or 'none'})"
    yield "parameters", f"{count(found.n_params)} in {found.n_tensors} tensors"
    shape = [(found.n_layer, "layers"), (found.n_embd, "hidden"), (found.n_vocab, "tokens of vocabulary")]
    yield "shape", ", ".join(f"{n:,} {what}" for n, what in shape if n is not None)
    yield "context", f"{found.n_ctx_train:,} tokens trained" if found.n_ctx_train else ""
    yield "chat template", "" if found.is_side_car else "yes" if found.has_chat_template else "none"
    if found.split:
        yield "split", f"file {found.split[0] + 1} of {found.split[1]}: the figures are this file's alone"
    if not found.is_side_car:
        yield "memory", _memory(found)
    neg = found.neg
    if neg is None:
        yield "NEG head", "none; add one with `darwin-neg neg attach`"
        return
    yield "NEG head", f"{neg.n_embd} -> {neg.n_reduced} -> 1, threshold {neg.threshold:.4g} nats, top-k {neg.top_k}"
    yield "temp scale", f"{neg.temp_scale:.4g} ({'on' if neg.temp_enabled else 'off unless asked for'})"
    yield "source", shown(neg.source)


def _memory(found: ModelInfo) -> str:
    m = found.memory
    parts = [f"weights {size(m.weights)}"]
    parts.append(f"KV cache {size(m.kv_cache)}" if m.kv_cache is not None else "KV cache unknown")
    if m.recurrent_state:
        parts.append(f"recurrent state {size(m.recurrent_state)}")
    return f"{size(m.total)} at n_ctx {m.n_ctx}, n_parallel {m.n_parallel} ({', '.join(parts)}) + compute buffers"
