"""Tables and a chart of accuracy against cost, and of thresholds that are proposed. See spending and abstaining."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..files.shown_text import escape_html
from ..files.svg_axis import Axis, draw_axes
from ..protocols.signals import SIGNALS
from .tables import Report, Table, percent

SPENDING = "Accuracy against cost"
ENOUGH = 30  # questions for a verdict: intervals of fewer are too narrow
ABSTAINING = "Thresholds for abstaining"
CALIBRATION = "Thresholds of mode auto"


def spending_tables(report: Report) -> Iterator[Table]:
    if spending := report.get("spending"):
        yield _spending(spending)
    if calibration := report.get("calibration"):
        yield _calibration(calibration)
    elif "calibration" in report:
        yield Table(
            CALIBRATION, ("",), (), ("There are none: the ledger lacks answers of modes 1, 2 and 3, or a signal.",)
        )
    if "abstaining" in report:
        yield _abstaining(report["abstaining"])


COLUMNS = (
    "",
    "cost",
    "ended in 1 / 2 / 3",
    "accuracy",
    "95 % interval",
    "more than at random",
    "more than by margin",
)  # of a line of accuracy against cost, see _simulated


def _spending(spending: Mapping[str, Any]) -> Table:
    rows: list[tuple[str, ...]] = [
        (name, f"{point['cost']:.2f}x", "–", percent(point["accuracy"]), _interval(point), "–", "–")
        for name, point in [*spending["modes"].items(), ("mode auto as run", spending["auto"])]
        if point is not None
    ]
    rows += [_simulated("mode auto, simulated", point) for point in spending["simulated"]]
    return Table(SPENDING, COLUMNS, tuple(rows), tuple(_spending_notes(spending)))


def _simulated(name: str, point: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{point['cost']:.2f}x",
        " / ".join(map(str, point["ended"])),
        percent(point["accuracy"]),
        _interval(point),
        _gain(point["random"]["difference"]),
        _gain(point["margin"]["difference"]),
    )


def _spending_notes(spending: Mapping[str, Any]) -> list[str]:
    signal = SIGNALS.get(spending["signal"], spending["signal"])
    better = [
        f"{point['cost']:.2f}x"
        for point in spending["simulated"]
        if all(_is_above_zero(point[name]) for name in ("random", "margin"))
    ]
    enough = spending["questions"] >= ENOUGH
    verdict = (
        f"Nothing can be said to be better or worse than the controls with fewer than {ENOUGH} questions."
        if not enough
        else f"At {', '.join(better)} it is better than both controls."
        if better
        else "At none of these costs is it shown to be better than both controls: nothing here is owed to the signal."
    )
    return [
        f"Mode auto simulated from the answers of modes 1, 2 and 3 to {spending['questions']} questions, with the "
        f"{signal}; thresholds from one half of the questions, figures from the other, both ways. Cost: completion "
        "tokens against mode 1. Gains in percentage points, with paired bootstrap intervals, not corrected for the "
        "number of costs, over two controls of equal cost: escalating at random, and mode 2 for all with mode 3 where "
        "the margin of votes is smallest.",
        verdict,
    ]


def _is_above_zero(control: Mapping[str, Any]) -> bool:
    interval = control["difference"]["interval"]
    return interval is not None and interval[0] > 0


def _calibration(calibration: Mapping[str, Any]) -> Table:
    first, second = calibration["thresholds"]
    options = (
        f"--auto-signal {calibration['signal']} --auto-first-threshold {_short(first)} "
        f"--auto-second-threshold {_short(second)}"
    )
    note = (
        f"For at most {calibration['wanted_cost']:g} times the cost of mode 1: {options}. The thresholds come from all "
        "questions; the figures are those of the halves that had no say in theirs."
    )
    return Table(CALIBRATION, COLUMNS, (_simulated("mode auto, held out", calibration),), (note,))


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _abstaining(found: Mapping[str, Any]) -> Table:
    rows = []
    for name, proposal in found.items():
        for signal, figures in proposal["signals"].items():
            held_out = figures["held_out"]
            threshold = figures["threshold"]
            rows.append(
                (
                    f"{name}, {SIGNALS.get(signal, signal)}",
                    f"--abstain-signal {signal} --abstain-above {threshold:.4g}" if threshold is not None else "none",
                    f"{held_out['answered']} of {proposal['questions']}",
                    percent(held_out["accuracy"]),
                    _interval(held_out) if held_out["answered"] else "–",
                )
            )
    wanted = {proposal["wanted_accuracy"] for proposal in found.values()}
    notes = [
        f"Wanted: {' or '.join(percent(value, 0) for value in wanted)} of what is answered. The threshold comes from "
        "all answers; answered, accuracy and Wilson's interval are of halves whose threshold comes from the other "
        "half, so they, and not the wanted share, are what to expect. Choosing the best of several rows is a choice "
        "too: the row's own interval knows nothing of it."
    ]
    if not rows:
        notes = ["There are too few answers with signals to propose any."]
    return Table(ABSTAINING, ("", "setting", "answered", "accuracy", "95 % interval"), tuple(rows), tuple(notes))


def _interval(point: Mapping[str, Any]) -> str:
    low, high = point["interval"]
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _gain(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return "–"
    low, high = estimate["interval"]
    return f"{100 * estimate['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _by_place(points: Mapping[str, Mapping[str, Any]]) -> dict[tuple[float, float], list[str]]:
    """The names of points that lie on each other; a greedy answer with the gate is one without, so that 0 and 1 do."""
    places: dict[tuple[float, float], list[str]] = {}
    for name, point in points.items():
        places.setdefault((round(point["cost"], 2), round(point["accuracy"], 4)), []).append(name)
    return places


def spending_chart(report: Report, title: str) -> str:
    """Accuracy against cost; "" for another title."""
    spending = report.get("spending") if title == SPENDING else None
    if not spending:
        return ""
    points = {**spending["modes"], **({"auto, as run": spending["auto"]} if spending["auto"] else {})}
    simulated = spending["simulated"]
    values = [point["accuracy"] for point in (*points.values(), *simulated)]
    values += [point[name]["accuracy"] for point in simulated for name in ("random", "margin")]
    x = Axis(60, 440, max(1.0, *(point["cost"] for point in (*points.values(), *simulated))) * 1.05)
    y = Axis(250, 20, min(1.0, max(0.05, *values) * 1.15))
    label = "; ".join(f"{name} {percent(point['accuracy'])} at {point['cost']:.1f}x" for name, point in points.items())
    parts = [
        f'<svg viewBox="0 0 700 300" role="img" aria-label="Accuracy against cost: {escape_html(label)}">',
        draw_axes(
            x,
            y,
            {value: f"{text}x" for value, text in x.ticks().items()},
            {k * y.top / 4: f"{100 * k * y.top / 4:.0f} %" for k in range(5)},
        ),
        '<text x="250" y="288" text-anchor="middle">cost, in multiples of mode 1</text>',
        '<text x="60" y="12">accuracy</text>',
    ]
    lines = {
        "mode auto, simulated": [(point["cost"], point["accuracy"]) for point in simulated],
        "escalating at random": [(point["cost"], point["random"]["accuracy"]) for point in simulated],
        "by margin of votes": [(point["cost"], point["margin"]["accuracy"]) for point in simulated],
    }
    for row, ((name, line), k) in enumerate(zip(lines.items(), (0, 5, 4), strict=True)):
        where = " ".join(f"{x(cost):.1f},{y(accuracy):.1f}" for cost, accuracy in sorted(line))
        at = 30 + 22 * row
        parts.append(f'<polyline class="curve c{k}" points="{where}"/>')
        parts.append(
            f'<path class="curve c{k}" d="M455 {at}h28"/><text x="490" y="{at + 4}">{escape_html(name)}</text>'
        )
    for (cost, accuracy), names in _by_place(points).items():
        left, height = x(cost), y(accuracy)
        parts.append(f'<circle class="point" cx="{left:.1f}" cy="{height:.1f}" r="4"/>')
        anchor = "start" if left < 100 else "middle"
        title = escape_html(", ".join(names))
        parts.append(f'<text x="{left:.1f}" y="{height - 8:.1f}" text-anchor="{anchor}">{title}</text>')
    return "".join([*parts, "</svg>"])
