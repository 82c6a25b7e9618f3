"""`darwin-neg eval`: the decoding modes measured on a question set."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from ..files.input_file import sha256_file, shown_path
from ..files.progress import ProgressBar
from ..protocols.escalation import needs_true_entropy
from ..protocols.modes import AUTO, MODES, Mode
from .answer import add_mode_options, mode_config, read_mode
from .cluster_options import add_ray_option, check_ray_option, connect_cluster
from .loading_options import settings_that_answers_depend_on
from .options import (
    add_chat_template_option,
    add_json_option,
    add_model_options,
    check_model_options,
    generating_options,
    load_repeatable_model,
    set_repeatable,
    without_folder,
)
from .server_options import add_server_options, connect, without_key

if TYPE_CHECKING:
    from ..eval.report_tables import Table
    from ..eval.source import Source

KINDS = ("gpqa", "mmlu", "jsonl", "auto")


def add_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "eval",
        help="measure the decoding modes on a question set",
        description="Answers multiple-choice questions under each decoding mode and reports accuracy with its "
        "uncertainty, compares the modes with each other and with plain self-consistency, and reports what they cost. "
        "Every answer is written to a ledger at once: after Ctrl-C, a crash or kill -9 the same command resumes, and "
        "nothing is lost or done twice.",
    )
    parser.add_argument(
        "kind",
        nargs="?",
        choices=KINDS,
        default="auto",
        metavar="KIND",
        help="format of the data: gpqa (official CSV), mmlu (tables: question, choices, answer), jsonl (JSON, also one "
        "list), or auto (default)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="question set; without it, gpqa downloads GPQA Diamond, for which you need access of your own",
    )
    parser.add_argument(
        "--modes", default="0,1,2,3", metavar="LIST", help="modes to run, auto among them (default 0,1,2,3)"
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="folder of ledger and report (default: eval-MODEL-DATA)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument(
        "--full",
        dest="early_stop",
        action="store_false",
        help="run every candidate, also those that cannot change the answer",
    )
    parser.add_argument(
        "--no-control",
        dest="controls",
        action="store_false",
        help="leave out plain self-consistency, the control of modes 2 and 3",
    )
    parser.add_argument(
        "--in-flight", type=int, metavar="N", help="questions worked on at once (default: follows --n-parallel)"
    )
    parser.add_argument(
        "--skip-bad",
        dest="skip",
        action="store_true",
        help="leave out questions that cannot be used or repeat another one (empty cells, missing columns, answers "
        "that are none of the choices, duplicates) instead of refusing the file; the report lists them",
    )
    parser.add_argument(
        "--true-entropy",
        action="store_true",
        help="also record true entropies, to compare predicted ones with; changes no answer (with mode auto they are "
        "recorded anyway where --auto-signal is one)",
    )
    parser.add_argument("--force", action="store_true", help="start again; the old ledger is kept under a number")
    parser.add_argument("--report-only", action="store_true", help="write the report of --out again, without a model")
    parser.add_argument(
        "--wanted-accuracy",
        type=float,
        metavar="SHARE",
        help="with --report-only: propose thresholds for --abstain-above of `answer` that give this accuracy, with "
        "what they give on questions that had no say in them",
    )
    parser.add_argument(
        "--calibrate-auto",
        dest="auto_cost",
        type=float,
        metavar="COST",
        help="with --report-only: propose thresholds of mode auto for at most COST times the cost of mode 1, from the "
        "ledger's answers of modes 1, 2 and 3",
    )
    add_json_option(parser, "print the report as JSON")
    add_chat_template_option(parser)
    add_model_options(parser)
    add_server_options(parser, what="ask")
    add_ray_option(parser, what="ask the model")
    add_mode_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..eval import data, evaluate

    if args.report_only:
        if not args.out:
            raise RequestError("--report-only needs --out, the folder of an evaluation")
        folder = Path(args.out)
        report = evaluate.make_report(folder, wanted_accuracy=args.wanted_accuracy, auto_cost=args.auto_cost)
        return _show(args, report, folder)
    for flag, value in (("--wanted-accuracy", args.wanted_accuracy), ("--calibrate-auto", args.auto_cost)):
        if value is not None:
            raise RequestError(f"{flag} needs --report-only: it reads what an evaluation has found")
    check_ray_option(args)
    check_model_options(args)
    modes = _modes(args.modes)
    config = mode_config(args)
    questions = data.load(_data_path(args), args.kind, skip=args.skip)
    for what, lines in (("left out", questions.skipped), ("merged", questions.merged)):
        for line in lines:
            print(f"darwin-neg: {what}: {line}", file=sys.stderr)
    with (
        _open_model(args, true_entropy=args.true_entropy or needs_true_entropy(modes, config)) as (source, model),
        ProgressBar("hashing") as hashing,
        ProgressBar("evaluating", unit=" answers") as bar,
    ):
        folder = Path(args.out) if args.out else _default_folder(model, questions.file)
        try:
            report = evaluate.evaluate(
                source,
                questions,
                folder,
                modes=modes,
                config=config,
                controls=args.controls,
                early_stop=args.early_stop,
                limit=args.limit,
                in_flight=args.in_flight,
                engine={} if args.servers else _engine(args),
                machine={} if args.servers or args.ray else {"devices": _devices()},
                command=_command(args),
                force=args.force,
                hashing=hashing,
                progress=lambda done, total, right: bar(done, total, _note(source, right)),
            )
        except KeyboardInterrupt:
            bar.close()
            again = "; the same command resumes" + (" (without --force)" if args.force else "")
            print(f"darwin-neg: interrupted; the answers so far are in {shown_path(folder)}{again}", file=sys.stderr)
            raise
    return _show(args, report, folder)


@contextlib.contextmanager
def _open_model(args: argparse.Namespace, *, true_entropy: bool) -> Iterator[tuple[Source, str]]:
    """What answers, and the model's name."""
    from ..eval.source import LocalModel

    if args.servers:
        if true_entropy:
            option = "--true-entropy" if args.true_entropy else f"--auto-signal {args.auto_signal}"
            raise RequestError(f"{option} needs the model in this process: servers tell no true entropies")
        with connect(args) as remote:
            yield remote, remote.name
        return
    if args.ray is not None:
        from ..cluster.evaluation import ClusterModel, Look

        set_repeatable(args)
        with connect_cluster(args, generating_options(args), Look(true_entropy)) as cluster:
            model = ClusterModel(cluster, true_entropy=true_entropy)
            yield model, model.name
        return
    side_car = args.side_car
    if args.demo:
        from .. import demo_model

        side_car = str(demo_model.HEAD)
    with load_repeatable_model(args) as llm:
        yield LocalModel(llm, side_car, true_entropy=true_entropy), llm.path


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of the model that change its output."""
    engine = {key: getattr(args, key) for key in ("type_k", "type_v", "flash_attn", "n_gpu_layers")}
    if args.chat_template is not None:
        engine["chat_template_sha256"] = sha256_file(args.chat_template)
    # only where they were given, so that older ledgers can be resumed
    return {**engine, **settings_that_answers_depend_on(args)}


def _modes(text: str) -> tuple[Mode, ...]:
    modes: tuple[Mode, ...]
    try:
        modes = tuple(read_mode(mode.strip()) for mode in text.split(","))
    except ValueError:
        modes = ()
    if not modes or len(set(modes)) < len(modes) or not set(modes) <= {*MODES, AUTO}:
        raise RequestError(f"--modes must list some of 0, 1, 2 and 3, or auto, each once, as in 0,1,2; got {text!r}")
    return modes


def _data_path(args: argparse.Namespace) -> str:
    if args.data:
        return str(args.data)
    if args.kind != "gpqa":
        raise RequestError("no question set given; use --data FILE, or KIND gpqa to download GPQA Diamond")
    from ..eval import gpqa_hub

    return str(gpqa_hub.fetch())


def _default_folder(model: str, data: str) -> Path:
    stems = (os.path.splitext(os.path.basename(path))[0] for path in (model, data))
    return Path(re.sub(r"[^\w.-]+", "-", "-".join(["eval", *stems]))[:120])


def _devices() -> str:
    from .. import _core

    return "; ".join(f"{device['type']} {device['description']}" for device in _core.devices())


def _command(args: argparse.Namespace) -> str:
    """Returns the command line for the report: files without their folders."""
    return shlex.join(["darwin-neg", *map(without_folder, without_key(args.argv))])


def _note(source: Source, right: dict[str, tuple[int, int]]) -> str:
    """What to show beside the progress: of a cluster also how many nodes there are."""
    return ", ".join(filter(None, (_accuracies(right), getattr(source, "note", ""))))


def _accuracies(right: dict[str, tuple[int, int]]) -> str:
    """Shortens the accuracies so far to fit after a progress bar. right: (right answers, answers) by protocol."""
    return ", ".join(
        f"{name.replace('self-consistency', 'control')} {100 * k / n:.0f} %" for name, (k, n) in right.items() if n
    )


def _show(args: argparse.Namespace, report: dict[str, Any], folder: Path) -> int:
    from ..eval.report import MARKDOWN
    from ..eval.report_tables import tables
    from ..eval.spending_tables import ABSTAINING, CALIBRATION

    if args.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
        return 0
    asked = (ABSTAINING,) * ("abstaining" in report) + (CALIBRATION,) * ("calibration" in report)
    for table in tables(report):
        if table.title in (asked or ("Accuracy",)):
            print(_plain(table))
    print(f"report: {shown_path(folder / MARKDOWN)}, also as .html and .json")
    return 0


def _plain(table: Table) -> str:
    """Formats a table for the terminal, with aligned columns."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *table.notes])
