"""`darwin-neg generate`: an answer to one prompt, live."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from ..results import Chunk, NegTrace
from .options import add_model_options, add_sampling_options, load_model, sampling_params
from .terminal import DIM, RESET, closing_line, use_colour, write_chunk

DEMO_PROMPT = "Why is the sky blue? Explain it to a child in three sentences."


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("generate", help="generate text from a prompt", description="Generates text; tokens at which the gate was active are coloured on a terminal.")
    parser.add_argument("prompt", nargs="?", help="the prompt, or - to read it from standard input")
    parser.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a file")
    parser.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    parser.add_argument("--no-think", action="store_true", help="with --chat: switch the template's thinking off")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="answers to generate side by side (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a sample, when finished")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colour gated tokens (default auto)")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    prompt, as_chat = read_prompt(args)
    with load_model(args) as llm:
        params = sampling_params(args, has_head=llm.neg is not None)
        if args.json or args.samples != 1:
            messages = [{"role": "user", "content": prompt}]
            options = {"n": args.samples}
            out = llm.chat(messages, params, enable_thinking=not args.no_think, **options) if as_chat else llm.generate(prompt, params, **options)
            for one in out if isinstance(out, list) else [out]:
                print(json.dumps(one.to_openai(), ensure_ascii=False) if args.json else f"--- sample {one_index(one)}\n{one}")
            return 0
        if as_chat:
            text = llm.apply_chat_template([{"role": "user", "content": prompt}], enable_thinking=not args.no_think)
            chunks = llm.stream(text, params)
        else:
            chunks = llm.stream(prompt, params)
        stream_answer(chunks, colour=use_colour(sys.stdout, args.color))
    return 0


def one_index(one: Any) -> int:
    return int(getattr(one, "generation", one).index)


def read_prompt(args: argparse.Namespace) -> tuple[str, bool]:
    """(prompt, whether to use the chat template)."""
    if args.prompt is not None and args.file is not None:
        raise RequestError("a prompt and --file are both given; give one")
    if args.file is not None:
        try:
            return Path(args.file).read_text("utf-8"), args.chat
        except UnicodeDecodeError:
            raise RequestError(f"{args.file}: is not UTF-8 text") from None
    if args.prompt == "-" or (args.prompt is None and not sys.stdin.isatty() and not args.demo):
        try:
            return sys.stdin.buffer.read().decode("utf-8"), args.chat
        except UnicodeDecodeError:
            raise RequestError("standard input is not UTF-8 text") from None
    if args.prompt is None:
        if args.demo:
            return DEMO_PROMPT, True
        raise RequestError("no prompt given; write it as an argument, or use -f FILE or - for standard input")
    return args.prompt, args.chat


def stream_answer(chunks: Any, *, colour: bool) -> list[Chunk]:
    """Shows an answer as it comes and the closing line after it (on stderr, so that a pipe gets the text alone)."""
    begin: float | None = None
    seen: list[Chunk] = []
    try:
        for chunk in chunks:
            begin = begin or time.perf_counter()
            seen.append(chunk)
            write_chunk(chunk, sys.stdout, colour=colour)
    finally:
        if seen:
            print()
        tokens = sum(len(chunk.token_ids) for chunk in seen)
        negs = [chunk.neg for chunk in seen if chunk.neg is not None]
        trace = NegTrace(np.concatenate([n.entropy for n in negs]), np.concatenate([n.active for n in negs])) if negs else None
        line = closing_line(tokens, time.perf_counter() - begin if begin else 0.0, trace)
        print(f"{DIM}{line}{RESET}" if use_colour(sys.stderr) else line, file=sys.stderr)
    return seen
