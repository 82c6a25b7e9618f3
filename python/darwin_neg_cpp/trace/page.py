"""A trace as one self-contained web page: readable in print and without a mouse.

What the model wrote is untrusted, and so are the names and sources of files: they are escaped, and characters that
would not be seen are named.
"""

from __future__ import annotations

import math
from html import escape

from ..files.shown_text import code_point, escape_html, is_unseen
from ..files.svg_axis import Axis, draw_axes
from ..files.web_page import build_page
from .trace import Trace, TraceToken

FULL_SHADE = 5.0  # nats from which on a token has the full shade
HIGHEST_LIMIT = 20.0  # nats; no vocabulary has this entropy, and a threshold above it would flatten the charts


def render_page(trace: Trace) -> str:
    """The whole HTML document."""
    title = f"NEG trace: {trace.model}"
    return build_page(
        title, _body(trace, title), style="trace.css", script="trace.js", data={"tokens": trace.as_dict()["tokens"]}
    )


def _body(trace: Trace, title: str) -> str:
    mixed = trace.prompt_tokens < len(trace.tokens)
    text = "".join(_token(token, trace.has_head, mark_given=mixed) for token in trace.tokens)
    figures = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _figures(trace))
    dashed = "" if _limit(trace) is None else "; dashed: the gate's threshold"
    return f"""<header>
<h1>{escape_html(title)}</h1>
<p>{escape_html(_head_line(trace))}</p>
<dl>{figures}</dl>
</header>
<main>
<h2 id="h-text">Text</h2>
<p>The darker the shade, the higher the {"predicted" if trace.has_head else "true"} entropy of the distribution that the
token was drawn from. Double underline: the gate was active; {
        "dotted underline: given, not generated" if mixed else "all of the text was given"
    }. Point at a token, or use ← → (next token) and ↑ ↓ (next token with an active gate).</p>
<div id="text" role="group" aria-labelledby="h-text">{text}</div>
{_spans(trace)}<h2>Entropy along the text</h2>
<p><span class="key kp">predicted</span>, <span class="key kt">true</span>, in nats{dashed}.</p>
{_course(trace)}
<h2>Predicted against true entropy</h2>
{_scatter(trace)}
</main>
<aside id="panel" aria-live="polite"><div><p>Point at a token to see what the model predicts there.</p></div></aside>"""


def _head_line(trace: Trace) -> str:
    if not trace.has_head:
        return "no NEG head"
    head = f"head: {trace.source or 'of unknown origin'}"
    if trace.threshold is None:
        return f"gate: off; {head}"
    at = f"{trace.threshold:.5g} nats" if math.isfinite(trace.threshold) else "infinite (never active)"
    return f"gate: {trace.action}, threshold {at}, top {trace.top_k}; {head}"


def _figures(trace: Trace) -> list[tuple[str, str]]:
    s = trace.summary()
    rows = [
        ("tokens", "tokens", "{:d}"),
        ("mean predicted entropy", "mean_predicted_entropy", "{:.3f} nats"),
        ("mean true entropy", "mean_true_entropy", "{:.3f} nats"),
        ("gate active", "activation_rate", "{:.1%}"),
        ("mean error of the head", "mean_error", "{:.3f} nats"),
        ("correlation", "pearson", "{:.3f}"),
        ("mean log-probability", "mean_logprob", "{:.3f}"),
    ]
    if trace.action == "off":
        s["activation_rate"] = None
    return [(title, form.format(value)) for title, key, form in rows if (value := s.get(key)) is not None]


def _spans(trace: Trace) -> str:
    """The uncertain stretches as a list."""
    if not trace.spans:
        return ""
    items = "".join(
        f"<li>{_visible(span.text)} ({span.start}–{span.end}; mean {span.mean_entropy:.2f}, max "
        f"{span.max_entropy:.2f} nats)</li>"
        for span in trace.spans
    )
    return f"<details><summary>Uncertain stretches: {len(trace.spans)}</summary><ul>{items}</ul></details>\n"


