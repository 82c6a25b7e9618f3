"""Options that several verbs share: which model, and how to sample."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..sampling import Neg, SamplingParams

if TYPE_CHECKING:
    from ..llm import DarwinNEG, ModelOptions


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE", help="GGUF model file")
    group.add_argument("--side-car", metavar="FILE", help="NEG side-car for a model file without a head")
    group.add_argument(
        "--demo",
        action="store_true",
        help="the demo model (SmolLM2-135M, fetched once, 94 MB) with the head that comes with the package",
    )
    group.add_argument(
        "-c",
        "--n-ctx",
        type=int,
        default=4096,
        metavar="N",
        help="context in tokens, 0: the model's own (default 4096)",
    )
    group.add_argument(
        "--n-parallel", type=int, default=8, metavar="N", help="sequences that generate side by side (default 8)"
    )
    _add_machine_options(group)
    group.add_argument("-ctk", "--type-k", default="f16", metavar="TYPE", help="type of the K cache (default f16)")
    group.add_argument("-ctv", "--type-v", default="f16", metavar="TYPE", help="type of the V cache (default f16)")


def add_text_model_options(parser: argparse.ArgumentParser, *, side_car: bool) -> None:
    """For verbs that run given texts through a model: which one, and on what."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE", required=True, help="GGUF model file")
    if side_car:
        group.add_argument("--side-car", metavar="FILE", help="NEG side-car for a model file without a head")
    _add_machine_options(group)


def _add_machine_options(group: Any) -> None:
    group.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="CPU threads (default: chosen)")
    group.add_argument(
        "-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)"
    )
    group.add_argument("-fa", "--flash-attn", choices=("auto", "on", "off"), default="auto", help="flash attention")
    group.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's log on stderr")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    d = SamplingParams()
    group = parser.add_argument_group("sampling")

    def number(name: str, *names: str, metavar: str, default: float, off: str, kind: type = float) -> None:
        note = f"{off} (default {default:g})" if off else f"(default {default:g})"
        group.add_argument(f"--{name}", *names, type=kind, default=default, metavar=metavar, help=note)

    group.add_argument(
        "-n", "--max-tokens", type=int, metavar="N", help="most new tokens (default: to the end of the answer)"
    )
    assert isinstance(d.temperature, float)
    number("temperature", "--temp", metavar="T", default=d.temperature, off="0 is greedy")
    number("top-k", metavar="K", default=d.top_k, off="0 is off", kind=int)
    number("top-p", metavar="P", default=d.top_p, off="1 is off")
    number("min-p", metavar="P", default=d.min_p, off="0 is off")
    number("typical-p", metavar="P", default=d.typical_p, off="1 is off")
    number("repeat-penalty", metavar="X", default=d.repeat_penalty, off="1 is off")
    number("repeat-last-n", metavar="N", default=d.repeat_last_n, off="tokens that penalties look at", kind=int)
    number("frequency-penalty", metavar="X", default=d.frequency_penalty, off="0 is off")
    number("presence-penalty", metavar="X", default=d.presence_penalty, off="0 is off")
    group.add_argument("--seed", type=int, metavar="N", help="makes sampling repeatable (default: drawn and reported)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends the answer (repeatable)")
    group.add_argument("--grammar-file", metavar="FILE", help="GBNF grammar that the answer must follow")
    group.add_argument("--json-schema", metavar="JSON", help="JSON schema that the answer must follow, or @FILE")
    group.add_argument("--ignore-eos", action="store_true", help="go on after the end of the answer")
    group = parser.add_argument_group("NEG gate")
    group.add_argument(
        "--neg",
        choices=("mask", "sample", "off"),
        help="mask: keep the top tokens where the predicted entropy is high (default; changes nothing under greedy "
        "decoding); sample: draw from them there, also under greedy; off: only report",
    )
    group.add_argument("--neg-threshold", type=float, metavar="NATS", help="active above this (default: the model's)")
    group.add_argument("--neg-top-k", type=int, metavar="K", help="tokens kept where active (default: the model's)")
    group.add_argument("--temp-scale", action="store_true", help="divide the kept logits by the model's temp_scale")


