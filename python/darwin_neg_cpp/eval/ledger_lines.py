"""The lines of a ledger: the records that an evaluation keeps, and their JSON.

Line 1 holds the settings. Each run adds a line about its session, then one for each call (if a protocol makes several)
and one for each question and protocol, with all candidates.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import DarwinNegError
from ..files.shown_text import replace_surrogates
from ..protocols.answer import Answer, Candidate
from ..protocols.protocol import Protocol
from ..protocols.sampler import Output
from ..protocols.signals import LOGPROBS, Signals
from .settings import Settings, read_config

FORMAT = 1
FIRST_KEY = "darwin_neg_eval"
NOTES = ("left_out", "merged")  # lists among the names, of questions that are not as they stand in the file
LATEST = 2**33  # seconds since 1970: a date that can be written out
T = TypeVar("T")


class BadLine(Exception):
    """A line that is not one of a ledger."""


class WrongFormat(Exception):
    """A ledger in a format that this version does not read; its argument is the format."""


@dataclass(frozen=True)
class CallKey:
    """Names a call: sample `sample` of the prompt with `seed`. number: of the question in its file."""

    number: int
    protocol: Protocol
    seed: int
    sample: int


@dataclass(frozen=True)
class Call:
    """One inference of an answer, as far as figures need it.

    choice: index, None when no letter could be read. mean_entropy (nats), activation_rate: None without a head. number,
        counted, signals: see Candidate; signals are None in ledgers of versions that did not record them.
    """

    tokens: int
    choice: int | None
    how: str
    finish_reason: str
    mean_entropy: float | None
    activation_rate: float | None
    token_ids: tuple[int, ...]
    number: int = 0
    counted: bool = True
    signals: Signals | None = None


@dataclass(frozen=True)
class Outcome:
    """A question's answer under a protocol.

    number: of the question in its file. right: index of the right choice. seconds: from start to answer.
    """

    number: int
    question: str
    domain: str
    right: int
    protocol: Protocol
    choice: int | None
    n_choices: int
    tied: bool
    margin: int
    second_opinions: int
    planned: int
    started: int
    finished: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    calls: tuple[Call, ...]

    @property
    def is_right(self) -> bool:
        return self.choice == self.right


@dataclass(frozen=True)
class Session:
    """One process that worked on the ledger.

    started: seconds since 1970. seconds: up to its last answer. command: without the machine's folders.
    """

    started: float
    seconds: float
    answers: int
    command: str
    machine: Mapping[str, Any]


@dataclass(frozen=True)
class Contents:
    """Everything that a ledger holds.

    names: of the files, which may change without changing a result, and the lists of NOTES. calls: those whose answers
        are still missing, each as (hash of the prompt, output), in order.
    """

    settings: Settings
    names: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    sessions: tuple[Session, ...]
    calls: Mapping[CallKey, tuple[str, Output]] = field(default_factory=dict)


# --- writing


def encode_line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def encode_header(settings: Settings, names: Mapping[str, Any]) -> bytes:
    return encode_line({FIRST_KEY: FORMAT, "settings": settings, "names": dict(names)})


def encode_session(command: str, machine: Mapping[str, Any]) -> bytes:
    return encode_line({"session": {"started": time.time(), "command": command, "machine": dict(machine)}})


def encode_call(key: CallKey, prompt_hash: str, output: Output) -> bytes:
    call = {
        "number": key.number,
        "protocol": key.protocol.name,
        "seed": key.seed,
        "sample": key.sample,
        "prompt": prompt_hash,
        "text": replace_surrogates(output.text),
        "tokens": output.tokens,
        "finish_reason": output.finish_reason,
        "prompt_tokens": output.prompt_tokens,
        "mean_entropy": _finite_or_none(output.mean_entropy),
        "activation_rate": _finite_or_none(output.activation_rate),
        "token_ids": list(output.token_ids),
        **_signals_entry(output.signals),
        **_error_entry(output.error),
    }
    return encode_line({"call": call})


def encode_answer(number: int, domain: str, right: int, answer: Answer) -> bytes:
    """Writes an answer as JSON.

    Token ids are kept only of the single greedy candidates of modes 0 and 1, which are compared with each other.
    """
    cost = answer.cost
    with_ids = len(answer.candidates) == 1
    return encode_line(
        {
            "n": number,
            "question": answer.question.id,
            "domain": domain,
            "right": right,
            "protocol": answer.protocol.name,
            "choice": answer.choice,
            "votes": list(answer.votes),
            "tied": answer.tied,
            "margin": answer.margin,
            "second_opinions": answer.second_opinions,
            "stopped": answer.stopped,
            "planned": cost.planned,
            "started": cost.started,
            "finished": cost.finished,
            "prompt_tokens": cost.prompt_tokens,
            "completion_tokens": cost.completion_tokens,
            "seconds": round(cost.seconds, 4),
            "at": round(time.time(), 3),
            "candidates": [_candidate_entry(candidate, with_ids=with_ids) for candidate in answer.candidates],
        }
    )


def _candidate_entry(candidate: Candidate, *, with_ids: bool) -> dict[str, Any]:
    entry = {
        "number": candidate.number,
        "kind": candidate.kind,
        "ordering": list(candidate.ordering),
        "temperature": candidate.temperature,
        "seed": candidate.seed,
        "sample": candidate.sample,
        "letter": candidate.letter,
        "choice": candidate.choice,
        "how": candidate.how,
        "counted": candidate.counted,
        "tokens": candidate.tokens,
        "finish_reason": candidate.finish_reason,
        "mean_entropy": _finite_or_none(candidate.mean_entropy),
        "activation_rate": _finite_or_none(candidate.activation_rate),
        "text": replace_surrogates(candidate.text),
        **_signals_entry(candidate.signals),
        **_error_entry(candidate.error),
    }
    return {**entry, "token_ids": list(candidate.token_ids)} if with_ids else entry


def _error_entry(error: str | None) -> dict[str, str]:
    return {} if error is None else {"error": replace_surrogates(error)}


def _signals_entry(signals: Signals | None) -> dict[str, dict[str, float]]:
    """Only what there is, to keep lines short."""
    if signals is None:
        return {}
    found = {name: _finite_or_none(value) for name, value in signals.as_dict().items()}
    return {"signals": {name: value for name, value in found.items() if value is not None}}


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --- reading


class Reader:
    """Takes the lines of a ledger one after the other and collects what they hold.

    Every method raises BadLine for what is not as it should be.
    """

    def __init__(self, first_line: bytes) -> None:
        """Reads the header. Also raises WrongFormat."""
        with _translate_errors():
            header = _decode_line(first_line)
            if header[FIRST_KEY] != FORMAT:
                raise WrongFormat(header[FIRST_KEY])
            self._settings, self._names = _decode_header(header)
        self._outcomes: list[Outcome] = []
        self._lines: dict[tuple[int, Protocol], int] = {}  # of each answer
        self._sessions: list[Session] = []
        self._calls: dict[CallKey, tuple[str, Output]] = {}

    def add(self, content: bytes, line: int) -> int | None:
        """Takes line number `line`; returns the number of the line whose answer it repeats, None if it repeats none."""
        with _translate_errors():
            entry = _decode_line(content)
            if "session" in entry:
                self._sessions.append(_decode_session(entry["session"]))
            elif "call" in entry:
                self._calls.setdefault(*_decode_call(entry["call"]))
            else:
                return self._add_outcome(*_decode_outcome(entry), line)
        return None

    def _add_outcome(self, outcome: Outcome, at: float, line: int) -> int | None:
        first = self._lines.setdefault((outcome.number, outcome.protocol), line)
        if first != line:
            return first
        self._outcomes.append(outcome)
        if self._sessions:
            self._sessions[-1] = _extend_session(self._sessions[-1], at)
        return None

    def contents(self) -> Contents:
        open_calls = {key: call for key, call in self._calls.items() if (key.number, key.protocol) not in self._lines}
        return Contents(self._settings, self._names, tuple(self._outcomes), tuple(self._sessions), open_calls)


def may_begin_ledger(line: bytes) -> bool:
    """Whether a first line without an end is a torn one of a ledger, rather than somebody's own file.

    Some file systems leave zeros after a power failure.
    """
    begin = f'{{"{FIRST_KEY}":'.encode()
    return line.startswith(begin) or begin.startswith(line) or not line.strip(b"\0")


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    """Turns what Python raises for JSON that is not as it should be into BadLine."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, DarwinNegError) as error:
        raise BadLine(str(error)) from None


