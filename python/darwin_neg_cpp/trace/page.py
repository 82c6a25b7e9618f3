"""A trace as one self-contained web page: no network, no library, readable in print and without a mouse.

What the model wrote is untrusted, and so are names and sources of files: they are escaped, what of them would not be seen is named, and a content
security policy lets nothing run but the page's own script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from html import escape

from ..files.shown_text import code_point, escape_html, is_unseen
from .trace import Trace, TraceToken

FULL_SHADE = 5.0  # nats from which on a token has the full shade
HIGHEST_LIMIT = 20.0  # nats; no vocabulary has this entropy, and a threshold above it would flatten the charts

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1f; --faint: #6b6b76; --line: #d8d8de; --hot: #f59e0b; --gate: #b91c1c;
  --predicted: #1d4ed8; --true: #059669; --panel: #f6f6f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #16161a; --ink: #ececf1; --faint: #a0a0ab; --line: #3a3a42; --hot: #9a4a08; --gate: #f87171;
  --predicted: #7aa2ff; --true: #34d399; --panel: #212127; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 12rem; max-width: 62rem; font: 16px/1.5 system-ui, sans-serif; background: var(--paper); color: var(--ink); }
h1 { font-size: 1.25rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .25rem 0; color: var(--faint); }
dl { display: flex; flex-wrap: wrap; gap: .5rem 1.75rem; margin: 1rem 0; }
dt { color: var(--faint); font-size: .8rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; }
#text { font: 15px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: .4rem; padding: .75rem; }
.t { background: color-mix(in srgb, var(--hot) calc(var(--e, 0) * 1%), transparent); border-radius: .2rem; padding: .1rem 0; cursor: default; }
.t.p { text-decoration: underline dotted var(--faint); text-underline-offset: .2em; }
.t.a { border-bottom: 3px double var(--gate); }
.t:hover, .t:focus { outline: 2px solid var(--ink); outline-offset: 1px; }
.t i { font-style: normal; font-size: .75em; margin-right: .1em; }
#panel { position: fixed; left: 0; right: 0; bottom: 0; min-height: 8.5rem; background: var(--panel); border-top: 1px solid var(--line); padding: .6rem 1rem; }
#panel div { max-width: 60rem; margin: 0 auto; display: flex; flex-wrap: wrap; gap: .25rem 2rem; }
#panel b { font-family: ui-monospace, monospace; white-space: pre-wrap; }
table { border-collapse: collapse; font: 13px/1.35 ui-monospace, monospace; }
td { padding: 0 1rem 0 0; white-space: pre; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font-size: 11px; }
.axis { stroke: var(--line); fill: none; } .limit { stroke: var(--gate); stroke-dasharray: 5 4; } .here { stroke: var(--ink); }
.predicted { stroke: var(--predicted); fill: none; } .true { stroke: var(--true); fill: none; } circle { fill: var(--predicted); fill-opacity: .45; }
circle.a { fill: var(--gate); } .key { font-weight: 600; } .key.kp { color: var(--predicted); } .key.kt { color: var(--true); }
.small { max-width: 26rem; }
@media print { #panel { display: none; } body { padding: 0; max-width: none; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

SCRIPT = """
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const text = document.getElementById('text'), panel = document.querySelector('#panel div'), here = document.getElementById('here');
const tokens = [...text.querySelectorAll('.t')];
const number = (x, unit) => x === null ? '–' : x.toFixed(3) + unit;
// the text as a string literal, in which nothing is hidden and nothing turns the direction
const literal = (s) => JSON.stringify(s).replace(/[\\p{Cc}\\p{Cf}\\p{Zl}\\p{Zp}\\p{DI}]/gu, (c) => '\\\\u{' + c.codePointAt(0).toString(16) + '}');
function add(parent, name, content) { const e = document.createElement(name); e.textContent = content; parent.append(e); return e; }
function show(i) {
  const t = data.tokens[i];
  panel.replaceChildren();
  const left = add(panel, 'section', '');
  add(left, 'b', literal(t.text));
  add(left, 'p', (t.generated ? 'generated' : 'given') + ', token ' + (i + 1) + ' of ' + data.tokens.length + ', id ' + t.id);
  if (i > 0) {
    add(left, 'p', 'predicted entropy ' + number(t.predicted, ' nats') + ', true ' + number(t.true, ' nats'));
    add(left, 'p', 'probability of this token ' + (t.logprob === null ? '–' : Math.exp(t.logprob).toPrecision(3)) + (t.active ? '; the gate was active' : ''));
  } else { add(left, 'p', 'nothing is said about the first token'); }
  const table = add(panel, 'table', '');
  table.setAttribute('aria-label', 'likeliest tokens here');
  for (const [word, p] of t.top) {
    const row = add(table, 'tr', '');
    add(row, 'td', literal(word));
    add(row, 'td', (100 * p).toFixed(2) + ' %');
  }
  if (here) { const x = here.dataset.left * 1 + here.dataset.step * i; here.setAttribute('x1', x); here.setAttribute('x2', x); here.removeAttribute('hidden'); }
}
function go(i) {
  if (i < 0 || i >= tokens.length) return;
  for (const one of tokens) one.tabIndex = -1;
  tokens[i].tabIndex = 0;
  tokens[i].focus();
}
const index = (e) => { const t = e.target.closest('.t'); return t ? tokens.indexOf(t) : -1; };
text.addEventListener('mouseover', (e) => { const i = index(e); if (i >= 0) show(i); });
text.addEventListener('focusin', (e) => { const i = index(e); if (i >= 0) show(i); });
text.addEventListener('click', (e) => go(index(e)));
text.addEventListener('keydown', (e) => {
  const i = index(e), gated = (step) => { let k = i + step; while (data.tokens[k] && !data.tokens[k].active) k += step; return k; };
  const target = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1, ArrowDown: gated(1), ArrowUp: gated(-1) }[e.key];
  if (target !== undefined) { e.preventDefault(); go(target); }
});
if (tokens.length) tokens[0].tabIndex = 0;
"""


def page(trace: Trace) -> str:
    """The whole HTML document."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    title = escape_html(f"NEG trace: {trace.model}")
    mixed = trace.prompt_tokens < len(trace.tokens)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{escape_html(_head_line(trace))}</p>