def add_colour_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour gated tokens; auto: on a terminal, unless NO_COLOR is set (default)",
    )


def check_model_options(args: argparse.Namespace) -> None:
    """Exactly one model must be named; told before anything is read from standard input."""
    if args.demo and (args.model or args.side_car):
        raise RequestError("--demo brings its own model; leave out --model and --side-car")
    if not args.demo and not args.model:
        raise RequestError("no model given; use --model FILE, or --demo to try the demo model")


def load_model(args: argparse.Namespace) -> DarwinNEG:
    """The model that the options name."""
    check_model_options(args)
    path, side_car = args.model, args.side_car
    if args.demo:
        from .. import demo_model

        path, side_car = map(str, demo_model.model_and_head())
    more: ModelOptions = {
        "n_ctx": args.n_ctx,
        "n_parallel": args.n_parallel,
        "type_k": args.type_k,
        "type_v": args.type_v,
    }
    return _load(args, path, side_car, more)


def load_text_model(args: argparse.Namespace, *, n_ctx: int, n_parallel: int, model: str | None = None) -> DarwinNEG:
    """The model that add_text_model_options named, or another one in its place."""
    more: ModelOptions = {"n_ctx": n_ctx, "n_parallel": n_parallel}
    return _load(args, model or args.model, getattr(args, "side_car", None), more)


def _load(args: argparse.Namespace, path: str, side_car: str | None, more: ModelOptions) -> DarwinNEG:
    from ..files.progress import ProgressBar
    from ..llm import DarwinNEG

    if args.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(message)s")
    with ProgressBar("loading", unit="%") as progress:
        options: ModelOptions = {
            "n_threads": args.threads,
            "n_gpu_layers": args.n_gpu_layers,
            "flash_attn": args.flash_attn,
            "progress": lambda fraction: progress(int(fraction * 100), 100),
            **more,
        }
        return DarwinNEG(path, side_car, **options)


def sampling_params(args: argparse.Namespace, *, has_head: bool = True, n: int = 1) -> SamplingParams:
    """SamplingParams from the options; `--neg off` is granted to a model without a head, which never gates."""
    asked = args.neg is not None or args.neg_threshold is not None or args.neg_top_k is not None or args.temp_scale
    neg = None
    if asked and (has_head or args.neg != "off"):
        neg = Neg(
            enabled=args.neg != "off",
            action=args.neg or "mask",
            threshold=args.neg_threshold,
            top_k=args.neg_top_k,
            use_temp_scale=True if args.temp_scale else None,
        )
    schema = args.json_schema
    return SamplingParams(
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        typical_p=args.typical_p,
        repeat_penalty=args.repeat_penalty,
        repeat_last_n=args.repeat_last_n,
        frequency_penalty=args.frequency_penalty,
        presence_penalty=args.presence_penalty,
        seed=args.seed,
        n=n,
        stop=args.stop,
        grammar=read_text(args.grammar_file) if args.grammar_file else None,
        json_schema=read_text(schema[1:]) if schema and schema.startswith("@") else schema,
        ignore_eos=args.ignore_eos,
        neg=neg,
    )


def read_text(path: str) -> str:
    """A file of UTF-8 text; RequestError names it when it is something else."""
    try:
        return Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not UTF-8 text; convert it") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def without_folder(word: str) -> str:
    """Of `path`, `--option=path` and `-opath`, with the name of the file alone: what a report tells of a command line."""
    option = re.match(r"--[\w-]+=|-[A-Za-z](?=.)", word)
    lead = option[0] if option else ""
    path = word[len(lead) :]
    return lead + (os.path.basename(os.path.normpath(path)) if os.sep in path else path)
