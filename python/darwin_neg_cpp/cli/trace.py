"""`darwin-neg trace`: what the head predicted along a text, as a page, as JSON, or in the terminal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files.input_file import shown_path
from ..files.shown_text import escape_json, escape_terminal
from .options import (
    add_chat_template_option,
    add_colour_option,
    add_force_option,
    add_json_option,
    add_model_options,
    add_sampling_options,
    check_chat_template_option,
    check_model_options,
    given_text,
    is_piped,
    load_model,
    read_prompt,
    sampling_params,
    text_or_file,
)
from .terminal import RESET, use_colour

if TYPE_CHECKING:
    from ..trace import Trace, TraceToken

# backgrounds of the 256-colour palette from low to high predicted entropy, readable under black text
SHADES = (231, 230, 229, 222, 215, 208)
SHADE_STEP = 1.0  # nats


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "trace",
        help="show predicted and true entropy along a text",
        description="Generates from a prompt, or takes a given text, and shows for each token the predicted and the "
        "true entropy of the distribution that it was chosen from, the gate and the likeliest alternatives. With "
        "none of --out, --json-out and --json, prints the text in colours and the figures.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="generate from this prompt; - reads standard input")
    parser.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file, without its last newline")
    parser.add_argument("--text", metavar="TEXT", help="trace this text as it is, or @FILE; nothing is generated")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("-o", "--out", "--html", metavar="FILE", help="write a self-contained HTML page")
    parser.add_argument("--json-out", metavar="FILE", help="write JSON to a file")
    add_json_option(parser)
    add_force_option(parser)
    add_colour_option(parser)
    add_chat_template_option(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..files.output_file import check_output
    from ..trace import trace_generation, trace_text

    check_model_options(args)
    _check_options_of_text(args)
    text = _read_text(args)
    check_chat_template_option(args, as_chat=args.chat)
    sampling_params(args)
    pages = [Path(args.out)] if args.out is not None else []
    pages += [Path(args.json_out)] if args.json_out is not None else []
    if len(pages) == 2 and _same_file(*pages):
        raise RequestError("--out and --json-out name the same file; choose two names")
    inputs = _inputs(args) if pages else []
    for path in pages:
        check_output(path, inputs, force=args.force)
    with load_model(args) as llm:
        params = sampling_params(args, has_head=llm.neg is not None)
        if args.text is not None:
            found = trace_text(llm, text, neg=params.neg)
        else:
            prompt: str | list[int] = text
            if args.chat:
                prompt = llm.chat_tokens([{"role": "user", "content": text}])
            found = trace_generation(llm, prompt, params)
    _write(args, found)
    return 0


def _read_text(args: argparse.Namespace) -> str:
    """Takes the prompt or the text from the argument, the file or standard input."""
    given = [value for value in (args.prompt, args.file, args.text) if value is not None]
    piped = read_prompt("-") if not given and is_piped() else ""
    if piped.strip():
        return piped
    if len(given) != 1:
        raise RequestError(f"{len(given)} of PROMPT, --file and --text are given; give one")
    if args.text is not None:
        return text_or_file(args.text) if args.text.startswith("@") else given_text(args, "--text", args.text)
    if args.file is not None or args.prompt == "-":
        return read_prompt(args.file or "-")
    return given_text(args, "PROMPT", args.prompt)


def _check_options_of_text(args: argparse.Namespace) -> None:
    """Refuses options of generation with --text: nothing is generated, and a gate is only active or not."""
    if args.text is None:
        return
    for name, is_given in (
        ("--chat", args.chat),
        ("--neg sample", args.neg_action == "sample"),
        ("--neg-top-k", args.neg_top_k is not None),
        ("--temp-scale", args.neg_use_temp_scale),
    ):
        if is_given:
            raise RequestError(f"{name} acts on generation, but with --text nothing is generated; leave it out")


def _inputs(args: argparse.Namespace) -> list[Path]:
    """Lists every file that is read."""
    names = [args.model, args.side_car, args.file, args.grammar, args.chat_template]
    names += [text[1:] for text in (args.text, args.json_schema) if text is not None and text.startswith("@")]
    if args.demo:
        from .. import demo_model

        names += demo_model.model_and_head()
    return [Path(name) for name in names if name is not None and os.path.exists(name)]


def _same_file(a: Path, b: Path) -> bool:
    """Compares also by way of links, and before either file exists."""
    return os.path.realpath(a) == os.path.realpath(b) or (os.path.exists(a) and os.path.exists(b) and a.samefile(b))


def _write(args: argparse.Namespace, found: Trace) -> None:
    from ..files.output_file import replacing
    from ..trace import render_page

    if args.out is not None:
        with replacing(Path(args.out)) as (file, _):
            file.write(render_page(found).encode())
        print(f"{shown_path(args.out)}: written", file=sys.stderr)
    if args.json_out is not None:
        with replacing(Path(args.json_out)) as (file, _):
            file.write(json_text(found).encode())
        print(f"{shown_path(args.json_out)}: written", file=sys.stderr)
    if args.json:
        sys.stdout.write(json_text(found))
    elif args.out is None and args.json_out is None:
        colour = use_colour(sys.stdout, args.color)
        texts = _shown_texts(found) if sys.stdout.isatty() else [token.text for token in found.tokens]
        if colour:
            texts = [_shaded(token, text) for token, text in zip(found.tokens, texts, strict=True)]
        print("".join(texts))
    print(figures(found), file=sys.stderr)


def json_text(found: Trace) -> str:
    """Writes the trace as JSON that is safe to show in a terminal."""
    return escape_json(json.dumps(found.as_dict(), ensure_ascii=False, indent=1, allow_nan=False)) + "\n"


def _shown_texts(found: Trace) -> list[str]:
    """Returns the tokens' texts, safe to show in a terminal."""
    texts, before = [], ""
    for token in found.tokens:
        texts.append(escape_terminal(token.text, after=before))
        before = (before + token.text)[-3:]
    return texts


def _shaded(token: TraceToken, text: str) -> str:
    """Colours the background by predicted (else true) entropy; bold and underlined where the gate was active."""
    value = token.predicted if token.predicted is not None else token.true
    if value is None or not text:
        return text
    shade = SHADES[min(len(SHADES) - 1, int(value / SHADE_STEP))]
    style = f"\033[30;48;5;{shade}m" + ("\033[1;4m" if token.active else "")
    # a background that continues past the end of a line would colour the rest of it
    return "\n".join(f"{style}{part}{RESET}" if part else "" for part in text.split("\n"))


def figures(found: Trace) -> str:
    """Sums up a trace in one line."""
    s = found.summary()

    def of(key: str, form: str) -> str:
        value = s.get(key)
        return "-" if value is None else form.format(value)

    line = f"[{s['tokens']} tokens, mean true entropy {of('mean_true_entropy', '{:.2f}')} nats"
    if not found.has_head:
        return line + ", no NEG head]"
    active = "gate off" if found.action == "off" else f"gate active {of('activation_rate', '{:.1%}')}"
    return (
        f"{line}, predicted {of('mean_predicted_entropy', '{:.2f}')}, mean error {of('mean_error', '{:.2f}')}, "
        f"correlation {of('pearson', '{:.2f}')}, {active}]"
    )
