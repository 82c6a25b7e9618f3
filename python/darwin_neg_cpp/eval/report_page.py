"""A report as one self-contained web page: no script, readable in print, in the dark, and by a screen reader.

Names of files, domains and questions come from outside: they are escaped, and the content security policy lets no
script run.
"""

from __future__ import annotations

from ..files.shown_text import escape_html
from ..files.svg_axis import Axis, labels_below
from ..files.web_page import build_page
from .rating_tables import risk_chart
from .report_tables import Report, Table, percent, tables, title
from .spending_tables import spending_chart

# columns of words rather than figures
WORDS = {"", "protocol", "domain", "value", "setting", "record"}


def page(report: Report) -> str:
    """The whole HTML document."""
    head = title(report)
    parts = [_section(table, _figure(report, table.title)) for table in tables(report)]
    body = "".join([*parts, _questions(report)])
    return build_page(head, f"<main>\n<h1>{escape_html(head)}</h1>\n{body}\n</main>", style="report.css")


def _figure(report: Report, name: str) -> str:
    return _chart(report) if name == "Accuracy" else risk_chart(report, name) + spending_chart(report, name)


def _section(table: Table, figure: str) -> str:
    identity = table.title.lower().replace(" ", "-")
    if table.title == "To repeat it":
        notes = "".join(f"<pre>{escape_html(note)}</pre>" for note in table.notes)
    else:
        notes = "".join(f"<p>{escape_html(note)}</p>" for note in table.notes)
    rows = _table(table, identity) if table.rows else ""
    return f'<section>\n<h2 id="{identity}">{escape_html(table.title)}</h2>\n{figure}{notes}{rows}</section>\n'


def _table(table: Table, label: str) -> str:
    def kind(name: str) -> str:
        return ' class="w"' if name in WORDS else ""

    head = "".join(f'<th scope="col"{kind(name)}>{escape_html(name)}</th>' for name in table.header)
    body = []
    for row in table.rows:
        first = f'<th scope="row">{escape_html(row[0])}</th>'
        rest = "".join(
            f"<td{kind(name)}>{escape_html(cell)}</td>" for name, cell in zip(table.header[1:], row[1:], strict=True)
        )
        body.append(f"<tr>{first}{rest}</tr>")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="{label}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _chart(report: Report) -> str:
    """Accuracies with their intervals along one axis; the card's claims as hollow diamonds where there are any."""
    protocols, claims = report["protocols"], report["claims"]
    step = 30
    bottom = step * len(protocols) + 10
    x = Axis(170, 670, 1.0)
    label = "; ".join(
        f"{name} {percent(row['accuracy'])}, interval {percent(row['interval'][0])} to {percent(row['interval'][1])}"
        for name, row in protocols.items()
    )
    ticks = {tick / 100: f"{tick} %" for tick in range(0, 101, 20)}
    parts = [f'<svg viewBox="0 0 700 {bottom + 40}" role="img" aria-label="Accuracy: {escape_html(label)}">']
    parts += [f'<path class="axis" d="M{x(tick):.1f} 5V{bottom}"/>' for tick in ticks]
    parts.append(labels_below(x, bottom, ticks))
    if report["chance"] is not None:
        at = x(report["chance"])
        parts.append(f'<path class="chance" d="M{at:.1f} 5V{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 32}" text-anchor="middle">guessing</text>')
    for i, (name, row) in enumerate(protocols.items()):
        y = 20 + i * step
        parts.append(f'<text class="name" x="{x.first - 12}" y="{y + 4}" text-anchor="end">{escape_html(name)}</text>')
        if row["accuracy"] is None:
            continue
        low, high = (x(end) for end in row["interval"])
        parts.append(f'<path class="bar" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>')
        parts.append(f'<circle class="dot" cx="{x(row["accuracy"]):.1f}" cy="{y}" r="5"/>')
        if claims and name in claims["protocols"]:
            at = x(claims["protocols"][name]["accuracy"])
            parts.append(f'<path class="claim" d="M{at:.1f} {y - 7}l7 7l-7 7l-7 -7z"/>')
    parts.append("</svg>")
    if claims:
        parts.append("<p>Dots: measured here, with 95 % intervals. Hollow diamonds: claimed by the card.</p>")
    return "".join(parts)


def _questions(report: Report) -> str:
    """Right and wrong of every question, by id; also told apart without colours."""
    names = list(report["protocols"])
    head = "".join(f'<th scope="col">{escape_html(name)}</th>' for name in names)
    rows = []
    for question in report["questions"]:
        cells = "".join(_mark(question["right"].get(name)) for name in names)
        identity, domain = escape_html(question["id"]), escape_html(question["domain"])
        rows.append(f'<tr><th scope="row">{identity}</th><td class="w">{domain}</td>{cells}</tr>')
    return (
        '<section>\n<h2 id="questions">Question by question</h2>\n'
        "<p>By id; the questions themselves are not in this report.</p>\n"
        '<details><summary>Show</summary><div class="wide" tabindex="0" role="region" aria-labelledby="questions">'
        f'<table><thead><tr><th scope="col">id</th><th scope="col" class="w">domain</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details></section>\n"
    )


def _mark(right: bool | None) -> str:
    if right is None:
        return "<td>–</td>"
    return '<td class="r">right</td>' if right else '<td class="x">wrong</td>'
