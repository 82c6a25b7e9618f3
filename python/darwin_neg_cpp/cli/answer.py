"""`darwin-neg answer`: a multiple-choice question in one of the decoding modes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any, cast

from ..errors import RequestError
from ..files.input_file import shown, shown_path
from ..protocols.modes import AUTO, MODES, Mode, ModeConfig, plan
from ..protocols.prompts import PROMPTS
from ..protocols.question import LETTERS, Question
from ..protocols.signals import DEFAULT, SIGNALS
from .options import (
    add_chat_template_option,
    add_json_option,
    add_model_options,
    check_model_options,
    is_piped,
    load_repeatable_model,
    read_prompt,
    read_standard_input,
    read_text,
)
from .server_options import add_server_options, connect

if TYPE_CHECKING:
    from ..protocols import Answer, Candidate
    from ..protocols.sampler import Sampler

IN_FLIGHT = 4  # questions
QUESTION_KEYS = {"stem", "choices", "id"}


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "answer",
        help="answer a multiple-choice question in modes 0 to 3, or auto",
        description="Answers a multiple-choice question: greedily, by majority over orderings of its choices, or by an "
        "ensemble with second opinions (docs/protocols.md has every number). The answer goes to standard output, a "
        "closing line with votes and cost to standard error.",
    )
    parser.add_argument("stem", nargs="?", metavar="QUESTION", help="the question; - reads standard input")
    parser.add_argument(
        "--choice", action="append", default=[], metavar="TEXT", help="a choice; repeat the option, 2 to 26 times"
    )
    parser.add_argument(
        "--question",
        metavar="FILE",
        help='read {"stem": ..., "choices": [...], "id": ...}, or a list of these, from a JSON file; - reads standard '
        "input",
    )
    parser.add_argument(
        "--mode",
        type=read_mode,
        default=3,
        choices=(*MODES, AUTO),
        help="0: greedy, gate off; 1: greedy, gate on; 2: majority over orderings; 3: ensemble and second opinions "
        "(default); auto: 1, 2 or 3 by how unsure the model is",
    )
    parser.add_argument(
        "--full",
        dest="early_stop",
        action="store_false",
        help="run every candidate, also those that cannot change the answer",
    )
    parser.add_argument(
        "--abstain-above",
        type=float,
        metavar="U",
        help="withhold an answer that is less sure than this, and say why; `darwin-neg eval --report-only "
        "--wanted-accuracy` proposes a value (docs/confidence.md)",
    )
    parser.add_argument(
        "--abstain-signal",
        choices=tuple(SIGNALS),
        metavar="NAME",
        default=DEFAULT,
        help=f"the uncertainty that --abstain-above is about, one of those of --auto-signal (default {DEFAULT})",
    )
    parser.add_argument("--show", action="store_true", help="show every candidate with its text")
    add_json_option(parser, "print one JSON object per question, candidates included")
    parser.add_argument("-q", "--quiet", action="store_true", help="no closing line")
    add_chat_template_option(parser)
    add_model_options(parser)
    add_server_options(parser, what="ask")
    add_mode_options(parser)
    parser.set_defaults(run=run)


def read_mode(text: str) -> Mode:
    """Reads a number or "auto"; leaves anything else as it is, which is not among the choices."""
    return int(text) if text.isdecimal() else cast("Mode", text)


def add_mode_options(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of ModeConfig."""
    d = ModeConfig()
    group = parser.add_argument_group("protocol")

    def number(*flags: str, field: str = "", kind: type = int, metavar: str = "N", note: str) -> None:
        field = field or flags[0].removeprefix("--").replace("-", "_")
        default = getattr(d, field)
        help_text = f"{note} (default {default:g})"
        group.add_argument(*flags, dest=field, type=kind, default=default, metavar=metavar, help=help_text)

    number("-n", "--max-tokens", field="max_tokens", note="maximum number of new tokens of a candidate")
    number("--orderings", note="orderings of the choices in modes 2 and 3, at most one for each choice")
    number("--samples", note="sampled candidates for each ordering in mode 3, in addition to the greedy one")
    number("--temperature", "--temp", kind=float, metavar="T", note="temperature of sampled candidates")
    number("--top-p", kind=float, metavar="P", note="top-p of sampled candidates, 1 is off")
    number("--top-k", metavar="K", note="top-k of sampled candidates, 0 is off")
    number("--min-p", kind=float, metavar="P", note="min-p of sampled candidates, 0 is off")
    number("--second-opinions", note="maximum number of second opinions in mode 3, where the votes have not decided")
    number("--second-opinion-temperature", kind=float, metavar="T", note="temperature of the sampled second opinions")
    number("--extract-characters", note="characters of the reasoning that a second opinion is shown for each side")
    number("--seed", note="random seed, combined with each question's id")
    group.add_argument(
        "--prompt", choices=tuple(PROMPTS), default=d.prompt, help=f"form of the prompt (default {d.prompt})"
    )
    group.add_argument("--thinking", action="store_true", help="switch on the chat template's thinking")
    group.add_argument(
        "--auto-signal",
        choices=tuple(SIGNALS),
        metavar="NAME",
        default=d.auto_signal,
        help=f"what mode auto takes for uncertainty: {', '.join(SIGNALS)} (default {d.auto_signal})",
    )
    number(
        "--auto-first-threshold", kind=float, metavar="U",
        note="uncertainty below which mode auto takes the greedy answer: 0 never, inf always; a guess until calibrated",
    )  # fmt: skip
    number(
        "--auto-second-threshold", kind=float, metavar="U",
        note="the same for the answer of the orderings",
    )  # fmt: skip
    group.add_argument("--no-gate", dest="gate", action="store_false", help="run modes 1 to 3 without the NEG gate")


