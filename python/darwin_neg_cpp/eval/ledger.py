"""The ledger: every call and every answer of an evaluation in one file of JSON lines, on disk before the next one is looked at.

Line 1 holds the settings. A run that goes on adds a line about itself, then one for each call (where a protocol makes several), and one for each question and
protocol, with all candidates. Lines are appended whole and flushed to the disk, so that after a crash or kill -9 at most the last one is torn; it is cut off.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import DarwinNegError, OutputError, RequestError
from ..files.input_file import open_input, shown_path
from ..files.shown_text import replace_surrogates
from ..protocols.runner import Answer, Candidate
from ..protocols.sampler import Output
from .settings import Settings, config_of, difference

FORMAT = 1
NAME = "ledger.jsonl"
PROTOCOL = re.compile(r"mode [0-3]|self-consistency [0-9]{1,4}")
LATEST = 2**33  # seconds since 1970: a date that can be written down
T = TypeVar("T")


@dataclass(frozen=True)
class CallKey:
    """Which call it is: sample `sample` of the prompt with `seed`. number: of the question in its file."""

    number: int
    protocol: str
    seed: int
    sample: int


@dataclass(frozen=True)
class Call:
    """One inference of an answer, as far as figures need it. choice: index, None where none could be read. mean_entropy (nats), activation_rate: None without a head."""

    tokens: int
    choice: int | None
    how: str
    finish_reason: str
    mean_entropy: float | None
    activation_rate: float | None
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """A question's answer under a protocol. number: of the question in its file. right: index of the right choice. seconds: from start to answer."""

    number: int
    question: str
    domain: str
    right: int
    protocol: str
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
    """One process that worked on the ledger. started: seconds since 1970. seconds: to its last answer. command: without folders of the machine."""

    started: float
    seconds: float
    answers: int
    command: str
    machine: Mapping[str, Any]


@dataclass(frozen=True)
class Contents:
    """names: of the files, which may change without changing a result. calls: of answers that are not there yet: (digest of the prompt, output), in order."""

    settings: Settings
    names: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    sessions: tuple[Session, ...]
    calls: Mapping[CallKey, tuple[str, Output]] = field(default_factory=dict)


def read(path: Path) -> Contents:
    """What a ledger holds; a torn last line does not count. Errors: RequestError naming the line."""
    contents, _ = _read(path)
    if contents is None:
        raise RequestError(f"{shown_path(path)}: holds no evaluation; give the folder of one")
    return contents


class Ledger:
    """A ledger open for appending. One process at a time; see `opened`."""

    def __init__(self, path: Path, file: BinaryIO, contents: Contents) -> None:
        self.path = path
        self._file = file
        self.settings = contents.settings
        self.done = {(one.number, one.protocol) for one in contents.outcomes}
        self.right: dict[str, tuple[int, int]] = {}  # of each protocol, and answered
        for one in contents.outcomes:
            self._count(one.protocol, one.is_right)
        self._calls = {key: (place, *found) for place, (key, found) in enumerate(contents.calls.items())}

    def add(self, number: int, domain: str, right: int, answer: Answer) -> None:
        """Writes an answer down; when it returns, the line is on the disk."""
        assert (number, answer.mode) not in self.done
        append(self._file, line_of(number, domain, right, answer))
        self.done.add((number, answer.mode))
        self._count(answer.mode, answer.choice == right)

    def keep(self, key: CallKey, digest: str, output: Output) -> None:
        """Writes a finished call down, for the case that its answer never comes. digest: of its prompt."""
        append(self._file, {"call": {**asdict(key), "prompt": digest, **_output_line(output)}})

    def kept(self, key: CallKey, digest: str) -> tuple[int, Output] | None:
        """A call that an earlier process finished: (its place among those, what it came to)."""
        place, prompt, output = self._calls.get(key, (0, "", None))
        return (place, output) if output is not None and prompt == digest else None

    def _count(self, protocol: str, is_right: bool) -> None:
        right, answered = self.right.get(protocol, (0, 0))
        self.right[protocol] = (right + is_right, answered + 1)