def _decode_line(line: bytes) -> Any:
    # NaN and infinity are not JSON, and not figures
    return json.loads(line, parse_constant=_refuse_constant, parse_float=_decode_float)


def _refuse_constant(constant: str) -> float:
    raise ValueError(constant)


def _decode_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _decode_header(entry: Mapping[str, Any]) -> tuple[Settings, Mapping[str, Any]]:
    settings, names = dict(entry["settings"]), dict(entry["names"])
    for name in ("model", "data", "protocol", "engine", "prompt"):
        if not isinstance(settings.get(name, {}), dict):
            raise ValueError(name)
    for name in NOTES:
        if not isinstance(notes := names.get(name, []), list) or not all(isinstance(note, str) for note in notes):
            raise ValueError(name)
    read_config(settings)  # settings that cannot be read now could not be reported on later
    return settings, names


def _decode_session(entry: Mapping[str, Any]) -> Session:
    started = _decode_measure(entry, "started")
    if started > LATEST:
        raise ValueError("started")
    return Session(started, 0.0, 0, str(entry["command"]), dict(entry["machine"]))


def _extend_session(session: Session, at: float) -> Session:
    """Adds an answer that was written at the time `at`."""
    seconds = max(session.seconds, at - session.started)
    return Session(session.started, seconds, session.answers + 1, session.command, session.machine)