def mode_config(args: argparse.Namespace) -> ModeConfig:
    """Returns ModeConfig from the options of add_mode_options."""
    return ModeConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(ModeConfig)})


def run(args: argparse.Namespace) -> int:
    from ..protocols.escalation import check_abstaining, needs_true_entropy
    from ..protocols.sampler import EngineSampler

    # bad options and questions are refused before the model is loaded
    check_model_options(args)
    check_abstaining(args.abstain_above, args.abstain_signal)
    config = mode_config(args)
    true_entropy = needs_true_entropy([args.mode], config, args.abstain_above, args.abstain_signal)
    questions = read_questions(args)
    if args.servers:
        if true_entropy:
            raise RequestError("a true entropy as a signal needs the model in this process: servers tell none")
        with connect(args) as remote:
            in_flight = max(IN_FLIGHT, remote.info["n_parallel"])
            answers = answer_with_progress(args, remote.sampler(), questions, config, in_flight=in_flight)
    else:
        with load_repeatable_model(args) as llm:
            sampler = EngineSampler(llm.session, true_entropy=true_entropy)
            answers = answer_with_progress(args, sampler, questions, config)
    for answer in answers:
        print_answer(args, answer)
    return 0 if all(answer.choice is not None for answer in answers) else 1


def answer_with_progress(
    args: argparse.Namespace,
    sampler: Sampler,
    questions: list[Question],
    config: ModeConfig,
    *,
    in_flight: int = IN_FLIGHT,
) -> list[Answer]:
    """Answers the questions while a bar counts the inferences."""
    from ..files.progress import ProgressBar
    from ..protocols import answer_many

    most = sum(plan(args.mode, config).most(len(question.choices)) for question in questions)
    done = 0
    with ProgressBar("answering", unit="inferences") as progress:

        def watch(_key: object, _candidate: Candidate) -> None:
            nonlocal done
            done += 1
            progress(done, most)

        return answer_many(
            sampler,
            questions,
            args.mode,
            config=config,
            early_stop=args.early_stop,
            in_flight=in_flight,
            watch=watch,
            abstain_above=args.abstain_above,
            abstain_signal=args.abstain_signal,
        )


def read_questions(args: argparse.Namespace) -> list[Question]:
    """Takes the questions from the arguments, or from the file."""
    if args.question is None:
        stem = args.stem
        if stem == "-" or (stem is None and args.choice and is_piped()):
            stem = read_prompt("-").strip() or None
        if stem is None:
            raise RequestError(
                "no question given; write QUESTION with a --choice TEXT for each choice, or use --question"
            )
        return [Question(stem, tuple(args.choice))]
    if args.stem is not None or args.choice:
        raise RequestError("QUESTION and --question are both given; give one")
    if args.question == "-":
        where, text = "standard input", read_standard_input()
    else:
        where, text = shown_path(args.question), read_text(args.question)
    return questions_from_json(where, text)


