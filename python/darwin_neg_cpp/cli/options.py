"""Options that several verbs share: which model, and how to sample."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import RequestError
from ..files.input_text import decode_text, without_last_newline
from ..sampling import BUILT_IN, Neg, SamplingParams
from .escapes import unescape
from .loading_options import add_loading_options, loading_options
from .server_options import check_server_options

if TYPE_CHECKING:
    from ..llm import DarwinNEG, ModelOptions


@dataclass(frozen=True)
class SamplingOption:
    """One field of SamplingParams on the command line. An option that is not given leaves the field's own default.

    flags: with spaces between them. type: what argparse makes of the text. metavar: the value's name in the help text.
    help: the default is added to it. many: the option may be repeated; its values are a list. text: escapes in it are
    understood. read: makes the field's value of the option's.
    """

    flags: str
    field: str
    type: Callable[[str], Any]
    metavar: str
    help: str
    many: bool = False
    text: bool = False
    read: Callable[[Any], Any] | None = None


def read_text(path: str) -> str:
    """Reads a file of UTF-8 text; RequestError names a file that is something else."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    return decode_text(data, f"{path}:", RequestError)


def read_prompt(path: str) -> str:
    """Reads a file, or standard input for `-`, as a prompt, which the newline at its end does not belong to."""
    text = read_standard_input() if path == "-" else read_text(path)
    return without_last_newline(text)


def is_piped() -> bool:
    """Whether standard input is a pipe or a file, and not a terminal or closed."""
    return sys.stdin is not None and not sys.stdin.isatty()


def standard_input() -> TextIO:
    if sys.stdin is None:
        raise RequestError("standard input is closed; pipe something in, or name a file")
    return sys.stdin


def read_standard_input() -> str:
    return decode_text(standard_input().buffer.read(), "standard input", RequestError)


def text_or_file(text: str) -> str:
    """Returns the text, or for `@FILE` what the file holds, without the newline at its end."""
    return read_prompt(text[1:]) if text.startswith("@") else text


def split_names(text: str) -> list[str]:
    """Splits a list in llama.cpp's form, `a;b;c`."""
    return [name.strip() for name in text.split(";") if name.strip()]


def limit_or_none(limit: int) -> int | None:
    """Returns the limit, or None for -1, which stands for no limit in llama.cpp."""
    return None if limit == -1 else limit


def sequence_breakers(texts: list[str]) -> list[str]:
    """Returns the texts of --dry-sequence-breaker; "none" stands for no text, as in llama.cpp."""
    return [] if texts == ["none"] else texts