def _decode_outcome(entry: Mapping[str, Any]) -> tuple[Outcome, float]:
    """Returns an outcome, and the time when it was written."""
    n_choices = len(entry["votes"])
    planned = _decode_whole(entry, "planned")
    if not entry["candidates"] or not n_choices:
        raise ValueError("candidates")
    outcome = Outcome(
        number=_decode_whole(entry, "n"),
        question=str(entry["question"]),
        domain=str(entry["domain"]),
        right=_decode_whole(entry, "right", n_choices),
        protocol=Protocol.parse(entry["protocol"]),
        choice=_decode_optional(_decode_whole, entry, "choice", n_choices),
        n_choices=n_choices,
        tied=bool(entry["tied"]),
        margin=_decode_whole(entry, "margin"),
        second_opinions=_decode_whole(entry, "second_opinions"),
        planned=planned,
        started=_decode_whole(entry, "started", planned + 1),
        finished=_decode_whole(entry, "finished", planned + 1),
        prompt_tokens=_decode_whole(entry, "prompt_tokens"),
        completion_tokens=_decode_whole(entry, "completion_tokens"),
        seconds=_decode_measure(entry, "seconds"),
        calls=tuple(_decode_candidate(candidate, n_choices) for candidate in entry["candidates"]),
    )
    return outcome, _decode_measure(entry, "at")


def _decode_candidate(entry: Mapping[str, Any], n_choices: int) -> Call:
    return Call(
        tokens=_decode_whole(entry, "tokens"),
        choice=_decode_optional(_decode_whole, entry, "choice", n_choices),
        how=str(entry["how"]),
        finish_reason=str(entry["finish_reason"]),
        mean_entropy=_decode_optional(_decode_measure, entry, "mean_entropy"),
        activation_rate=_decode_optional(_decode_measure, entry, "activation_rate"),
        token_ids=tuple(map(int, entry.get("token_ids", ()))),
        number=_decode_whole(entry, "number"),
        counted=bool(entry.get("counted", True)),
        signals=_decode_signals(entry),
    )


def _decode_call(entry: Mapping[str, Any]) -> tuple[CallKey, tuple[str, Output]]:
    key = CallKey(
        _decode_whole(entry, "number"),
        Protocol.parse(entry["protocol"]),
        _decode_whole(entry, "seed", 2**64),
        _decode_whole(entry, "sample"),
    )
    output = Output(
        text=str(entry["text"]),
        tokens=_decode_whole(entry, "tokens"),
        finish_reason=str(entry["finish_reason"]),
        prompt_tokens=_decode_whole(entry, "prompt_tokens"),
        mean_entropy=_decode_optional(_decode_measure, entry, "mean_entropy"),
        activation_rate=_decode_optional(_decode_measure, entry, "activation_rate"),
        token_ids=tuple(map(int, entry["token_ids"])),
        error=str(entry["error"]) if "error" in entry else None,
        signals=_decode_signals(entry),
    )
    return key, (str(entry["prompt"]), output)


def _decode_signals(entry: Mapping[str, Any]) -> Signals | None:
    if "signals" not in entry:
        return None
    values = dict(entry["signals"])
    return Signals(**{name: _decode_signal(name, value) for name, value in values.items()})


def _decode_signal(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (name not in LOGPROBS and value < 0):
        raise ValueError(name)
    return float(value)


def _decode_whole(entry: Mapping[str, Any], name: str, high: int = 2**53) -> int:
    """Reads a whole number from 0, below `high`."""
    value = entry[name]
    if type(value) is not int or not 0 <= value < high:
        raise ValueError(name)
    return value


def _decode_measure(entry: Mapping[str, Any], name: str) -> float:
    """Reads a number that is not negative."""
    value = entry[name]
    if type(value) not in (int, float) or not 0 <= value < 2**53:
        raise ValueError(name)
    return float(value)


def _decode_optional(read: Callable[..., T], entry: Mapping[str, Any], name: str, *limits: int) -> T | None:
    return None if entry[name] is None else read(entry, name, *limits)
