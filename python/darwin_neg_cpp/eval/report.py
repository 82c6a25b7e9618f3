"""Writes a report as JSON, as Markdown and as a page."""

from __future__ import annotations

import json
from pathlib import Path

from ..files.output_file import replacing
from ..files.shown_text import escape_line, escape_markdown
from .ledger import NAME as LEDGER
from .report_page import page
from .report_tables import Report, Table, tables, title

JSON, MARKDOWN, PAGE = "report.json", "report.md", "report.html"


def write(folder: Path, report: Report) -> None:
    """Writes report.json, report.md and report.html; each appears whole or not at all."""
    for name, text in (
        (JSON, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        (MARKDOWN, markdown(report)),
        (PAGE, page(report)),
    ):
        with replacing(folder / name) as (file, _):
            file.write(text.encode("utf-8", "replace"))


def markdown(report: Report) -> str:
    """Writes a report as Markdown."""
    lines = [f"# {escape_markdown(title(report))}", ""]
    for table in tables(report):
        lines += [f"## {table.title}", ""]
        if table.title == "To repeat it":
            lines += ["```", *(_code(note) for note in table.notes), "```", ""] if table.notes else []
        else:
            for note in table.notes:
                lines += [escape_markdown(note), ""]
        if table.rows:
            lines += [*_rows(table), ""]
    lines.append(
        f"Figures for each question: `{JSON}`. The model's answers: `{LEDGER}`, which quotes the questions; do not "
        "publish that of a gated dataset."
    )
    return "\n".join([*lines, ""])


def _rows(table: Table) -> list[str]:
    # figures to the right, words to the left
    words = {"", "protocol", "domain", "setting", "value", "95 % interval", "record"}
    align = ["---" if name in words else "---:" for name in table.header]
    return [
        "| " + " | ".join(escape_markdown(cell) for cell in row) + " |"
        for row in (table.header, tuple(align), *table.rows)
    ]


def _code(text: str) -> str:
    return escape_line(text).replace("```", "` ` `")
