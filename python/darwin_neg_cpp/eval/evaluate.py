"""An evaluation as one call: a model, a question set and a folder in, a report out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NegHeadError, OutputError, RequestError
from ..files.input_file import shown_path
from ..files.progress import Progress, no_progress
from ..protocols.modes import MODES, ModeConfig
from ..protocols.sampler import EngineSampler
from . import ledger, plans, report, run, settings
from .data import DataSet
from .summary import summarize

if TYPE_CHECKING:
    from ..llm import DarwinNEG

IGNORED = "ledger*.jsonl"
GITIGNORE = (
    f"# holds what the model said, which quotes the questions; those of a gated set must not be published\n{IGNORED}\n"
)


def evaluate(
    llm: DarwinNEG,
    data: DataSet,
    folder: Path,
    *,
    modes: Sequence[int] = MODES,
    config: ModeConfig | None = None,
    side_car: str | None = None,
    controls: bool = True,
    early_stop: bool = True,
    limit: int | None = None,
    in_flight: int | None = None,
    engine: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
    command: str = "",
    force: bool = False,
    hashing: Progress = no_progress,
    progress: run.Progress = lambda _done, _total, _right: None,
) -> dict[str, Any]:
    """Answers the questions under each mode, goes on where an earlier call stopped, writes ledger and report into `folder`; returns the report.

    side_car: the file of the model's head, where that is not inside. controls: also run plain self-consistency for modes 2 and 3. early_stop: see
    protocols. limit: first so many questions. in_flight: questions at once. engine: options of the model that change
    what it says, machine: what does not; both are only written down. force: begin anew, the old ledger is kept under a number. hashing: (bytes, of bytes).
    Errors: RequestError, NegHeadError, ContextFullError, OutputError.
    """
    config = config or ModeConfig()
    chosen = plans.plans(modes, config, controls=controls)
    if llm.neg is None and any(one.neg for one in chosen):
        raise NegHeadError(
            f"{shown_path(llm.path)}: has no NEG head, which modes 1, 2 and 3 gate with; give a side-car, or switch the gate off (gate=False, --no-gate)"
        )
    if limit is not None and limit < 1:
        raise RequestError(f"limit must be at least 1, got {limit}")
    if in_flight is not None and in_flight < 1:
        raise RequestError(f"in_flight must be at least 1, got {in_flight}")
    items = data.items[:limit]
    run.check_fits(llm, items, chosen, config)
    in_flight = in_flight or plans.in_flight(chosen, llm.info["n_parallel"])
    model, names = settings.of_model(llm.path, side_car, progress=hashing)
    sizes = {key: llm.info[key] for key in ("n_ctx", "n_parallel")}
    the_settings = settings.of_run(model, data, config, early_stop=early_stop, engine={**sizes, **(engine or {})})
    _make(folder)
    with ledger.opened(
        folder / ledger.NAME,
        the_settings,
        {**names, "data": data.file, "diamond": data.is_diamond},
        command=command,
        machine={**(machine or {}), "threads": llm.info["n_threads"], "in_flight": in_flight},
        force=force,
    ) as opened:
        run.run(
            EngineSampler(llm.session),
            items,
            chosen,
            config,
            opened,
            early_stop=early_stop,
            in_flight=in_flight,
            progress=progress,
        )
    return make_report(folder)


def make_report(folder: Path) -> dict[str, Any]:
    """Writes the report of a folder anew, from its ledger alone; returns it. Errors: RequestError, OutputError."""
    found = summarize(ledger.read(folder / ledger.NAME))
    report.write(folder, found)
    return found


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        there = ignore.read_bytes() if ignore.exists() else b""
        if IGNORED not in there.decode("utf-8", "replace").splitlines():
            with ignore.open("ab") as file:  # what may stand there is somebody's own, and stays
                file.write((("" if not there or there.endswith(b"\n") else "\n") + GITIGNORE).encode())
    except FileExistsError:
        raise OutputError(f"{shown_path(folder)}: is a file; give a folder for the results") from None
    except OSError as error:
        raise OutputError(
            f"{shown_path(folder)}: cannot be written to ({error.strerror}); choose another folder"
        ) from error
