"""`darwin-neg generate`: an answer to one prompt, live."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from . import options
from .options import (
    add_chat_template_option,
    add_colour_option,
    add_json_option,
    add_model_options,
    add_sampling_options,
    add_spans_option,
    add_thinking_options,
    check_model_options,
    given_text,
    load_model,
    sampling_params,
    spans_threshold,
)

if TYPE_CHECKING:
    from ..llm import DarwinNEG
    from ..results import ChatReply, Generation
    from ..sampling import SamplingParams

DEMO_PROMPT = "Why is the sky blue? Explain it to a child in three sentences."


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "generate",
        help="generate text from a prompt",
        description="Generates text and shows it as it is generated, with the tokens at which the gate was active in "
        "colour. The answer goes to standard output, a closing line with figures to standard error.",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the prompt, or - to read it from standard input")
    parser.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file, without its last newline")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    form.add_argument("--raw", action="store_true", help="continue the prompt as it is (default, except for --demo)")
    add_thinking_options(parser, when="with --chat: ")
    parser.add_argument(
        "--samples", dest="n", type=int, default=1, metavar="N", help="answers to generate side by side (default 1)"
    )
    add_json_option(parser, "print one JSON object per sample, in OpenAI's form, at the end")
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing line")
    add_spans_option(parser)
    add_colour_option(parser)
    add_chat_template_option(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # bad options and prompts are refused before the model is loaded
    check_model_options(args)
    sampling_params(args, n=args.n)
    prompt = read_prompt(args)
    as_chat = args.chat or (args.demo and not args.raw)
    options.check_chat_template_option(args, as_chat=as_chat)
    with load_model(args) as llm:
        args.spans_above = spans_threshold(args, llm)
        params = sampling_params(args, has_head=llm.neg is not None, n=args.n)
        if args.json or args.n != 1:
            return print_samples(args, llm, prompt, params, as_chat=as_chat)
        print_live(args, llm, prompt, params, as_chat=as_chat)
    return 0


def print_samples(
    args: argparse.Namespace, llm: DarwinNEG, prompt: str, params: SamplingParams, *, as_chat: bool
) -> int:
    """Prints all samples, and returns the exit code: 1 when one of them failed."""
    from ..files.shown_text import escape_terminal
    from .terminal import print_note, print_spans

    out: Generation | ChatReply | list[Generation] | list[ChatReply]
    if as_chat:
        out = llm.chat([{"role": "user", "content": prompt}], params, enable_thinking=args.thinking)
    else:
        out = llm.generate(prompt, params)
    clean = escape_terminal if sys.stdout.isatty() else str
    samples = out if isinstance(out, list) else [out]
    for k, sample in enumerate(samples):
        spans = [] if args.spans_above is None else sample.uncertain_spans(args.spans_above)
        if args.json:
            found = sample.to_openai()
            if args.spans_above is not None:
                found["choices"][0]["uncertain_spans"] = [span.as_dict() for span in spans]
            print(json.dumps(found, ensure_ascii=False))
        else:
            print(f"--- sample {k}\n{clean(str(sample))}", flush=True)
            if args.spans_above is not None:
                print_spans(spans, str(sample), args.spans_above)
        if sample.error is not None:
            print_note(f"sample {k} failed: {sample.error}")
    return 1 if any(sample.error is not None for sample in samples) else 0


def print_live(args: argparse.Namespace, llm: DarwinNEG, prompt: str, params: SamplingParams, *, as_chat: bool) -> None:
    from .terminal import AnswerWriter, closing_line, print_note, print_spans, use_colour

    writer = AnswerWriter(sys.stdout, colour=use_colour(sys.stdout, args.color))
    try:
        if as_chat:
            messages = [{"role": "user", "content": prompt}]
            with contextlib.closing(llm.stream_chat(messages, params, enable_thinking=args.thinking)) as parts:
                for part in parts:
                    writer.add(part.chunk, part.text, part.reasoning)
        else:
            with llm.stream(prompt, params) as chunks:
                for chunk in chunks:
                    writer.add(chunk)
    finally:
        if writer.chunks:
            writer.end()
            if args.spans_above is not None:
                print_spans(writer.answer().uncertain_spans(args.spans_above), str(writer.answer()), args.spans_above)
            if not args.quiet:
                print_note(closing_line(writer.chunks))


def read_prompt(args: argparse.Namespace) -> str:
    """Takes the prompt from the argument, the file or standard input."""
    if args.prompt is not None and args.file is not None:
        raise RequestError("a prompt and --file are both given; give one")
    if args.file is not None:
        return options.read_prompt(args.file)
    if args.prompt == "-" or (args.prompt is None and options.is_piped()):
        text = options.read_prompt("-")
        # the demo has a prompt of its own for where nothing is piped in, such as a build's empty input
        if text.strip() or args.prompt == "-" or not args.demo:
            return text
    if args.prompt is None:
        if args.demo:
            return DEMO_PROMPT
        raise RequestError("no prompt given; write it as an argument, or use -f FILE, or - for standard input")
    return given_text(args, "PROMPT", args.prompt)
