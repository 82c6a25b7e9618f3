"""The report of `calibrate --report`: tables for people, JSON for programs, a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.output_file import check_output, os_errors_about
from ..files.svg_axis import Axis, draw_axes
from .report import write_file
from .token_confidence import DECILES, cells

FILES = {"markdown": "report.md", "json": "report.json", "chart": "report.svg"}
COLOURS = {"predicted": "#0b4f9e", "true": "#c2410c"}
TITLES = {
    "predicted": "predicted entropy",
    "true": "true entropy",
    "likeliest": "minus log-probability of the likeliest token",
}
MOST_NAMES = 5  # of texts
LEAST_AUROC = 0.4  # of the chart


def check(folder: Path, inputs: list[Path], *, force: bool) -> None:
    """Refuses a folder whose report would replace a file that is read, or any without `force`; creates a new one."""
    with os_errors_about(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name in FILES.values():
        check_output(folder / name, inputs, force=force)


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes the three files. report: see render_markdown."""
    write_file(folder / FILES["json"], report)
    write_file(folder / FILES["chart"], draw_chart(report["figures"]))
    write_file(folder / FILES["markdown"], render_markdown(report))


def render_markdown(report: Mapping[str, Any]) -> str:
    """report: command, model, head, texts, agreement, figures (of token_confidence.summarize)."""
    figures, agreement = report["figures"], report["agreement"]
    overall, names = figures["overall"], report["texts"]
    lines = [
        "# Confidence of tokens",
        "",
        f"Model `{report['model']}`, head: {report['head'] or 'of unknown origin'}. Text: "
        + (", ".join(f"`{name}`" for name in names) if len(names) <= MOST_NAMES else f"{len(names)} files")
        + f"; {figures['tokens']} tokens of {figures['documents']} documents or parts of them.",
        "",
        "```",
        report["command"],
        "```",
        "",
        f"At {figures['wrong'] / max(1, figures['tokens']):.1%} of the tokens the likeliest token is not the text's: "
        'these are called "wrong". AUROC: probability that',
        "a wrong token has the larger entropy than a right one; 0.5 is chance. Intervals: 95 %, bootstrap over",
        f"documents, {figures['resamples']} resamples.",
        "",
        f"The head itself: R² {agreement['r2']:.3f} against the true entropy, mean error {agreement['mae']:.3f} nats.",
        "",
        "| signal | AUROC | area under risk-coverage | accuracy of the surest half |",
        "|---|---|---|---|",
        *(
            f"| {title} | {cells(overall[name]['auroc'])} | {cells(overall[name]['area'])} | "
            f"{cells(overall[name]['accuracy_at']['0.5'])} |"
            for name, title in TITLES.items()
        ),
        f"| predicted less true | {cells(overall['predicted_less_true']['auroc'], sign=True)} | "
        f"{cells(overall['predicted_less_true']['area'], sign=True)} | |",
        "",
        f"![share of wrong tokens by decile, and AUROC by kind of token]({FILES['chart']})",
        "",
        "## By kind of token",
        "",
        *_table("kind of the text's token", figures["kinds"]),
        "",
        "## By position",
        "",
        *_table("tokens before it", figures["positions"]),
        "",
    ]
    for name in ("predicted", "true"):
        lines += [f"## Deciles of {TITLES[name]}", "", *_deciles(figures["deciles"][name]), ""]
    lines += [
        "Expected: mean of one less the probability of the likeliest token, which equals the share of wrong ones where",
        "the model is calibrated.",
        "",
    ]
    return "\n".join(lines)


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    head = [title, "tokens", "wrong", "AUROC, predicted", "AUROC, true", "predicted less true"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        aurocs = [cells(row[signal]["auroc"]) for signal in ("predicted", "true")]
        difference = cells(row["predicted_less_true"]["auroc"], sign=True)
        share = f"{row['wrong'] / row['tokens']:.1%}"
        lines.append(f"| {name} | {row['tokens']} | {share} | " + " | ".join([*aurocs, difference]) + " |")
    return lines


def _deciles(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["decile", "nats", "mean predicted", "mean true", "wrong", "expected"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for k, row in enumerate(rows, start=1):
        lines.append(
            f"| {k} | {row['from']:.2f} to {row['to']:.2f} | {row['predicted']:.3f} | {row['true']:.3f} | "
            f"{cells(row['wrong'])} | {row['expected']:.3f} |"
        )
    return lines


def draw_chart(figures: Mapping[str, Any]) -> str:
    """Draws an SVG: the share of wrong tokens by decile of either entropy, and AUROC by kind of token."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 400" font-family="sans-serif" font-size="12" '
        'role="img">',
        "<title>Share of wrong tokens by decile of entropy, and AUROC by kind of token</title>",
        '<rect width="900" height="400" fill="#fff"/>',
        *_draw_deciles(figures["deciles"]),
        *_draw_kinds(figures["kinds"]),
    ]
    for k, (name, colour) in enumerate(COLOURS.items()):
        parts.append(f'<circle cx="{60 + 150 * k}" cy="386" r="4" fill="{colour}"/>')
        parts.append(f'<text x="{70 + 150 * k}" y="390">{TITLES[name]}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _draw_deciles(deciles: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    x, y = Axis(56, 430, DECILES + 1), Axis(330, 20, 1)
    ticks = {k / 4: f"{k / 4:g}" for k in range(5)}
    parts = [draw_axes(x, y, {k: str(k) for k in range(1, DECILES + 1)}, ticks, line='stroke="#222" fill="none"')]
    for shift, (name, colour) in zip((-0.1, 0.1), COLOURS.items(), strict=True):
        points = [(x(k + shift), row["wrong"]) for k, row in enumerate(deciles[name], start=1)]
        parts += [_point(at, y, estimate, 0.0, colour) for at, estimate in points]
    parts.append(f'<text x="{x(5.5)}" y="366" text-anchor="middle">decile of entropy, the surest first</text>')
    parts.append(
        f'<text transform="translate(16 {y(0.5)}) rotate(-90)" text-anchor="middle">share of wrong tokens</text>'
    )
    return parts


def _draw_kinds(kinds: Mapping[str, Any]) -> list[str]:
    x, y = Axis(516, 890, len(kinds)), Axis(330, 20, 1 - LEAST_AUROC)
    ticks = {value - LEAST_AUROC: f"{value:.1f}" for value in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
    names = {k + 0.5: name for k, name in enumerate(kinds)}
    parts = [draw_axes(x, y, names, ticks, line='stroke="#222" fill="none"')]
    chance = y(0.5 - LEAST_AUROC)
    parts.append(f'<path d="M{x.first} {chance:.1f}H{x.last}" stroke="#888" stroke-dasharray="4 4"/>')
    for shift, (name, colour) in zip((-0.08, 0.08), COLOURS.items(), strict=True):
        for k, row in enumerate(kinds.values()):
            parts.append(_point(x(k + 0.5 + shift), y, row[name]["auroc"], LEAST_AUROC, colour))
    parts.append(f'<text transform="translate(478 {y(0.3)}) rotate(-90)" text-anchor="middle">AUROC</text>')
    return parts


def _point(at: float, y: Axis, estimate: Mapping[str, float | None], zero: float, colour: str) -> str:
    """A dot with its interval; nothing where it is undefined or below the axis."""
    value, low, high = estimate["value"], estimate["low"], estimate["high"]
    if value is None or value < zero:
        return ""
    bar = ""
    if low is not None and high is not None:
        bar = f'<path d="M{at:.1f} {y(max(low, zero) - zero):.1f}V{y(high - zero):.1f}" stroke="{colour}"/>'
    return f'{bar}<circle cx="{at:.1f}" cy="{y(value - zero):.1f}" r="4" fill="{colour}"/>'