def questions_from_json(where: str, text: str) -> list[Question]:
    """Reads one question, or a list of them. where: names the source in errors. Errors: RequestError."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise RequestError(f"{where}: is nested too deeply; it should hold one question or a list of them") from None
    except ValueError as error:
        raise RequestError(f"{where}: is not valid JSON: {error}") from None
    several = isinstance(found, list)
    if found == []:
        raise RequestError(f"{where}: holds no question; give at least one")
    out = []
    for i, entry in enumerate(found if several else [found]):
        name = f"{where}: question {i + 1}" if several else where
        if not isinstance(entry, dict):
            example = '{"stem": ..., "choices": [...]}'
            raise RequestError(f"{name}: must be an object like {example}, got {type(entry).__name__}")
        if unknown := sorted(set(entry) - QUESTION_KEYS):
            raise RequestError(f"{name}: has an unknown key {shown(repr(unknown[0]))}; known are stem, choices, id")
        if missing := sorted({"stem", "choices"} - set(entry)):
            raise RequestError(f"{name}: has no {missing[0]!r}; add it")
        # a number is as good an id as text, as in the question sets of an evaluation
        identity = {"id": str(entry["id"])} if type(entry.get("id")) is int else {}
        try:
            out.append(Question(**{**entry, **identity}))
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None
    return out


def print_answer(args: argparse.Namespace, answer: Answer) -> None:
    from ..files.shown_text import escape_terminal
    from .terminal import print_note

    if args.json:
        print(json.dumps(answer.as_dict(), ensure_ascii=False))
        return
    clean = escape_terminal if sys.stdout.isatty() else str
    if args.show:
        for candidate in answer.candidates:
            print(f"--- {candidate_line(candidate)}\n{clean(candidate.text)}")
        print("---")
    if answer.abstained is not None:
        print(f"no answer: {answer.abstained}")
    else:
        print(f"{answer.letter}) {clean(answer.text)}" if answer.text is not None else "no answer could be read")
    if not args.quiet:
        print_note(closing_line(answer))


def candidate_line(candidate: Candidate) -> str:
    """Says what a candidate was and what became of it."""
    shown_in = "".join(LETTERS[i] for i in candidate.ordering)
    how = "greedy"
    if candidate.temperature != 0:
        how = f"temperature {candidate.temperature:g}, seed {candidate.seed}, sample {candidate.sample}"
    vote = "no vote"
    if candidate.choice is not None:
        vote = f"says {candidate.letter}, votes {LETTERS[candidate.choice]}"
    notes = [candidate.error or candidate.finish_reason] if candidate.finish_reason != "stop" else []
    notes += ["by fallback"] if candidate.how == "fallback" else []
    notes += (
        ["too late to count"] if not candidate.counted and candidate.finish_reason not in ("cancelled", "error") else []
    )
    kind = "second opinion" if candidate.kind == "second opinion" else "candidate"
    words = ", ".join([vote, *notes])
    return f"{kind} {candidate.number}, choices as {shown_in}, {how}: {words}, {candidate.tokens} tokens"


def closing_line(answer: Answer) -> str:
    """Sums up votes, inferences, tokens and time. Letters follow the order in which the question lists its choices."""
    cost = answer.cost
    votes = " ".join(f"{LETTERS[i]} {count}" for i, count in enumerate(answer.votes) if count) or "none"
    tie = ", a tie" if answer.tied else ""
    unread = f", {answer.unparsed} could not be read" if answer.unparsed else ""
    cut = f", {answer.truncated} were cut off" if answer.truncated else ""
    return (
        f"[{answer.mode}, votes: {votes}{tie}{unread}{cut}; {cost.finished} of {cost.planned} inferences finished, "
        f"{cost.saved} saved; {cost.completion_tokens} tokens, {cost.seconds:.1f} s]"
    )
