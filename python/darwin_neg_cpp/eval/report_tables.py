"""The contents of a report as tables and sentences; report.py and report_page.py only format them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..protocols.protocol import Protocol
from .rating_tables import rating_tables
from .spending_tables import spending_tables
from .tables import Report, Table, percent

__all__ = ["Report", "Table", "percent", "tables", "title"]


def tables(report: Report) -> list[Table]:
    """Returns all of a report in reading order, without empty parts. The last two are about time and repeating it."""
    parts = [
        _accuracy(report),
        _comparisons(report),
        _cost(report),
        _reading(report),
        _neg(report),
        _margins(report),
        *rating_tables(report),
        *spending_tables(report),
        _domains(report),
        _notes_on_questions(report),
        _timing(report),
        _settings(report),
    ]
    return [part for part in parts if part is not None and (part.rows or part.notes)]


def title(report: Report) -> str:
    return f"Evaluation of {report['model'] or 'a model'} on {report['data'] or 'a question set'}"


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def points(value: float) -> str:
    """Writes a difference of shares in percentage points."""
    return f"{100 * value:+.1f}"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}"


def _interval(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _accuracy(report: Report) -> Table:
    claims = report["claims"]
    header = ["", "protocol", "right", "accuracy", "95 % interval", "cost"]
    rows = []
    for name, figures in report["protocols"].items():
        row = [
            name,
            figures["title"],
            f"{figures['right']} of {figures['questions']}",
            percent(figures["accuracy"]),
            _interval(figures["interval"]),
            "–" if figures["cost_multiple"] is None else f"{figures['cost_multiple']:.2f}x",
        ]
        if claims:
            claim = claims["protocols"].get(name)
            row += [percent(claim["accuracy"], 2) if claim else "–", claim["cost"] if claim else "–"]
        rows.append(tuple(row))
    if claims:
        header += ["card claims", "card's cost"]
    return Table("Accuracy", tuple(header), tuple(rows), tuple(_accuracy_notes(report)))


def _accuracy_notes(report: Report) -> list[str]:
    chance, protocols = report["chance"], report["protocols"]
    notes = ["Interval: Wilson, 95 %. Cost: completion tokens against those of mode 0 on the same questions."]
    if chance is not None:
        near = [
            name for name, figures in protocols.items() if figures["interval"][0] <= chance <= figures["interval"][1]
        ]
        notes.append(f"Guessing would get {percent(chance)}.")
        if near:
            notes.append(f"Not told apart from guessing by these questions: {', '.join(near)}.")
    asked = report["settings"].get("data", {}).get("questions", 0)
    short = [f"{name} {figures['questions']}" for name, figures in protocols.items() if figures["questions"] != asked]
    if short:
        notes.append(f"Answered so far, of the file's {asked} questions: {', '.join(short)}.")
    if skipped := report["settings"].get("data", {}).get("skipped", 0):
        notes.append(f"{skipped} questions of the file were left out because they could not be used.")
    if merged := report["settings"].get("data", {}).get("merged", 0):
        notes.append(f"{merged} questions of the file have equal wrong choices, which were asked as one.")
    if claims := report["claims"]:
        whole = claims.get("questions", 0)
        used = {name: figures["questions"] for name, figures in protocols.items()}
        fewer = [f"{name} {count}" for name, count in used.items() if count < whole]
        if fewer:
            notes.append(
                f"The card's figures are for all {whole} questions; the measured ones stand beside them for fewer: "
                f"{', '.join(fewer)}."
            )
        notes.append(
            f"The card's columns are claims of the {claims['source']}, not measurements made here; its "
            "prompts and the details of its modes 2 and 3 are unpublished, so equal names do not mean equal protocols."
        )
    return notes


def _comparisons(report: Report) -> Table:
    rows = tuple(
        (
            f"{comparison['a']} against {comparison['b']}",
            str(comparison["questions"]),
            str(comparison["only_a"]),
            str(comparison["only_b"]),
            points(comparison["difference"]),
            f"{points(comparison['interval'][0])} to {points(comparison['interval'][1])}",
            p_value(comparison["p"]),
        )
        for comparison in report["comparisons"]
        if comparison["questions"]
    )
    header = ("", "questions", "only the first right", "only the second right", "points", "95 % interval", "p")
    note = (
        "On the questions that both answered. Points: accuracy of the first minus that of the second, in percentage "
        "points, with a paired bootstrap over questions. p: exact McNemar test, two-sided, not corrected for the "
        "number of comparisons."
    )
    return Table("Modes compared", header, rows, (note,) if rows else ())


def _cost(report: Report) -> Table:
    rows = tuple(
        (
            name,
            *(f"{figures['inferences'][key]:,}" for key in ("planned", "started", "finished", "saved")),
            f"{figures['tokens']['prompt']:,}",
            f"{figures['tokens']['completion']:,}",
            number(figures["tokens"]["completion_per_question"], ",.1f"),
            "–" if figures["cost_multiple"] is None else f"{figures['cost_multiple']:.2f}x",
        )
        for name, figures in report["protocols"].items()
    )
    header = (
        "",
        "planned",
        "started",
        "finished",
        "saved",
        "prompt tokens",
        "completion tokens",
        "per question",
        "against mode 0",
    )
    early = report["settings"].get("protocol", {}).get("early_stop")
    note = "Planned: inferences of the stages that were reached. Saved: those that did not have to finish" + (
        ", because they could not have changed the answer." if early else " (early stopping was off)."
    )
    return Table("Cost", header, rows, (note, "Each distinct prompt is counted once, because it is decoded once."))


def _reading(report: Report) -> Table:
    keys = ("unparsed", "truncated", "fallback", "unanswered", "tied", "asked_again")
    rows = tuple((name, *(percent(figures[key]) for key in keys)) for name, figures in report["protocols"].items())
    note = (
        "Shares of the inferences that were not cancelled: unparsed (no letter could be read; no vote), truncated "
        "(reached the maximum number of tokens), fallback (read by the second rule). Shares of the questions: "
        "unanswered (no vote at all; counts as wrong), tied (equal votes were resolved by the rule), asked again "
        "(second opinions)."
    )
    header = ("", "unparsed", "truncated", "fallback", "unanswered", "tied", "asked again")
    return Table("How answers were read", header, rows, (note,))


def _neg(report: Report) -> Table | None:
    seen = {name: figures["gate"] for name, figures in report["protocols"].items() if figures["gate"] is not None}
    rows = tuple(
        (name, percent(figures["activation_rate"], 2), f"{figures['mean_predicted_entropy']:.3f}")
        for name, figures in seen.items()
    )
    notes = []
    if rows:
        notes.append(
            "Share of generated tokens at which the gate was active, if NEG is on, and mean predicted entropy."
        )
    if report["claims"]:
        notes.append(f"The card claims {percent(report['claims']['activation_rate'], 2)} for its greedy run.")
    if greedy := report["greedy"]:
        notes.append(_greedy(greedy))
    if not rows and not notes:
        return None
    return Table("NEG", ("", "gate active", "mean predicted entropy, nats"), rows, tuple(notes))


def _greedy(greedy: Mapping[str, int]) -> str:
    if not greedy["tokens_that_differ"]:
        return (
            f"Modes 0 and 1 generated the same {greedy['tokens']:,} tokens on all {greedy['questions']} questions, as "
            "they must: the gate keeps the most likely tokens, so it cannot change a greedy choice."
        )
    return (
        f"Modes 0 and 1 differ in {greedy['tokens_that_differ']:,} of {greedy['tokens']:,} tokens, on "
        f"{greedy['questions_that_differ']} of {greedy['questions']} questions. The gate cannot change a greedy "
        "choice, but rounding can, and it depends on what else is in the batch. With --n-parallel 1 no token differs."
    )


def _margins(report: Report) -> Table:
    voting = [name for name in report["protocols"] if Protocol.parse(name).votes]
    by_name = {name: {group["margin"]: group for group in report["protocols"][name]["by_margin"]} for name in voting}
    margins = sorted({margin for groups in by_name.values() for margin in groups})
    rows = tuple((str(margin), *(_right(by_name[name].get(margin)) for name in voting)) for margin in margins)
    early = report["settings"].get("protocol", {}).get("early_stop")
    note = "Margin: votes of the winner minus those of the second" + (
        ", at the time when the answer was certain." if early else "."
    )
    return Table("Accuracy by margin of votes", ("margin", *voting), rows, (note,) if rows else ())


def _right(figures: Mapping[str, Any] | None) -> str:
    if not figures or not figures["questions"]:
        return "–"
    return f"{figures['right']} of {figures['questions']} ({percent(figures['accuracy'], 0)})"


def _domains(report: Report) -> Table:
    names = list(report["protocols"])
    rows = tuple(
        (domain["domain"] or "(none)", *(_right(domain["protocols"].get(name)) for name in names))
        for domain in report["domains"]
    )
    return Table("By domain", ("domain", *names), rows)


def _notes_on_questions(report: Report) -> Table:
    # a report that an older version wrote has no such lists
    rows = [
        (what, line) for what, key in (("left out", "left_out"), ("merged", "merged")) for line in report.get(key, ())
    ]
    note = "Merged: equal wrong choices are shown to the model as one, because a vote for either is the same vote."
    return Table("Questions left out or changed", ("", "record"), tuple(rows), (note,) if report.get("merged") else ())


def _timing(report: Report) -> Table:
    timing = report["timing"]
    rows = tuple(
        (name, f"{seconds['mean']:.2f}", f"{seconds['median']:.2f}")
        for name, seconds in timing["seconds_per_question"].items()
    )
    sessions = timing["sessions"]
    notes = [
        f"{timing['seconds']:.0f} s in {len(sessions)} session{'' if len(sessions) == 1 else 's'}. Seconds from a "
        "question's start to its answer; questions that run side by side share the machine, so these do not add up. "
        "--in-flight 1 measures one at a time."
    ]
    for session in sessions:
        machine = ", ".join(f"{key} {value}" for key, value in session["machine"].items())
        work = f"{session['answers']} answers in {session['seconds']:.0f} s"
        notes.append(f"Session of {session['started']}: {work}; {machine}.")
    return Table("Time", ("", "mean seconds", "median seconds"), rows, tuple(notes))


def _settings(report: Report) -> Table:
    rows = [*_flat(report["names"], "file"), *_flat(report["settings"], "")]
    return Table("To repeat it", ("setting", "value"), tuple(rows), tuple(report["commands"]))


def _flat(value: Any, path: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for key, child in value.items() for row in _flat(child, f"{path}.{key}" if path else str(key))]
    return [(path, "–" if value is None else str(value))]