def _token(token: TraceToken, has_head: bool, *, mark_given: bool) -> str:
    value = token.predicted if has_head else token.true
    shade = min(100, round(100 * (value or 0.0) / FULL_SHADE))
    names = "t" + (" p" if mark_given and not token.generated else "") + (" a" if token.active else "")
    return f'<span class="{names}" tabindex="-1" style="--e:{shade}">{_visible(token.text)}</span>'


def _visible(text: str) -> str:
    """Text as HTML; what would not be seen gets a mark."""
    if not text:
        return "<i>·</i>"
    out = []
    for c in text:
        code = ord(c)
        if c == "\n":
            out.append("<i>↵</i>\n")
        elif code < 0x20 and c != "\t":
            out.append(f"<i>{chr(0x2400 + code)}</i>")
        elif is_unseen(c) and c != "\t":
            out.append(f"<i>{code_point(c)}</i>")
        else:
            out.append(escape(c))
    return "".join(out)


def _top(trace: Trace) -> float:
    values = [value for token in trace.tokens for value in (token.predicted, token.true) if value is not None]
    return float(math.ceil(max([1.0, _limit(trace) or 0.0, *values])))


def _limit(trace: Trace) -> float | None:
    """The threshold, where there is one that can be drawn."""
    return trace.threshold if trace.threshold is not None and trace.threshold <= HIGHEST_LIMIT else None


def _course(trace: Trace) -> str:
    """Both entropies over the position in the text."""
    steps = max(1, len(trace.tokens) - 1)
    x, y = Axis(30, 930, steps), Axis(210, 10, _top(trace))
    positions = sorted({round(i * (len(trace.tokens) - 1) / 8) for i in range(9)})

    def line(kind: str, values: list[float | None]) -> str:
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in enumerate(values) if value is not None)
        return f'<polyline class="{kind}" points="{points}"/>' if points else ""

    return "".join(
        [
            '<svg viewBox="0 0 940 235" role="img" aria-label="predicted and true entropy over position">',
            draw_axes(x, y, {position: str(position + 1) for position in positions}, y.ticks()),
            line("true", [token.true for token in trace.tokens]),
            line("predicted", [token.predicted for token in trace.tokens]),
            _threshold_line(trace, x, y),
            f'<line id="here" class="here" hidden y1="{y.last}" y2="{y.first}" x1="0" x2="0" '
            f'data-left="{x.first}" data-step="{x(1) - x(0):.4f}"/>',
            "</svg>",
        ]
    )


def _scatter(trace: Trace) -> str:
    """Predicted against true entropy, a dot for each token."""
    points = [
        (token.true, token.predicted, token.active)
        for token in trace.tokens
        if token.true is not None and token.predicted is not None
    ]
    if not points:
        return "<p>Without a head there is nothing to compare.</p>"
    top = _top(trace)
    x, y = Axis(30, 390, top), Axis(370, 10, top)
    return "".join(
        [
            '<svg class="small" viewBox="0 0 400 415" role="img" aria-label="predicted against true entropy">',
            draw_axes(x, y, x.ticks(), y.ticks()),
            f'<path class="axis" d="M{x.first} {y.first}L{x.last} {y.last}"/>',
            _threshold_line(trace, x, y),
            *(
                f'<circle{" class=a" if active else ""} cx="{x(true):.1f}" cy="{y(predicted):.1f}" r="3"/>'
                for true, predicted, active in points
            ),
            f'<text x="{x(top / 2)}" y="{y.first + 36}" text-anchor="middle">true, nats</text>',
            f'<text transform="translate(10 {y(top / 2)}) rotate(-90)" text-anchor="middle">predicted, nats</text>',
            "</svg>",
        ]
    )


def _threshold_line(trace: Trace, x: Axis, y: Axis) -> str:
    limit = _limit(trace)
    return "" if limit is None else f'<path class="limit" d="M{x.first} {y(limit):.1f}H{x.last}"/>'
