"""`darwin-neg chat`: a conversation. Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ContextFullError, NegHeadError, RequestError
from ..files.cache_folder import cache_root
from ..sampling import Neg, SamplingParams
from .flags import Flag, with_flags
from .options import (
    add_chat_template_option,
    add_colour_option,
    add_model_options,
    add_sampling_options,
    add_spans_option,
    add_thinking_options,
    given_text,
    load_model,
    sampling_params,
    spans_threshold,
    standard_input,
)
from .terminal import AnswerWriter, closing_line, print_note, print_spans, use_colour

if TYPE_CHECKING:
    from ..llm import DarwinNEG

HELP = """\
/exit              leave (also Ctrl-D)
/neg on|off        switch the gate, from the next answer on; /neg alone shows its state
/neg mask|sample   what the gate does where it is active
/reset             forget the conversation
/help              this list
A line that begins with any other word is a message, /etc/hosts too; //help is the message /help.
A line that ends in \\ continues in the next one. Ctrl-C stops the current answer."""

COMMANDS = ("/exit", "/quit", "/neg", "/reset", "/help")
BAD_INPUT = 2  # exit code

HISTORY_LINES = 1000


class Conversation:
    """Holds the messages so far and the settings that commands change."""

    def __init__(self, llm: DarwinNEG, params: SamplingParams, *, system: str | None, thinking: bool | None) -> None:
        self.llm = llm
        self.params = params
        self.thinking = thinking
        self.colour = False
        self.failed = False  # a line could not be obeyed or answered
        self.quiet = False
        self.spans_above: float | None = None  # list stretches of the answer above this threshold, nats
        self.flags: dict[str, Flag] = {}
        self._start = [{"role": "system", "content": system}] if system else []
        self.messages: list[dict[str, str]] = list(self._start)

    def take(self, line: str) -> bool:
        """Obeys a command or answers a message; False leaves."""
        words = line.split()
        if line.startswith("/") and words[0] in COMMANDS:
            return self.command(words)
        if words:
            self.answer(line[1:] if line.startswith("//") else line)
        return True

    def command(self, words: list[str]) -> bool:
        match words:
            case ["/exit"] | ["/quit"]:
                return False
            case ["/neg", *rest]:
                self.set_gate(rest)
            case ["/reset"]:
                self.messages = list(self._start)
                print_note("The conversation is forgotten.")
            case ["/help"]:
                print(HELP, file=sys.stderr)
            case _:
                self._refuse(f"{words[0]} takes nothing after it")
        return True

    def _refuse(self, why: str) -> None:
        self.failed = True
        print_note(f"{why}; begin the line with // to send it as a message")

    def set_gate(self, words: list[str]) -> None:
        """Changes the gate for later answers and shows its state."""
        if self.llm.neg is None:
            self._refuse("this model has no NEG head")
            return
        neg = self.params.neg or Neg()
        match words:
            case []:
                pass
            case ["on"]:
                neg = replace(neg, enabled=True, action="mask" if neg.action == "off" else neg.action)
            case ["off"]:
                neg = replace(neg, enabled=False)
            case ["mask" | "sample" as action]:
                neg = replace(neg, enabled=True, action=action)
            case _:
                self._refuse("/neg takes on, off, mask or sample")
                return
        self.params = replace(self.params, neg=neg)
        threshold = self.llm.neg["threshold"] if neg.threshold is None else neg.threshold
        state = f"on ({neg.action}) above {threshold:.3g} nats" if neg.enabled and neg.action != "off" else "off"
        print_note(f"The gate is {state}.")

    def answer(self, text: str) -> None:
        """Shows the answer to a message. Ctrl-C stops it; the part that was generated stays in the conversation."""
        self.messages.append({"role": "user", "content": text})
        writer = AnswerWriter(sys.stdout, colour=self.colour)
        shown: list[str] = []
        try:
            stream = self.llm.stream_chat(self.messages, self.params, enable_thinking=self.thinking)
            with contextlib.closing(stream) as parts, contextlib.suppress(KeyboardInterrupt):
                for part in parts:
                    writer.add(part.chunk, part.text, part.reasoning)
                    shown.append(part.text)
        except (RequestError, ContextFullError, NegHeadError) as error:
            # the conversation continues without the message that could not be answered
            message = with_flags(" ".join(str(error).split()), self.flags)
            print_note(f"darwin-neg: {message}; /reset forgets the conversation")
            self.messages.pop()
            self.failed = True
            return
        if not writer.chunks:
            print_note("Stopped before the first token; the message is forgotten.")
            self.messages.pop()
            return
        writer.end()
        if self.spans_above is not None:
            print_spans(writer.answer().uncertain_spans(self.spans_above), str(writer.answer()), self.spans_above)
        if not self.quiet:
            print_note(closing_line(writer.chunks))
        # reasoning stays out of the history, as templates expect; a template may refuse an empty message
        self.messages.append({"role": "assistant", "content": "".join(shown) or " "})


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "chat",
        help="talk with the model",
        description="Holds a conversation with the model. Commands: /exit, /neg on|off, /reset, /help. Ctrl-C stops "
        "the answer, not the program. A line that begins with // is a message that begins with /. With a pipe for "
        "input, every line is a message or a command, and the exit code is 2 if one could not be answered or obeyed.",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_thinking_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing lines")
    add_spans_option(parser)
    add_colour_option(parser)
    add_chat_template_option(parser)
    add_model_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    sampling_params(args)  # bad options are refused before the model is loaded
    interactive = standard_input().isatty()
    system = None if args.system is None else given_text(args, "--system", args.system)
    with load_model(args) as llm:
        params = sampling_params(args, has_head=llm.neg is not None)
        conversation = Conversation(llm, params, system=system, thinking=args.thinking)
        conversation.colour = use_colour(sys.stdout, args.color)
        conversation.quiet = args.quiet
        conversation.spans_above = spans_threshold(args, llm)
        conversation.flags = args.flags
        if interactive:
            print_note("Type a message; /help lists the commands, /exit leaves.")
        with _history(interactive):
            for line in read_messages(interactive):
                if not conversation.take(line):
                    break
    return BAD_INPUT if conversation.failed and not interactive else 0


def read_messages(interactive: bool) -> Iterator[str]:
    """Yields messages as they are typed or piped in; a backslash at the end of a line joins the next line to it."""
    parts: list[str] = []
    while True:
        try:
            line = input(("> " if not parts else "… ") if interactive else "")
        except EOFError:
            if interactive:
                print(file=sys.stderr)
            if parts:
                yield "\n".join(parts)
            return
        except KeyboardInterrupt:
            if not interactive:
                raise
            parts.clear()
            print("\n(Ctrl-D or /exit leaves)", file=sys.stderr)
            continue
        except UnicodeDecodeError:
            raise _not_utf8() from None
        # where Python lets such bytes through, they come as halves of surrogate pairs
        if not interactive and any("\udc80" <= c <= "\udcff" for c in line):
            raise _not_utf8()
        line = line.removeprefix("\ufeff")  # the byte order mark of a file that is piped in
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        yield "\n".join([*parts, line])
        parts.clear()


def _not_utf8() -> RequestError:
    return RequestError("standard input is not UTF-8 text; convert it")


@contextlib.contextmanager
def _history(interactive: bool) -> Iterator[None]:
    """Enables line editing with a history file, on a terminal whose Python has readline."""
    if not interactive:
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
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # only its owner may read what was typed
            readline.write_history_file(path)
