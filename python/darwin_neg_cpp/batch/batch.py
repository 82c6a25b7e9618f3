"""Answers a file of prompts in one call."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..checks import check_flag
from ..errors import DarwinNegError
from ..files.input_file import shown_path
from ..files.progress import Progress, no_progress
from ..sampling import SamplingParams
from .answers_file import open_answers
from .requests import Request, for_model, input_name, read_file, read_requests
from .source import LocalSource, Source

if TYPE_CHECKING:
    from ..llm import DarwinNEG

MAX_FAULTS = 20  # one after the other: the machine is at fault, and nothing else would come of the rest

# (answers in the file, requests in total, what to show beside them)
BatchProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Summary:
    """path: the file of answers. total: requests. before: answers that an earlier run had given. failed: errors."""

    path: Path
    total: int
    before: int
    failed: int


def batch(
    llm: DarwinNEG | Source,
    prompts: str | os.PathLike[str] | Sequence[Request],
    out: str | os.PathLike[str],
    *,
    params: SamplingParams | None = None,
    chat: bool = False,
    return_neg: bool = False,
    side_car: str | None = None,
    name: str = "prompts",
    inputs: Sequence[Path] = (),
    engine: Mapping[str, Any] | None = None,
    force: bool = False,
    hashing: Progress = no_progress,
    progress: BatchProgress = lambda _done, _total, _note: None,
) -> Summary:
    """Answers every line of a file of prompts, or resumes that; see docs/batch.md for the two files.

    llm: a DarwinNEG, or a cluster.batch.ClusterSource. prompts: a path, or what read_requests has made of one; params,
        chat and return_neg are for the first alone, and for lines that do not say otherwise. side_car: the file of the
        model's head, if it is not in the model file. name: of what the requests come from, for errors; inputs: its
        files.
    engine: options of the model that change its output, for the record.
    force: start again; the old file is kept under a number. hashing: called with (bytes so far, bytes in total).

    Errors: RequestError before anything is run; OutputError; DarwinNegError when the machine fails again and again.
        What a single request fails with becomes its entry.
    """
    check_flag("force", force)
    source: Source = LocalSource(cast("DarwinNEG", llm), side_car) if hasattr(llm, "session") else llm
    if isinstance(prompts, (str, os.PathLike)):
        inputs, name = (Path(prompts),), input_name(os.fspath(prompts))
        requests = read_requests(read_file(inputs[0]), name, params=params, chat=chat, return_neg=return_neg)
    else:
        requests = list(prompts)
    requests = for_model(name, requests, has_head=source.has_head())
    described = source.describe(progress=hashing)
    settings = {
        **described,
        "engine": {**described["engine"], **(engine or {})},
        "sampling": _given(params or SamplingParams()),
    }
    with open_answers(Path(out), settings, requests, inputs=inputs, force=force) as answers:
        before = len(answers.done)
        left = [request for request in requests if str(request.id) not in answers.done]
        faults = 0
        progress(before, len(requests), "")
        with contextlib.closing(source.replies(left)) as replies:
            for request, reply in replies:
                if reply.code == "cancelled":
                    raise DarwinNegError(f"{shown_path(out)}: the requests were cancelled; the same call resumes")
                answers.add(request, reply)
                faults = faults + 1 if reply.fault else 0
                if faults >= MAX_FAULTS:
                    raise DarwinNegError(f"{faults} requests failed one after the other: {reply.message}")
                failed = f"{answers.failed} failed" if answers.failed else ""
                progress(len(answers.done), len(requests), ", ".join(filter(None, (failed, source.note))))
        return Summary(Path(out), len(requests), before, answers.failed)


def _given(params: SamplingParams) -> dict[str, Any]:
    """The parameters that are not the defaults."""
    plain = dataclasses.asdict(SamplingParams())
    return {key: value for key, value in dataclasses.asdict(params).items() if value != plain[key]}
