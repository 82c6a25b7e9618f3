"""`darwin-neg chat`: a conversation. Ctrl-C stops the answer and not the program."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..cache import cache_root
from ..errors import ContextFullError, RequestError
from ..llm import DarwinNEG
from ..results import Chunk
from ..sampling import Neg, SamplingParams
from .generate import stream_answer
from .options import add_model_options, add_sampling_options, load_model, sampling_params
from .terminal import use_colour

HELP = """/exit            leave (also Ctrl-D)
/neg on|off      gate on or off for the next answers
/reset           forget the conversation
/help            this list
Ctrl-C stops the answer that is being written."""


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser("chat", help="talk with the model", description="A conversation with the model. Commands: /exit, /neg on|off, /reset, /help.")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--no-think", action="store_true", help="switch the template's thinking off")
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="colour gated tokens (default auto)")
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with load_model(args) as llm:
        params = sampling_params(args, has_head=llm.neg is not None)
        Conversation(llm, params, system=args.system, thinking=not args.no_think, colour=use_colour(sys.stdout, args.color)).loop()
    return 0


class Conversation:
    """The messages so far and the settings that commands change."""

    def __init__(self, llm: DarwinNEG, params: SamplingParams, *, system: str | None, thinking: bool, colour: bool) -> None:
        self.llm = llm
        self.params = params
        self.thinking = thinking
        self.colour = colour
        self.start = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self.start)

    def loop(self) -> None:
        if sys.stdin.isatty():
            print("Type /help for commands, /exit to leave.", file=sys.stderr)
        with _history():
            while True:
                try:
                    line = input("> " if sys.stdin.isatty() else "")
                except EOFError:
                    return
                except KeyboardInterrupt:
                    print(file=sys.stderr)
                    continue
                if line.startswith("/"):
                    if not self.command(line.split()):
                        return
                elif line.strip():
                    self.answer(line)

    def command(self, words: list[str]) -> bool:
        """Obeys a command; False leaves."""
        match words:
            case ["/exit"] | ["/quit"]:
                return False
            case ["/neg", ("on" | "off") as state]:
                if self.llm.neg is None:
                    print("this model has no NEG head", file=sys.stderr)
                else:
                    self.params = replace(self.params, neg=replace(self.params.neg or Neg(), enabled=state == "on"))
                    print(f"gate {state}", file=sys.stderr)
            case ["/reset"]:
                self.messages = list(self.start)
                print("conversation forgotten", file=sys.stderr)
            case _:
                print(HELP, file=sys.stderr)
        return True

    def answer(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        seen: list[Chunk] = []

        def record(chunks: Iterator[Any]) -> Iterator[Chunk]:
            for part in chunks:
                seen.append(part)
                yield part.chunk

        try:
            with contextlib.suppress(KeyboardInterrupt):
                stream_answer(record(self.llm.stream_chat(self.messages, self.params, enable_thinking=self.thinking)), colour=self.colour)
        except (RequestError, ContextFullError) as error:
            # the conversation goes on without the message that could not be answered
            print(f"darwin-neg: {error}; /reset forgets the conversation", file=sys.stderr)
            self.messages.pop()
            return
        # reasoning is not part of the history, as the templates expect
        self.messages.append({"role": "assistant", "content": "".join(part.text for part in seen) or " "})


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Line editing with a history file, on a terminal that has readline."""
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    path = cache_root() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
