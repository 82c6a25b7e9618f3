"""The report on a head: JSON for programs, Markdown and a figure for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files.output_file import replacing
from ..files.svg_axis import Axis, draw_axes

COLUMNS = {
    "r2": "R²",
    "mae": "MAE, nats",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "precision": "precision",
    "recall": "recall",
    "activation_rate": "active",
}
ROWS = {
    "head": "this head",
    "constant": "constant (mean of the training data)",
    "previous": "true entropy of the previous token",
}
CELLS = 64  # of the figure, each way


def render_markdown(report: Mapping[str, Any], figure: str) -> str:
    """report: what train.run() returns. figure: file name of the figure, beside this text."""
    agreements, head, data = report["test"], report["head"], report["data"]
    model, training = report["model"], report["training"]
    test = agreements["head"]
    lines = [
        "# NEG head: report",
        "",
        f"Backbone `{model['file']}` ({model['description']}), hidden size {model['n_embd']}, head's inner width "
        f"{head['n_reduced']}.",
        "",
        "```",
        report["command"],
        "```",
        "",
        f"Test data: {test['positions']} positions of documents that were not trained on. True entropy > threshold at "
        f"{test['true_rate']:.2%} of them.",
        f"Threshold {head['threshold']:.4f} nats, {report['threshold_from']}.",
        "",
        "| on test data | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, title in ROWS.items():
        cells = [
            f"{agreements[name][key]:.2%}" if key == "activation_rate" else f"{agreements[name][key]:.3f}"
            for key in COLUMNS
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += [
        "",
        'Precision and recall are of "true entropy > threshold" by "predicted > threshold". Entropies are of the '
        "next-token distribution",
        "at temperature 1, in nats.",
        "",
        f"![predicted against true entropy]({figure})",
        "",
        "| data | documents | tokens | mean true entropy |",
        "|---|---|---|---|",
    ]
    for name, part in data["parts"].items():
        lines.append(f"| {name} | {part['documents']} | {part['tokens']} | {part['mean_entropy']:.3f} |")
    lines += [
        "",
        f"{data['text_documents']} documents of text and {data['own_documents']} that the model wrote itself; split by "
        "document" + (", the model's own by the document that they start from." if data["own_documents"] else "."),
        f"Training: {training['epochs']} epochs, the best was number {training['best_epoch'] + 1}; "
        f"seed {training['recipe']['seed']}." + (" It was interrupted then." if training["interrupted"] else ""),
        "",
    ]
    return "\n".join(lines)


def draw_figure(predicted: npt.NDArray[np.float32], true: npt.NDArray[np.float32], threshold: float) -> str:
    """Draws an SVG: how many positions lie where, predicted against true entropy; with diagonal and threshold."""
    top = float(np.ceil(max(1.0, np.quantile(np.concatenate([predicted, true]), 0.9995))))
    clipped = [np.clip(values, 0, top) for values in (true, predicted)]
    counts, _, _ = np.histogram2d(clipped[0], clipped[1], bins=CELLS, range=[[0.0, top], [0.0, top]])
    shade = np.log1p(counts) / np.log1p(max(1.0, float(counts.max())))
    x, y = Axis(56, 440, top), Axis(400, 16, top)
    cell = (x.last - x.first) / CELLS
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 450" font-family="sans-serif" font-size="12" '
        'role="img">',
        "<title>Predicted against true entropy on test data</title>",
        '<rect width="480" height="450" fill="#fff"/>',
    ]
    for i, j in zip(*np.nonzero(counts), strict=True):
        parts.append(
            f'<rect x="{x.first + i * cell:.1f}" y="{y.first - (j + 1) * cell:.1f}" width="{cell:.1f}" '
            f'height="{cell:.1f}" fill="#0b4f9e" fill-opacity="{shade[i, j]:.2f}"/>'
        )
    parts.append(f'<path d="M{x(0)} {y(0)}L{x(top)} {y(top)}" stroke="#888" stroke-dasharray="4 4"/>')
    if threshold < top:
        at = y(threshold)
        parts.append(f'<path d="M{x(0)} {at:.1f}H{x(top)}" stroke="#c2410c"/>')
        parts.append(f'<text x="{x(top)}" y="{at - 4:.1f}" text-anchor="end" fill="#c2410c">threshold</text>')
    parts.append(draw_axes(x, y, x.ticks(6), y.ticks(6), line='stroke="#222" fill="none"'))
    middle = top / 2
    parts.append(f'<text x="{x(middle)}" y="{y.first + 36}" text-anchor="middle">true entropy, nats</text>')
    parts.append(
        f'<text transform="translate(18 {y(middle)}) rotate(-90)" text-anchor="middle">predicted entropy, nats</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def write_file(path: Path, text: str | Mapping[str, Any]) -> None:
    with replacing(path) as (file, _):
        file.write((text if isinstance(text, str) else json.dumps(text, indent=2, ensure_ascii=False) + "\n").encode())
