"""Tables and charts of what signals of certainty are worth. See rating."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..files.shown_text import escape_html
from ..files.svg_axis import Axis, draw_axes
from .rating import REFERENCE, TITLES
from .tables import Report, Table, percent

RATED, COMPARED = "Confidence in", "Signals compared in"
# what a chart shows, as far as there is any: more lines could not be told apart
DRAWN = ("mean_entropy", "max_entropy", "letter_entropy", "letter_logprob", "true_mean_entropy", "margin")


def rating_tables(report: Report) -> Iterator[Table]:
    for name, rating in _shown(report).items():
        yield _ratings(name, rating)
        yield _differences(name, rating)


def _shown(report: Report) -> Mapping[str, Any]:
    """The ratings that are printed: those of modes, and that of mode 0 only where mode 1, which says the same, is
    missing. An older report has none."""
    found = {name: rating for name, rating in report.get("confidence", {}).items() if name.startswith("mode ")}
    return {name: rating for name, rating in found.items() if name != "mode 0" or "mode 1" not in found}


def _ratings(name: str, rating: Mapping[str, Any]) -> Table:
    coverages = list(next(iter(rating["signals"].values()))["accuracy_at"]) if rating["signals"] else []
    rows = tuple(
        (
            TITLES.get(signal, signal),
            str(figures["questions"]),
            with_interval(figures["auroc"]),
            with_interval(figures["area"]),
            *(_accuracy(figures["accuracy_at"][coverage]) for coverage in coverages),
        )
        for signal, figures in rating["signals"].items()
    )
    header = (
        "",
        "questions",
        "AUROC",
        "area",
        *(f"at {float(coverage):.0%}".replace("%", " %") for coverage in coverages),
    )
    return Table(f"{RATED} {name}", header, rows, tuple(_notes(name, rating)))


def _notes(name: str, rating: Mapping[str, Any]) -> list[str]:
    notes = [
        f"Of {rating['questions']} answers {rating['wrong']} are wrong. AUROC: how likely a wrong answer is less sure "
        "than a right one; 0.5 is chance. Area: under the risk-coverage curve, the smaller the better. Both with 95 % "
        "bootstrap intervals over questions. At a coverage: accuracy where about that share is answered, with the "
        "threshold from one half of the questions and the figure from the other, both ways, and Wilson's interval; the "
        "share that was really answered follows. For answers by votes a signal is the mean over the votes for it."
    ]
    if rating["unanswered"]:
        notes.append(f"{rating['unanswered']} questions without an answer are left out here.")
    unclear = [
        TITLES.get(signal, signal)
        for signal, figures in rating["signals"].items()
        if (interval := figures["auroc"]["interval"]) is not None and interval[0] <= 0.5 <= interval[1]
    ]
    if unclear:
        notes.append(f"Not told apart from chance by these questions: {', '.join(unclear)}.")
    return notes


def _differences(name: str, rating: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            f"{TITLES.get(pair['a'], pair['a'])} against {TITLES.get(pair['b'], pair['b'])}",
            str(pair["questions"]),
            with_interval(pair["auroc"], "+.3f"),
            with_interval(pair["area"], "+.3f"),
        )
        for pair in rating["differences"]
    )
    note = (
        f"Each against the {TITLES[REFERENCE]}, and predicted against true: the first minus the second, on the "
        "questions that have both, with a paired bootstrap. Where the interval holds 0, these questions do not tell "
        "them apart. Not corrected for the number of comparisons."
    )
    return Table(f"{COMPARED} {name}", ("", "questions", "AUROC", "area"), rows, (note,) if rows else ())


def with_interval(estimate: Mapping[str, Any], form: str = ".3f") -> str:
    value, interval = estimate["value"], estimate["interval"]
    if value is None:
        return "–"
    return format(value, form) + (f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else "")


def _accuracy(fit: Mapping[str, Any]) -> str:
    if fit["accuracy"] is None:
        return "–"
    low, high = fit["interval"]
    return f"{percent(fit['accuracy'])} ({100 * low:.1f} to {100 * high:.1f}) of {percent(fit['coverage'], 0)}"


def risk_chart(report: Report, title: str) -> str:
    """Risk-coverage curves of the table with this title, "" if it has none."""
    rating = _shown(report).get(title.removeprefix(f"{RATED} ")) if title.startswith(RATED) else None
    if rating is None:
        return ""
    curves = {name: rating["signals"][name]["curve"] for name in DRAWN if name in rating["signals"]}
    top = max([0.05, *(risk for curve in curves.values() for _, risk in curve)])
    x, y = Axis(60, 440, 1.0), Axis(250, 20, min(1.0, top * 1.05))
    shares = {tick / 100: f"{tick} %" for tick in range(0, 101, 20)}
    risks = {k * y.top / 4: f"{100 * k * y.top / 4:.0f} %" for k in range(5)}
    label = "Share of wrong answers among the surest, by " + ", ".join(TITLES[name] for name in curves)
    parts = [
        f'<svg viewBox="0 0 700 300" role="img" aria-label="{escape_html(label)}">',
        draw_axes(x, y, shares, risks),
        '<text x="250" y="288" text-anchor="middle">answered, the surest first</text>',
        '<text x="60" y="12">wrong of those answered</text>',
    ]
    overall = rating["wrong"] / rating["questions"]
    parts.append(f'<path class="chance" d="M{x.first} {y(overall):.1f}H{x.last}"/>')
    for k, (name, curve) in enumerate(curves.items()):
        points = " ".join(f"{x(coverage):.1f},{y(risk):.1f}" for coverage, risk in curve)
        at = 30 + 22 * k
        parts.append(f'<polyline class="curve c{k}" points="{points}"/>')
        parts.append(
            f'<path class="curve c{k}" d="M455 {at}h28"/><text x="490" y="{at + 4}">{escape_html(TITLES[name])}</text>'
        )
    return "".join([*parts, "</svg>"])
