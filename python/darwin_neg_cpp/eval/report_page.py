"""A report as one self-contained web page: no network, no script, readable in print, in the dark, and by a screen reader.

Names of files, domains and questions come from outside: they are escaped, and the content security policy lets no script run at all.
"""

from __future__ import annotations

from ..files.shown_text import escape_html
from .report_tables import Report, Table, percent, tables, title

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1f; --faint: #62626c; --line: #d8d8de; --mark: #1d4ed8; --claim: #b45309; --panel: #f6f6f8;
  --right: #047857; --wrong: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16161a; --ink: #ececf1; --faint: #a6a6b2; --line: #3a3a42; --mark: #7aa2ff; --claim: #fbbf24;
  --panel: #212127; --right: #34d399; --wrong: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; font: 16px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--ink); }
h1 { font-size: 1.3rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
p { margin: .25rem 0; color: var(--faint); max-width: 50rem; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th { font-weight: 600; } thead th { color: var(--faint); font-weight: 500; }
th:first-child, td.w, th.w { text-align: left; }
td.w { overflow-wrap: anywhere; }
td.r { color: var(--right); } td.x { color: var(--wrong); }
svg { width: 100%; max-width: 46rem; height: auto; display: block; margin: .5rem 0; }
svg text { fill: var(--ink); font-size: 13px; } svg text.s { fill: var(--faint); font-size: 11px; }
.axis { stroke: var(--line); } .chance { stroke: var(--faint); stroke-dasharray: 4 4; } .bar { stroke: var(--mark); stroke-width: 2; } .dot { fill: var(--mark); }
.claim { fill: var(--paper); stroke: var(--claim); stroke-width: 2; }
@media print { body { padding: 0; max-width: none; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } .wide { overflow: visible; } }
"""

# columns of words rather than figures
WORDS = {"", "protocol", "domain", "value", "setting"}


def page(report: Report) -> str:
    """The whole HTML document."""
    parts = []
    for table in tables(report):
        figure = _chart(report) if table.title == "Accuracy" else ""
        parts.append(_section(table, figure))
    parts.append(_questions(report))
    head = escape_html(title(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{head}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{head}</h1>
{"".join(parts)}
</main>
</body>
</html>
"""


def _section(table: Table, figure: str) -> str:
    identity = table.title.lower().replace(" ", "-")
    if table.title == "To repeat it":
        notes = "".join(f"<pre>{escape_html(one)}</pre>" for one in table.notes)
    else:
        notes = "".join(f"<p>{escape_html(one)}</p>" for one in table.notes)
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
    left, width, step = 170, 500, 30
    height = step * len(protocols) + 10

    def x(share: float) -> float:
        return left + share * width

    label = "; ".join(
        f"{name} {percent(one['accuracy'])}, interval {percent(one['interval'][0])} to {percent(one['interval'][1])}"
        for name, one in protocols.items()
    )
    parts = [f'<svg viewBox="0 0 700 {height + 40}" role="img" aria-label="Accuracy: {escape_html(label)}">']
    for tick in range(0, 101, 20):
        parts.append(f'<path class="axis" d="M{x(tick / 100):.1f} 5V{height}"/>')
        parts.append(f'<text class="s" x="{x(tick / 100):.1f}" y="{height + 16}" text-anchor="middle">{tick} %</text>')
    if report["chance"] is not None:
        at = x(report["chance"])
        parts.append(f'<path class="chance" d="M{at:.1f} 5V{height}"/>')
        parts.append(f'<text class="s" x="{at:.1f}" y="{height + 32}" text-anchor="middle">guessing</text>')
    for i, (name, one) in enumerate(protocols.items()):
        y = 20 + i * step
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape_html(name)}</text>')
        if one["accuracy"] is None:
            continue
        low, high = one["interval"]
        parts.append(
            f'<path class="bar" d="M{x(low):.1f} {y}H{x(high):.1f}M{x(low):.1f} {y - 4}v8M{x(high):.1f} {y - 4}v8"/>'
        )
        parts.append(f'<circle class="dot" cx="{x(one["accuracy"]):.1f}" cy="{y}" r="5"/>')
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
    for one in report["questions"]:
        cells = "".join(_mark(one["right"].get(name)) for name in names)
        rows.append(
            f'<tr><th scope="row">{escape_html(one["id"])}</th><td class="w">{escape_html(one["domain"])}</td>{cells}</tr>'
        )
    return (
        '<section>\n<h2 id="questions">Question by question</h2>\n<p>By id; the questions themselves are not in this report.</p>\n'
        '<details><summary>Show</summary><div class="wide" tabindex="0" role="region" aria-labelledby="questions"><table>'
        f'<thead><tr><th scope="col">id</th><th scope="col" class="w">domain</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details></section>\n"
    )


def _mark(right: bool | None) -> str:
    if right is None:
        return "<td>–</td>"
    return '<td class="r">right</td>' if right else '<td class="x">wrong</td>'