@contextlib.contextmanager
def opened(
    path: Path,
    settings: Settings,
    names: Mapping[str, Any],
    *,
    command: str = "",
    machine: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Iterator[Ledger]:
    """Begins a ledger, or goes on with one of the same settings.

    force: begins anew; the old one is kept beside it under a number. machine: what the results do not depend on. Errors: RequestError when the settings
    differ or a line cannot be read; OutputError when another process has it.
    """
    if force and path.exists():
        with _open(path) as old, _locked(path, old):  # not under the hands of a run
            os.replace(path, _free_name(path))
    # a JSON round trip, so that tuples compare as what they will be read back as
    settings = json.loads(json.dumps(settings))
    with _open(path) as file, _locked(path, file):
        contents, end = _read(path)
        if contents is None:
            end = 0
        elif different := difference(contents.settings, settings):
            raise RequestError(
                f"{shown_path(path)}: is of other settings ({different}); give another --out, or begin anew with --force"
            )
        file.truncate(end)
        if contents is None:
            contents = Contents(settings, names, (), ())
            append(file, {"darwin_neg_eval": FORMAT, "settings": settings, "names": dict(names)})
            _sync_folder(path.parent)
        session = {"started": time.time(), "command": command, "machine": {**_machine(), **(machine or {})}}
        append(file, {"session": session})
        yield Ledger(path, file, contents)


def append(file: BinaryIO, entry: Mapping[str, Any]) -> None:
    file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def line_of(number: int, domain: str, right: int, answer: Answer) -> dict[str, Any]:
    """An answer as JSON. Token ids are kept of the single greedy candidates of modes 0 and 1 only: they are compared with each other."""
    cost = answer.cost
    return {
        "n": number,
        "question": answer.question.id,
        "domain": domain,
        "right": right,
        "protocol": answer.mode,
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
        "candidates": [_candidate(one, with_ids=len(answer.candidates) == 1) for one in answer.candidates],
    }


def _candidate(one: Candidate, *, with_ids: bool) -> dict[str, Any]:
    out = {
        "number": one.number,
        "kind": one.kind,
        "ordering": list(one.ordering),
        "temperature": one.temperature,
        "seed": one.seed,
        "sample": one.sample,
        "letter": one.letter,
        "choice": one.choice,
        "how": one.how,
        "counted": one.counted,
        "tokens": one.tokens,
        "finish_reason": one.finish_reason,
        "mean_entropy": _finite(one.mean_entropy),
        "activation_rate": _finite(one.activation_rate),
        "text": replace_surrogates(one.text),
    }
    return {**out, "token_ids": list(one.token_ids)} if with_ids else out


def _output_line(output: Output) -> dict[str, Any]:
    return {
        "text": replace_surrogates(output.text),
        "tokens": output.tokens,
        "finish_reason": output.finish_reason,
        "prompt_tokens": output.prompt_tokens,
        "mean_entropy": _finite(output.mean_entropy),
        "activation_rate": _finite(output.activation_rate),
        "token_ids": list(output.token_ids),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --- reading


def _read(path: Path) -> tuple[Contents | None, int]:
    """(contents, end of the last whole line). None when there is not even a header."""
    found: _Found | None = None
    end = 0
    with open_input(path, RequestError) as raw:
        size = os.fstat(raw.fileno()).st_size
        for number, line in enumerate(_lines(raw), start=1):
            last = end + len(line) >= size
            if not line.endswith(b"\n"):
                if found is None and not _begins_a_ledger(line):
                    raise RequestError(f"{shown_path(path)}: is no ledger of an evaluation; give another --out")
                break
            try:
                # NaN and infinity are no JSON, and no figures
                entry = json.loads(line, parse_constant=_refused, parse_float=_finite_number)
                if found is None:
                    if entry["darwin_neg_eval"] != FORMAT:
                        raise RequestError(
                            f"{shown_path(path)}: is of form {entry['darwin_neg_eval']!r:.20}, this version reads {FORMAT}; give another --out"
                        )
                    found = _Found(*_header(entry))
                elif (first := found.add(entry, number)) is not None:
                    raise RequestError(f"{shown_path(path)}: line {number}: repeats line {first}; remove one of them")
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
                if last and found is not None:
                    break  # a disk that lost power may have written the end of a line before its middle
                raise RequestError(
                    f"{shown_path(path)}: line {number}: is no line of a ledger; give another --out, or begin anew with --force"
                ) from None
            end += len(line)
    return (None, 0) if found is None else (found.contents(), end)


class _Found:
    """What a ledger holds, while it is read."""

    def __init__(self, settings: Settings, names: Mapping[str, Any]) -> None:
        self._settings = settings
        self._names = names
        self._outcomes: list[Outcome] = []
        self._lines: dict[tuple[int, str], int] = {}  # of each answer
        self._sessions: list[Session] = []
        self._calls: dict[CallKey, tuple[str, Output]] = {}

    def add(self, entry: Mapping[str, Any], line: int) -> int | None:
        """Takes an entry; returns the line of the answer that it repeats. Errors: those of Python for what is not as it should be."""
        if "session" in entry:
            self._sessions.append(_session(entry["session"]))
        elif "call" in entry:
            self._calls.setdefault(*_kept_call(entry["call"]))
        else:
            outcome, at = _outcome(entry)
            first = self._lines.setdefault((outcome.number, outcome.protocol), line)
            if first != line:
                return first
            self._outcomes.append(outcome)
            if self._sessions:
                self._sessions[-1] = _later(self._sessions[-1], at)
        return None

    def contents(self) -> Contents:
        open_calls = {key: one for key, one in self._calls.items() if (key.number, key.protocol) not in self._lines}
        return Contents(self._settings, self._names, tuple(self._outcomes), tuple(self._sessions), open_calls)


def _begins_a_ledger(line: bytes) -> bool:
    """Whether a first line without an end is one that was torn, and no file of somebody's own. Some file systems leave zeros."""
    begin = b'{"darwin_neg_eval":'
    return line.startswith(begin) or begin.startswith(line) or not line.strip(b"\0")


def _header(entry: Mapping[str, Any]) -> tuple[Settings, Mapping[str, Any]]:
    settings, names = dict(entry["settings"]), dict(entry["names"])
    for name in ("model", "data", "protocol", "engine", "prompt"):
        if not isinstance(settings.get(name, {}), dict):
            raise ValueError(name)
    try:
        config_of(settings)  # what cannot be read now could not be reported on later
    except DarwinNegError as error:
        raise ValueError(str(error)) from None
    return settings, names


def _refused(_constant: str) -> float:
    raise ValueError


def _finite_number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError
    return value


def _whole(entry: Mapping[str, Any], name: str, high: int = 2**53) -> int:
    """A whole number from 0, below `high`."""
    value = entry[name]
    if type(value) is not int or not 0 <= value < high:
        raise ValueError(name)
    return value


def _measured(entry: Mapping[str, Any], name: str) -> float:
    """A number from 0."""
    value = entry[name]
    if type(value) not in (int, float) or not 0 <= value < 2**53:
        raise ValueError(name)
    return float(value)


def _lines(raw: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := raw.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def _session(entry: Mapping[str, Any]) -> Session:
    started = _measured(entry, "started")
    if started > LATEST:
        raise ValueError("started")
    return Session(started, 0.0, 0, str(entry["command"]), dict(entry["machine"]))


def _later(session: Session, at: float) -> Session:
    seconds = max(session.seconds, at - session.started)
    return Session(session.started, seconds, session.answers + 1, session.command, session.machine)


def _outcome(entry: Mapping[str, Any]) -> tuple[Outcome, float]:
    n_choices = len(entry["votes"])
    planned = _whole(entry, "planned")
    protocol = entry["protocol"]
    if not entry["candidates"] or not n_choices or not PROTOCOL.fullmatch(protocol):
        raise ValueError
    outcome = Outcome(
        number=_whole(entry, "n"),
        question=str(entry["question"]),
        domain=str(entry["domain"]),
        right=_whole(entry, "right", n_choices),
        protocol=protocol,
        choice=_optional(_whole, entry, "choice", n_choices),
        n_choices=n_choices,
        tied=bool(entry["tied"]),
        margin=_whole(entry, "margin"),
        second_opinions=_whole(entry, "second_opinions"),
        planned=planned,
        started=_whole(entry, "started", planned + 1),
        finished=_whole(entry, "finished", planned + 1),
        prompt_tokens=_whole(entry, "prompt_tokens"),
        completion_tokens=_whole(entry, "completion_tokens"),
        seconds=_measured(entry, "seconds"),
        calls=tuple(_call(one, n_choices) for one in entry["candidates"]),
    )
    return outcome, _measured(entry, "at")


def _call(entry: Mapping[str, Any], n_choices: int) -> Call:
    return Call(
        tokens=_whole(entry, "tokens"),
        choice=_optional(_whole, entry, "choice", n_choices),
        how=str(entry["how"]),
        finish_reason=str(entry["finish_reason"]),
        mean_entropy=_optional(_measured, entry, "mean_entropy"),
        activation_rate=_optional(_measured, entry, "activation_rate"),
        token_ids=tuple(map(int, entry.get("token_ids", ()))),
    )


def _kept_call(entry: Mapping[str, Any]) -> tuple[CallKey, tuple[str, Output]]:
    key = CallKey(
        _whole(entry, "number"), str(entry["protocol"]), _whole(entry, "seed", 2**64), _whole(entry, "sample")
    )
    output = Output(
        text=str(entry["text"]),
        tokens=_whole(entry, "tokens"),
        finish_reason=str(entry["finish_reason"]),
        prompt_tokens=_whole(entry, "prompt_tokens"),
        mean_entropy=_optional(_measured, entry, "mean_entropy"),
        activation_rate=_optional(_measured, entry, "activation_rate"),
        token_ids=tuple(map(int, entry["token_ids"])),
    )
    return key, (str(entry["prompt"]), output)


def _optional(read: Callable[..., T], entry: Mapping[str, Any], name: str, *limits: int) -> T | None:
    return None if entry[name] is None else read(entry, name, *limits)


# --- the file


@contextlib.contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("ab")
    except OSError as error:
        raise OutputError(f"{shown_path(path)}: cannot be written to ({error.strerror}); check the folder") from None
    with file:
        yield file


@contextlib.contextmanager
def _locked(path: Path, file: BinaryIO) -> Iterator[None]:
    """Two processes would do everything twice. The system lets the lock go with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{shown_path(path)}: another evaluation is writing to it; wait for it, or give another --out"
        ) from None
    except OSError:
        pass  # a file system without locks
    if not os.path.exists(path) or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        raise OutputError(f"{shown_path(path)}: was just begun anew by another process; try again")
    yield


def _free_name(path: Path) -> Path:
    k = 1
    while (other := path.with_suffix(f".{k}{path.suffix}")).exists():
        k += 1
    return other


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _machine() -> dict[str, Any]:
    return {"platform": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()}