SAMPLING_OPTIONS = (
    SamplingOption(
        "-n --max-tokens", "max_tokens", int, "N", "maximum number of new tokens (default: to the end of the answer)"
    ),
    SamplingOption("--temperature --temp", "temperature", float, "T", "0 is greedy"),
    SamplingOption("--top-k", "top_k", int, "K", "keep the K most likely tokens, 0 is off"),
    SamplingOption("--top-p", "top_p", float, "P", "keep the likeliest tokens up to this probability mass, 1 is off"),
    SamplingOption("--min-p", "min_p", float, "P", "minimum probability relative to the likeliest token, 0 is off"),
    SamplingOption("--typical-p", "typical_p", float, "P", "locally typical sampling, 1 is off"),
    SamplingOption("--top-nsigma --top-n-sigma", "top_n_sigma", float, "N", "keep logits within N sigmas, -1 is off"),
    SamplingOption("--min-keep", "min_keep", int, "N", "tokens that truncation leaves at least, 0 is off"),
    SamplingOption("--xtc-probability", "xtc_probability", float, "P", "chance that XTC drops top tokens, 0 is off"),
    SamplingOption("--xtc-threshold", "xtc_threshold", float, "P", "probability above which XTC drops tokens"),
    SamplingOption(
        "--adaptive-target", "adaptive_target", float, "P", "probability that adaptive_p aims at, -1 is off"
    ),
    SamplingOption("--adaptive-decay", "adaptive_decay", float, "X", "how much of the past adaptive_p remembers"),
    SamplingOption("--dynatemp-range", "dynatemp_range", float, "T", "range of the dynamic temperature, 0 is off"),
    SamplingOption("--dynatemp-exp", "dynatemp_exponent", float, "X", "exponent of the dynamic temperature"),
    SamplingOption("--mirostat", "mirostat", int, "N", "Mirostat version 1 or 2, which replaces truncation, 0 is off"),
    SamplingOption("--mirostat-ent", "mirostat_tau", float, "X", "Mirostat target entropy, tau"),
    SamplingOption("--mirostat-lr", "mirostat_eta", float, "X", "Mirostat learning rate, eta"),
    SamplingOption("--repeat-penalty", "repeat_penalty", float, "X", "penalty on repeated tokens, 1 is off"),
    SamplingOption("--repeat-last-n", "repeat_last_n", int, "N", "tokens that penalties look at, -1: whole context"),
    SamplingOption("--frequency-penalty", "frequency_penalty", float, "X", "penalty per repetition, 0 is off"),
    SamplingOption("--presence-penalty", "presence_penalty", float, "X", "penalty on tokens seen before, 0 is off"),
    SamplingOption("--dry-multiplier", "dry_multiplier", float, "X", "DRY penalty on repeated sequences, 0 is off"),
    SamplingOption("--dry-base", "dry_base", float, "X", "base of the DRY penalty, which grows with the length"),
    SamplingOption("--dry-allowed-length", "dry_allowed_length", int, "N", "longest repetition without a DRY penalty"),
    SamplingOption(
        "--dry-penalty-last-n", "dry_penalty_last_n", int, "N", "tokens that DRY looks at, -1: whole context"
    ),
    SamplingOption(
        "--dry-sequence-breaker",
        "dry_sequence_breakers",
        str,
        "TEXT",
        "text at which DRY ends a repetition, instead of the defaults (repeatable); none: no text does",
        many=True,
        text=True,
        read=sequence_breakers,
    ),
    SamplingOption(
        "--samplers",
        "samplers",
        str,
        "NAMES",
        "samplers to use, in this order, with semicolons between them (default: of the model file, or "
        "llama.cpp's usual order)",
        read=split_names,
    ),
    SamplingOption(
        "--reasoning-budget",
        "reasoning_budget_tokens",
        int,
        "N",
        "maximum number of tokens of reasoning in a chat answer, -1: no limit (default)",
        read=limit_or_none,
    ),
    SamplingOption("--seed", "seed", int, "N", "random seed (default: drawn, and reported)"),
    SamplingOption("--stop", "stop", str, "TEXT", "end the answer before TEXT (repeatable)", many=True, text=True),
    SamplingOption("--grammar-file", "grammar", str, "FILE", "GBNF grammar that answers must follow", read=read_text),
    SamplingOption(
        "--json-schema", "json_schema", str, "JSON", "JSON schema that answers must follow, or @FILE", read=text_or_file
    ),
)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name and load a model to generate with."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE", help="GGUF model file")
    _add_side_car_option(group)
    group.add_argument(
        "--demo",
        action="store_true",
        help="the demo model (SmolLM2-135M, downloaded once, 94 MB) with the head that comes with the package",
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
    group.add_argument(
        "--no-prefix-cache",
        dest="prefix_cache",
        action="store_const",
        const=0,
        help="decode every prompt from its beginning, even where it begins like an earlier one",
    )
    _add_machine_options(group)
    group.add_argument("-ctk", "--type-k", default="f16", metavar="TYPE", help="type of the K cache (default f16)")
    group.add_argument("-ctv", "--type-v", default="f16", metavar="TYPE", help="type of the V cache (default f16)")
    add_loading_options(parser)
    _add_draft_options(parser)


def add_text_model_options(parser: argparse.ArgumentParser, *, side_car: bool) -> None:
    """Adds the options that name and load a model which is given texts."""
    group = parser.add_argument_group("model")
    group.add_argument("-m", "--model", metavar="FILE", required=True, help="GGUF model file")
    if side_car:
        _add_side_car_option(group)
    _add_machine_options(group)
    add_loading_options(parser)


def _add_draft_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "drafts", "Several tokens are guessed and checked at once. Answers stay the same."
    )
    group.add_argument(
        "--mtp",
        type=int,
        default=0,
        metavar="N",
        help="tokens that the model's own MTP block drafts, 2 or 3 where it has one; 0: none (default)",
    )
    group.add_argument(
        "--draft",
        choices=("none", "ngram"),
        default="none",
        help="ngram: draft what followed the last words where they stood before, which helps with quoting and code",
    )
    group.add_argument(
        "--draft-max", type=int, default=4, metavar="N", help="maximum length of an ngram draft (default 4)"
    )
    group.add_argument(
        "--mtp-max-parallel",
        type=int,
        default=2,
        metavar="N",
        help="make no drafts while more than N sequences generate (default 2)",
    )


def _add_side_car_option(group: Any) -> None:
    group.add_argument("--side-car", metavar="FILE", help="NEG side-car, for a model file without a head")


def _add_machine_options(group: Any) -> None:
    add_threads_option(group)
    group.add_argument(
        "-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)"
    )
    group.add_argument("-fa", "--flash-attn", choices=("auto", "on", "off"), default="auto", help="flash attention")
    group.add_argument(
        "--no-mmap", dest="use_mmap", action="store_false", help="read the model file into memory instead of mapping it"
    )
    group.add_argument("-v", "--verbose", action="store_true", help="show llama.cpp's log on stderr")


