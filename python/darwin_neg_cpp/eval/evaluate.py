"""Evaluates a model on a question set in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..checks import check_integer, check_number
from ..errors import NegHeadError, OutputError
from ..files.input_file import shown_path
from ..files.progress import Progress, no_progress
from ..protocols.escalation import needs_true_entropy
from ..protocols.modes import MODES, Mode, ModeConfig
from . import ledger, plans, report, run, settings
from .data import DataSet
from .source import LocalModel, Source
from .summary import summarize

if TYPE_CHECKING:
    from ..llm import DarwinNEG

IGNORED = "ledger*.jsonl"
GITIGNORE = f"""\
# holds the model's answers, which quote the questions; those of a gated dataset must not be published
{IGNORED}
"""


def evaluate(
    llm: DarwinNEG | Source,
    data: DataSet,
    folder: Path,
    *,
    modes: Sequence[Mode] = MODES,
    config: ModeConfig | None = None,
    side_car: str | None = None,
    controls: bool = True,
    early_stop: bool = True,
    limit: int | None = None,
    in_flight: int | None = None,
    true_entropy: bool = False,
    engine: Mapping[str, Any] | None = None,
    machine: Mapping[str, Any] | None = None,
    command: str = "",
    force: bool = False,
    hashing: Progress = no_progress,
    progress: run.Progress = lambda _done, _total, _right: None,
) -> dict[str, Any]:
    """Answers the questions under each mode, or resumes that, and writes ledger and report to `folder`.

    llm: a DarwinNEG, a RemoteEngine for a model on servers, or a cluster.evaluation.ClusterModel. side_car: the file of
        the model's head, if it is not in the model file. controls: also run plain self-consistency for modes 2 and 3.
        early_stop: see protocols.
    limit: evaluate only the first N questions. in_flight: number of questions worked on at once.
    true_entropy: also record true entropies, of a DarwinNEG; a source of your own does what it was made to do. Mode
        auto has them recorded where its signal is one.
    engine: options of the model that change its output. machine: what does not. Both are only written to the ledger.
    force: start again; the old ledger is kept under a number. hashing: called with (bytes so far, bytes in total).

    Returns the report. Errors: RequestError, NegHeadError, ContextFullError, OutputError.
    """
    config = config or ModeConfig()
    true_entropy = true_entropy or needs_true_entropy(modes, config)
    source: Source = (
        LocalModel(cast("DarwinNEG", llm), side_car, true_entropy=true_entropy) if hasattr(llm, "session") else llm
    )
    chosen = plans.choose(modes, config, controls=controls)
    if source.neg is None and any(plan.neg for plan in chosen):
        raise NegHeadError(
            f"{source.title}: has no NEG head, which modes 1, 2 and 3 gate with; add a side-car, or switch the "
            "gate off with gate=False"
        )
    limit = None if limit is None else check_integer("limit", limit, low=1)
    in_flight = None if in_flight is None else check_integer("in_flight", in_flight, low=1)
    items = data.items[:limit]
    run.check_fits(source, items, chosen, config)

    def choose_in_flight() -> int:
        """Nodes and servers come and go."""
        return in_flight or plans.choose_in_flight(chosen, source.info["n_parallel"])

    model, names = source.describe_model(progress=hashing)
    the_settings = settings.describe_run(
        model,
        data,
        config,
        build=source.describe_build(),
        early_stop=early_stop,
        engine={**source.describe_engine(), **(engine or {})},
    )
    _prepare(folder)
    with ledger.open_ledger(
        folder / ledger.NAME,
        the_settings,
        settings.describe_files(names, data),
        command=command,
        machine={**(machine or {}), **source.describe_machine(), "in_flight": choose_in_flight()},
        force=force,
    ) as opened:
        run.run(
            source.sampler(),
            items,
            chosen,
            config,
            opened,
            early_stop=early_stop,
            in_flight=choose_in_flight,
            progress=progress,
        )
    return make_report(folder)


def make_report(
    folder: Path, *, wanted_accuracy: float | None = None, auto_cost: float | None = None
) -> dict[str, Any]:
    """Writes the report of a folder, from its ledger alone; returns it.

    wanted_accuracy: propose thresholds for abstaining that give this share. auto_cost: propose thresholds of mode auto
    for at most this cost, in multiples of mode 1's. Errors: RequestError, OutputError.
    """
    if wanted_accuracy is not None:
        wanted_accuracy = check_number("wanted_accuracy", wanted_accuracy, low=0, high=1, above=0)
    if auto_cost is not None:
        auto_cost = check_number("auto_cost", auto_cost, low=1)
    contents = ledger.read(folder / ledger.NAME)
    summary = summarize(contents, wanted_accuracy=wanted_accuracy, auto_cost=auto_cost)
    report.write(folder, summary)
    return summary


def _prepare(folder: Path) -> None:
    """Makes the folder, and keeps git from taking the ledger in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        content = ignore.read_bytes() if ignore.exists() else b""
        if IGNORED not in content.decode("utf-8", "replace").splitlines():
            with ignore.open("ab") as file:  # lines that are there already belong to somebody, and stay
                file.write((("" if not content or content.endswith(b"\n") else "\n") + GITIGNORE).encode())
    except FileExistsError:
        raise OutputError(f"{shown_path(folder)}: is a file; give a folder for the results") from None
    except OSError as error:
        raise OutputError(
            f"{shown_path(folder)}: cannot be written to ({error.strerror}); choose another folder"
        ) from error