<dl>{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _figures(trace))}</dl>
</header>
<main>
<h2 id="h-text">Text</h2>
<p>The stronger the shade, the higher the {"predicted" if trace.has_head else "true"} entropy of the distribution a token comes out of; double underline: the gate was
active; {"dotted underline: given, not generated" if mixed else "all of it was given"}. Point at a token, or use ← → (next token) and ↑ ↓ (next one with an active gate).</p>
<div id="text" role="group" aria-labelledby="h-text">{"".join(_token(one, trace.has_head, mark_given=mixed) for one in trace.tokens)}</div>
<h2>Entropy along the text</h2>
<p><span class="key kp">predicted</span>, <span class="key kt">true</span>, in nats{"" if _limit(trace) is None else "; dashed: the gate's threshold"}.</p>
{_course(trace)}
<h2>Predicted against true entropy</h2>
{_scatter(trace)}
</main>
<aside id="panel" aria-live="polite"><div><p>Point at a token to see what the model says there.</p></div></aside>
<script type="application/json" id="data">{_data(trace)}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _data(trace: Trace) -> str:
    # in ASCII, so that no character in it can turn or hide what stands around it in the page's source
    text = json.dumps({"tokens": trace.as_dict()["tokens"]}, separators=(",", ":"), allow_nan=False)
    # nothing in it may end the script element, or be read as its beginning
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


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
    values = [v for one in trace.tokens for v in (one.predicted, one.true) if v is not None]
    return float(math.ceil(max([1.0, _limit(trace) or 0.0, *values])))


def _limit(trace: Trace) -> float | None:
    """The threshold, where there is one that can be drawn."""
    return trace.threshold if trace.threshold is not None and trace.threshold <= HIGHEST_LIMIT else None


def _ticks(top: float) -> list[int]:
    return sorted({round(top * k / 5) for k in range(6)})


def _course(trace: Trace) -> str:
    left, width, height, top = 30.0, 900.0, 200.0, _top(trace)
    step = width / max(1, len(trace.tokens) - 1)

    def y(value: float) -> float:
        return 10 + height * (1 - value / top)

    def line(kind: str, values: list[float | None]) -> str:
        points = " ".join(f"{left + i * step:.1f},{y(v):.1f}" for i, v in enumerate(values) if v is not None)
        return f'<polyline class="{kind}" points="{points}"/>' if points else ""

    parts = [
        f'<svg viewBox="0 0 {left + width + 10:.0f} 235" role="img" aria-label="predicted and true entropy over position">'
    ]
    parts.append(f'<path class="axis" d="M{left} 10V{10 + height}H{left + width}"/>')
    parts += [f'<text x="{left - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>' for tick in _ticks(top)]
    for k in sorted({round(i * (len(trace.tokens) - 1) / 8) for i in range(9)}):
        parts.append(f'<text x="{left + k * step:.1f}" y="{height + 26}" text-anchor="middle">{k + 1}</text>')
    parts.append(line("true", [one.true for one in trace.tokens]))
    parts.append(line("predicted", [one.predicted for one in trace.tokens]))
    if (limit := _limit(trace)) is not None:
        parts.append(f'<path class="limit" d="M{left} {y(limit):.1f}H{left + width}"/>')
    parts.append(
        f'<line id="here" class="here" hidden y1="10" y2="{10 + height}" x1="0" x2="0" data-left="{left}" data-step="{step:.4f}"/>'
    )
    return "".join([*parts, "</svg>"])


def _scatter(trace: Trace) -> str:
    points = [
        (one.true, one.predicted, one.active)
        for one in trace.tokens
        if one.true is not None and one.predicted is not None
    ]
    if not points:
        return "<p>Without a head there is nothing to compare.</p>"
    left, size, top = 30.0, 360.0, _top(trace)

    def y(value: float) -> float:
        return 10 + size * (1 - value / top)

    parts = ['<svg class="small" viewBox="0 0 400 405" role="img" aria-label="predicted against true entropy">']
    parts.append(f'<path class="axis" d="M{left} 10V{10 + size}H{left + size}M{left} {10 + size}L{left + size} 10"/>')
    for tick in _ticks(top):
        parts.append(f'<text x="{left - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
        parts.append(f'<text x="{left + tick / top * size:.1f}" y="{size + 25}" text-anchor="middle">{tick}</text>')
    if (limit := _limit(trace)) is not None:
        parts.append(f'<path class="limit" d="M{left} {y(limit):.1f}H{left + size}"/>')
    parts += [
        f'<circle{" class=a" if active else ""} cx="{left + true / top * size:.1f}" cy="{y(predicted):.1f}" r="3"/>'
        for true, predicted, active in points
    ]
    parts.append(f'<text x="{left + size / 2}" y="{size + 40}" text-anchor="middle">true, nats</text>')
    parts.append(
        f'<text transform="translate(10 {10 + size / 2}) rotate(-90)" text-anchor="middle">predicted, nats</text>'
    )
    return "".join([*parts, "</svg>"])