def add_threads_option(group: Any, *, default: str = "chosen automatically") -> None:
    group.add_argument(
        "-t", "--threads", dest="n_threads", type=int, default=0, metavar="N", help=f"CPU threads (default: {default})"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of SamplingParams and of the NEG gate."""
    defaults = SamplingParams()
    group = parser.add_argument_group("sampling")
    for option in SAMPLING_OPTIONS:
        default = BUILT_IN.get(option.field, getattr(defaults, option.field))
        note = ""
        if isinstance(default, (int, float)):
            note = f" (default{': of the model file, or' if option.field in BUILT_IN else ''} {default:g})"
        group.add_argument(
            *option.flags.split(),
            dest=option.field,
            type=option.type,
            action="append" if option.many else "store",
            metavar=option.metavar,
            help=option.help + note,
        )
    group.add_argument("--ignore-eos", action="store_true", help="continue after the end of the answer")
    group.add_argument(
        "-e",
        "--escape",
        action="store_true",
        default=True,
        help="understand \\n, \\r, \\t, \\', \\\", \\\\ and \\xHH in PROMPT and option texts, not in files (default)",
    )
    group.add_argument("--no-escape", dest="escape", action="store_false", help="take backslashes in them as they are")
    group.add_argument(
        "--no-file-sampling",
        dest="file_sampling",
        action="store_false",
        help="for options that are not given, use llama.cpp's defaults instead of those of the model file",
    )
    group = parser.add_argument_group("NEG gate")
    group.add_argument(
        "--neg",
        dest="neg_action",
        choices=("mask", "sample", "off"),
        help="what the gate does where the predicted entropy is high; mask: keep the top tokens (default; changes "
        "nothing under greedy decoding); sample: draw from them, also under greedy decoding; off: nothing",
    )
    group.add_argument(
        "--neg-threshold", type=float, metavar="NATS", help="entropy above which the gate acts (default: the model's)"
    )
    group.add_argument(
        "--neg-top-k", type=int, metavar="K", help="tokens kept where the gate acts (default: the model's)"
    )
    group.add_argument(
        "--temp-scale",
        dest="neg_use_temp_scale",
        action="store_true",
        help="divide the kept logits by the model's temp_scale",
    )


def add_colour_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour gated tokens; auto: on a terminal, unless NO_COLOR is set (default)",
    )


def add_spans_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--uncertain-spans",
        action="store_true",
        help="after the answer, list its stretches where the predicted entropy is above --neg-threshold (default: the "
        "model's)",
    )


def spans_threshold(args: argparse.Namespace, llm: DarwinNEG) -> float | None:
    """Returns the threshold of --uncertain-spans in nats, None where the option is not given."""
    if not args.uncertain_spans:
        return None
    if llm.neg is None:
        raise RequestError("--uncertain-spans needs a NEG head, which this model lacks; give one with --side-car")
    return float(llm.neg["threshold"]) if args.neg_threshold is None else float(args.neg_threshold)


def add_chat_template_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--chat-template", metavar="FILE", help="file with a Jinja chat template to use instead of the model's own"
    )


def check_chat_template_option(args: argparse.Namespace, *, as_chat: bool) -> None:
    """Refuses a template for a prompt that is not put into one."""
    if args.chat_template is not None and not as_chat:
        raise RequestError("--chat-template acts on conversations alone; pass --chat too, or leave it out")


def add_thinking_options(parser: argparse.ArgumentParser, *, when: str = "") -> None:
    """Without either, the template decides. when: put before the help texts."""
    switch = parser.add_mutually_exclusive_group()
    for flag, value, word in (("--think", True, "on"), ("--no-think", False, "off")):
        switch.add_argument(
            flag,
            dest="thinking",
            action="store_const",
            const=value,
            help=f"{when}switch {word} the template's thinking",
        )


def add_force_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace existing output files")


def add_json_option(parser: argparse.ArgumentParser, help: str = "print JSON") -> None:
    parser.add_argument("--json", action="store_true", help=help)


def check_model_options(args: argparse.Namespace) -> None:
    """Refuses anything but exactly one model, before standard input is read."""
    if getattr(args, "servers", None):
        check_server_options(args)
        return
    if args.demo and (args.model or args.side_car):
        raise RequestError("--demo brings its own model; leave out --model and --side-car")
    if not args.demo and not args.model:
        servers = ", or --server URL for one on a server" if hasattr(args, "servers") else ""
        raise RequestError(f"no model given; use --model FILE, or --demo to try the demo model{servers}")


def load_repeatable_model(args: argparse.Namespace) -> DarwinNEG:
    """Loads the model for questions."""
    set_repeatable(args)
    return load_model(args)


def set_repeatable(args: argparse.Namespace) -> None:
    """With one sequence at a time each answer depends on its prompt alone, so that a run can be repeated exactly. What
    is kept of other prompts would change the rounding."""
    if args.n_parallel == 1:
        args.prefix_cache = 0


def load_model(args: argparse.Namespace) -> DarwinNEG:
    """Loads the model that the options name."""
    check_model_options(args)
    path, side_car = args.model, args.side_car
    if args.demo:
        from .. import demo_model

        path, side_car = map(str, demo_model.model_and_head())
    return _load(args, path, side_car, generating_options(args))


def generating_options(args: argparse.Namespace) -> ModelOptions:
    """Options of a model that generates, beside those that every model has."""
    more: ModelOptions = {
        "n_ctx": args.n_ctx,
        "n_parallel": args.n_parallel,
        "type_k": args.type_k,
        "type_v": args.type_v,
        "mtp": args.mtp,
        "draft": args.draft,
        "draft_max": args.draft_max,
        "mtp_max_parallel": args.mtp_max_parallel,
    }
    if args.prefix_cache is not None:
        more["prefix_cache"] = args.prefix_cache
    if getattr(args, "chat_template", None) is not None:
        more["chat_template"] = read_text(args.chat_template)
    return more


def load_text_model(args: argparse.Namespace, *, n_ctx: int, n_parallel: int, model: str | None = None) -> DarwinNEG:
    """Loads the model that the options of add_text_model_options name, or `model` with the same settings."""
    return _load(args, model or args.model, getattr(args, "side_car", None), text_options(n_ctx, n_parallel))


def text_options(n_ctx: int, n_parallel: int) -> ModelOptions:
    """Options of a model that is given texts: nothing is kept of other texts, so that an interrupted run draws and sees
    the same as an undisturbed one."""
    return {"n_ctx": n_ctx, "n_parallel": n_parallel, "prefix_cache": 0}


def _load(args: argparse.Namespace, path: str, side_car: str | None, more: ModelOptions) -> DarwinNEG:
    from ..files.progress import ProgressBar
    from ..llm import DarwinNEG

    if args.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(message)s")
    with ProgressBar("loading", unit="%") as progress:
        more = {**more, "progress": lambda fraction: progress(int(fraction * 100), 100)}
        return DarwinNEG(path, side_car, **model_options(args, more))


def model_options(args: argparse.Namespace, more: ModelOptions) -> ModelOptions:
    """All options of the model, `more` among them, as DarwinNEG takes them."""
    return {
        "n_threads": args.n_threads,
        "n_gpu_layers": args.n_gpu_layers,
        "flash_attn": args.flash_attn,
        "file_sampling": getattr(args, "file_sampling", True),
        "use_mmap": args.use_mmap,
        **loading_options(args),
        **more,
    }


def given_text(args: argparse.Namespace, name: str, text: str) -> str:
    """Returns a text as it is meant: with its escapes replaced, unless --no-escape is given. name: for errors."""
    return unescape(name, text) if args.escape else text


def sampling_params(args: argparse.Namespace, *, has_head: bool = True, n: int = 1) -> SamplingParams:
    """Returns SamplingParams from the options; a model without a head may be given `--neg off`, as it never gates."""
    values: dict[str, Any] = {}
    for option in SAMPLING_OPTIONS:
        if (value := getattr(args, option.field)) is not None:
            if option.text:
                value = [given_text(args, option.flags.split()[0], text) for text in value]
            values[option.field] = option.read(value) if option.read else value
    return SamplingParams(**values, n=n, ignore_eos=args.ignore_eos, neg=_neg(args, has_head=has_head))


def _neg(args: argparse.Namespace, *, has_head: bool) -> Neg | None:
    """Use of the gate, None when no option speaks of it."""
    if (args.neg_action, args.neg_threshold, args.neg_top_k, args.neg_use_temp_scale) == (None, None, None, False):
        return None
    if args.neg_action == "off" and not has_head:
        return None
    return Neg(
        enabled=args.neg_action != "off",
        action=args.neg_action or "mask",
        threshold=args.neg_threshold,
        top_k=args.neg_top_k,
        use_temp_scale=True if args.neg_use_temp_scale else None,
    )


def without_folder(word: str) -> str:
    """Returns a word of a command line as reports show it: of `path`, `--option=path` and `-opath` the file's name."""
    if "://" in word:
        return word
    option = re.match(r"--[\w-]+=|-[A-Za-z](?=.)", word)
    lead = option[0] if option else ""
    path = word[len(lead) :]
    return lead + (os.path.basename(os.path.normpath(path)) if os.sep in path else path)
