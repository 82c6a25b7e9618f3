"""The ledger: every answer of an evaluation in one file of JSON lines, on disk before the next one is begun with.

Line 1 holds the settings. A run that goes on adds a line about itself, then one for each question and protocol, with all candidates. Lines are appended whole and
flushed to the disk, so that after a crash or kill -9 at most the last one is torn; it is cut off, and that answer given again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..atomic_file import OutputError
from ..errors import RequestError
from ..input_file import open_input, shown_path
from ..protocols.runner import Answer, Candidate
from .settings import Settings, config_of, difference

FORMAT = 1
NAME = "ledger.jsonl"


@dataclass(frozen=True)
class Call:
    """One inference, as far as figures need it. choice: index, None where none could be read. mean_entropy (nats), activation_rate: None without a head."""

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
    """names: of the files, which may change without changing a result."""

    settings: Settings
    names: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]
    sessions: tuple[Session, ...]


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

    def add(self, number: int, domain: str, right: int, answer: Answer) -> None:
        """Writes an answer down; when it returns, the line is on the disk."""
        assert (number, answer.mode) not in self.done
        append(self._file, line_of(number, domain, right, answer))
        self.done.add((number, answer.mode))
        self._count(answer.mode, answer.choice == right)

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
        "text": _sound(one.text),
    }
    return {**out, "token_ids": list(one.token_ids)} if with_ids else out


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _sound(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# --- reading


def _read(path: Path) -> tuple[Contents | None, int]:
    """(contents, end of the last whole line). None when there is not even a header."""
    settings: Settings | None = None
    names: Mapping[str, Any] = {}
    outcomes: list[Outcome] = []
    seen: dict[tuple[int, str], int] = {}
    sessions: list[Session] = []
    end = 0
    with open_input(path, RequestError) as raw:
        size = os.fstat(raw.fileno()).st_size
        for number, line in enumerate(_lines(raw), start=1):
            last = end + len(line) >= size
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if settings is None:
                    if entry["darwin_neg_eval"] != FORMAT:
                        raise RequestError(
                            f"{shown_path(path)}: is of form {entry['darwin_neg_eval']!r:.20}, this version reads {FORMAT}; give another --out"
                        )
                    settings, names = dict(entry["settings"]), dict(entry["names"])
                    config_of(settings)  # what cannot be read now could not be reported on later
                elif "session" in entry:
                    sessions.append(_session(entry["session"]))
                else:
                    outcome, at = _outcome(entry)
                    key = (outcome.number, outcome.protocol)
                    if key in seen:
                        raise RequestError(
                            f"{shown_path(path)}: line {number}: repeats line {seen[key]}; remove one of them"
                        )
                    seen[key] = number
                    outcomes.append(outcome)
                    if sessions:
                        sessions[-1] = _later(sessions[-1], at)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                if last and settings is not None:
                    break  # a disk that lost power may have written the end of a line before its middle
                raise RequestError(
                    f"{shown_path(path)}: line {number}: is no line of a ledger; give another --out, or begin anew with --force"
                ) from None
            end += len(line)
    if settings is None:
        return None, 0
    return Contents(settings, names, tuple(outcomes), tuple(sessions)), end


def _lines(raw: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while block := raw.read(1 << 20):
        *whole, rest = (rest + block).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest


def _session(entry: Mapping[str, Any]) -> Session:
    return Session(float(entry["started"]), 0.0, 0, str(entry["command"]), dict(entry["machine"]))


def _later(session: Session, at: float) -> Session:
    seconds = max(session.seconds, at - session.started)
    return Session(session.started, seconds, session.answers + 1, session.command, session.machine)


def _outcome(entry: Mapping[str, Any]) -> tuple[Outcome, float]:
    if not entry["candidates"] or not entry["votes"]:
        raise ValueError
    outcome = Outcome(
        number=int(entry["n"]),
        question=str(entry["question"]),
        domain=str(entry["domain"]),
        right=int(entry["right"]),
        protocol=str(entry["protocol"]),
        choice=None if entry["choice"] is None else int(entry["choice"]),
        n_choices=len(entry["votes"]),
        tied=bool(entry["tied"]),
        margin=int(entry["margin"]),
        second_opinions=int(entry["second_opinions"]),
        planned=int(entry["planned"]),
        started=int(entry["started"]),
        finished=int(entry["finished"]),
        prompt_tokens=int(entry["prompt_tokens"]),
        completion_tokens=int(entry["completion_tokens"]),
        seconds=float(entry["seconds"]),
        calls=tuple(_call(one) for one in entry["candidates"]),
    )
    return outcome, float(entry["at"])


def _call(entry: Mapping[str, Any]) -> Call:
    def number(name: str) -> float | None:
        return None if entry[name] is None else float(entry[name])

    return Call(
        tokens=int(entry["tokens"]),
        choice=None if entry["choice"] is None else int(entry["choice"]),
        how=str(entry["how"]),
        finish_reason=str(entry["finish_reason"]),
        mean_entropy=number("mean_entropy"),
        activation_rate=number("activation_rate"),
        token_ids=tuple(map(int, entry.get("token_ids", ()))),
    )


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
