"""Traces: the numbers against evaluation and generation, and the page in a real browser."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, SmolLM2
from darwin_neg_cpp import DarwinNEG, Neg, NegHeadError, SamplingParams, demo_model
from darwin_neg_cpp.cli import main as cli
from darwin_neg_cpp.cli.trace import figures, json_text
from darwin_neg_cpp.files.shown_text import is_unseen
from darwin_neg_cpp.trace import trace
from darwin_neg_cpp.trace.page import page
from darwin_neg_cpp.trace.trace import Trace, TraceToken

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">]]>--></span>&amp;\u202eabc\x1b[31m\u2028'
# a direction override, an Arabic letter mark, zero-width space and joiner, a byte order mark, a tag letter, C1, a Hangul filler, a variation selector
UNSEEN = "\u202e\u061c\u200b\u200d\ufeff\U000e0041\x9b\u3164\ufe0f\x1b\u2029"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=120, check=False)


def made_up(texts: list[str], *, threshold: float | None = 1.0, prompt_tokens: int = 2) -> Trace:
    tokens = tuple(
        TraceToken(
            id=i,
            text=text,
            generated=i >= prompt_tokens,
            predicted=None if threshold is None or not i else (i * 0.37) % 6,
            true=(i * 0.31) % 6 if i else None,
            active=bool(threshold is not None and i and (i * 0.37) % 6 > threshold),
            logprob=-0.5 if i else None,
            top=((HOSTILE, 0.5), ("b", 0.25)) if i else (),
        )
        for i, text in enumerate(texts)
    )
    action: Any = None if threshold is None else "mask"
    return Trace("m<b>odel.gguf", "<i>source</i>", action, threshold, 20, prompt_tokens, tokens)


# --- numbers


def test_a_trace_says_of_each_token_what_the_model_said_before_it(smol: DarwinNEG) -> None:
    found = trace.generated(smol, "The capital of France is", SamplingParams(max_tokens=24, seed=5, temperature=1.0))
    plain = smol.generate("The capital of France is", max_tokens=24, seed=5, temperature=1.0, logprobs=5)
    n = found.prompt_tokens
    assert [one.id for one in found.tokens[n:]] == plain.token_ids.tolist()
    assert [one.predicted for one in found.tokens[n:]] == pytest.approx(plain.neg.entropy.tolist())
    assert [one.active for one in found.tokens[n:]] == plain.neg.active.tolist()
    # generation decodes token by token, the trace all at once: the quantized kernels round differently
    np.testing.assert_allclose([one.logprob for one in found.tokens[n:]], plain.logprobs.chosen, atol=0.6)
    all_at_once = smol.score([one.id for one in found.tokens], top=5)
    assert [one.true for one in found.tokens[1:]] == all_at_once.entropy[:-1].tolist()
    for i, one in enumerate(found.tokens[1:]):
        assert [p for _, p in one.top] == pytest.approx(np.exp(all_at_once.top_logprobs[i]).tolist())
    first = found.tokens[0]
    assert (first.predicted, first.true, first.logprob, first.top) == (None, None, None, ())
    summary = found.summary()
    assert summary["tokens"] == 24
    assert summary["activation_rate"] == pytest.approx(plain.neg.activation_rate)


@pytest.mark.parametrize("text", ["Hello  world\n\n\tdef f(): 한국어 😀 ends", "é", "  two"])
def test_the_pieces_make_the_text(smol: DarwinNEG, tiny_qwen: Any, text: str) -> None:
    assert "".join(trace.pieces(smol, smol.tokenize(text))) == text
    with DarwinNEG(tiny_qwen.model, n_ctx=64, n_parallel=1) as llm:
        assert "".join(trace.pieces(llm, llm.tokenize(text))) == text


def test_a_model_without_a_head_is_traced_too(smollm2: SmolLM2) -> None:
    with DarwinNEG(smollm2.base, n_ctx=128, n_parallel=1) as llm:
        found = trace.of_text(llm, "A short text of a few words.")
    assert found.threshold is None and all(one.predicted is None and not one.active for one in found.tokens)
    assert found.tokens[-1].true is not None and "activation_rate" not in found.summary()
    assert "no NEG head" in page(found)


@pytest.mark.parametrize("given", [True, False])
def test_a_trace_has_the_gate_of_the_request(smol: DarwinNEG, given: bool) -> None:
    def traced(neg: Neg) -> Trace:
        if given:
            return trace.of_text(smol, "The capital of France is Paris, a city on the Seine.", neg=neg)
        return trace.generated(smol, "The capital of France is", SamplingParams(max_tokens=8, seed=5, neg=neg))

    usual = trace.of_text(smol, "The capital of France is")
    limit = float(np.median([one.predicted for one in usual.tokens[1:] if one.predicted is not None])) * 0.99
    found = traced(Neg(threshold=limit, top_k=5))
    assert smol.neg is not None and limit != pytest.approx(smol.neg["threshold"])
    assert (found.action, found.threshold, found.top_k) == ("mask", limit, 5)
    for one in found.tokens[1:]:
        assert one.predicted is not None and one.active == (one.predicted > limit), "of the prompt too"
    assert len({one.active for one in found.tokens[1:]}) == 2
    assert f"gate: mask, threshold {limit:.5g} nats, top 5" in page(found)
    assert json.loads(json_text(found))["threshold"] == limit
    for off in (Neg(enabled=False), Neg(action="off", threshold=limit)):
        found = traced(off)
        assert (found.action, found.threshold, found.top_k) == ("off", None, None)
        assert not any(one.active for one in found.tokens) and found.tokens[1].predicted is not None
        html = page(found)
        assert "gate: off; head" in html and "gate off]" in figures(found) and 'class="limit"' not in html
        assert "<dt>gate active" not in html and "correlation" in html
    never = traced(Neg(threshold=math.inf))
    assert never.threshold == math.inf and not any(one.active for one in never.tokens)


def test_a_gate_cannot_be_asked_of_a_model_without_a_head(smollm2: SmolLM2) -> None:
    with (
        DarwinNEG(smollm2.base, n_ctx=64, n_parallel=1) as llm,
        pytest.raises(NegHeadError, match="has no NEG head"),
    ):
        trace.of_text(llm, "A short text.", neg=Neg(threshold=1.0))


# --- JSON


def test_the_json_is_json_whatever_the_threshold() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = made_up(["a", "b", "c"], threshold=math.inf)
    assert json.loads(json_text(found), parse_constant=refuse)["threshold"] is None
    assert "threshold infinite (never active)" in page(found)


def test_the_json_holds_nothing_that_a_terminal_would_obey_or_hide() -> None:
    found = made_up(["a", UNSEEN, "한국어 é"])
    text = json_text(found)
    assert not [c for c in text if is_unseen(c) and c != "\n"] and "한국어 é" in text
    assert json.loads(text)["tokens"][1]["text"] == UNSEEN


# --- the page as text


def links(html: str) -> list[str]:
    found: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Parser().feed(html)
    return found


def test_what_the_model_wrote_is_escaped() -> None:
    html = page(made_up(["a", HOSTILE, "</script><script>alert(3)</script>"]))
    assert html.count("<script") == html.count("</script>") == 2, "the page's own two"
    assert "<img" not in html and "\u202e" not in html and "\x1b" not in html and "\u2028" not in html
    assert "m<b>odel" not in html and "<i>source" not in html
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data)["tokens"][1]["text"] == HOSTILE
    assert {value.partition(":")[0] for value in links(html)} == {"data"}, "nothing is asked of the network"
    shown = re.sub(r"<[^>]+>", "", html[html.index('<div id="text"') : html.index("<h2>Entropy along")])
    assert HOSTILE.partition("\u202e")[0] in unescape(shown)


def test_the_page_holds_nothing_that_is_not_seen() -> None:
    found = dataclasses.replace(made_up(["a", UNSEEN, "b"]), model=f"m{UNSEEN}.gguf", source=f"s{UNSEEN}")
    html = page(found)
    assert {c for c in html if is_unseen(c)} == {"\n"}
    header, _, rest = html.partition("</header>")
    for c in UNSEEN:
        assert header.count(f"[U+{ord(c):04X}]") == 3, "title, heading and the head's source"
        mark = chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"U+{ord(c):04X}"
        assert f"<i>{mark}</i>" in rest, "the token"


# --- the page in a browser


@pytest.mark.slow
def test_hover_and_keys_show_what_is_known_of_a_token(opened: Any) -> None:
    found = made_up(["one", " two", " three", "\n", " five", ""])
    tab = opened(page(found))
    tab.locator(".t").nth(2).hover()
    panel = tab.locator("#panel").inner_text()
    assert '" three"' in panel and "predicted entropy 0.740 nats, true 0.620 nats" in panel
    assert "generated, token 3 of 6" in panel and "50.00 %" in panel and "25.00 %" in panel
    assert "gate was active" not in panel
    tab.keyboard.press("Tab")
    assert "nothing is said about the first token" in tab.locator("#panel").inner_text()
    tab.keyboard.press("ArrowRight")
    assert '" two"' in tab.locator("#panel").inner_text()
    tab.keyboard.press("ArrowDown")
    assert "gate was active" in tab.locator("#panel").inner_text(), "the next token with an active gate"
    assert tab.evaluate("document.activeElement.classList.contains('a')")
    tab.keyboard.press("End")
    assert "token 6 of 6" in tab.locator("#panel").inner_text()
    assert tab.locator(".t.a").count() == sum(one.active for one in found.tokens)
    assert tab.locator("circle").count() == 5 and tab.locator("polyline").count() == 2


@pytest.mark.slow
def test_hostile_text_stays_text(opened: Any) -> None:
    tab = opened(page(made_up(["a", HOSTILE, "</script><script>document.title = 'taken'</script>"])))
    for i in range(3):
        tab.locator(".t").nth(i).hover()
    assert tab.title() == "NEG trace: m<b>odel.gguf"
    tab.locator(".t").nth(1).hover()
    panel = tab.locator("#panel").inner_text()
    assert "\\u{202e}abc\\u001b[31m" in panel and not [c for c in panel if is_unseen(c) and c not in "\n\t"]
    assert tab.locator("img").count() == 0 and "<script>alert(1)</script>" in tab.locator("#text").inner_text()


def contrast(a: str, b: str) -> float:
    """WCAG's contrast of two rgb(...) colours."""

    def luminance(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_dark_and_print(opened: Any, scheme: str, tmp_path: Path) -> None:
    from PIL import Image

    tab = opened(page(made_up([f" word{i}" for i in range(60)])), color_scheme=scheme)
    style = "getComputedStyle(document.querySelector('{}')).{}"
    paper = tab.evaluate(style.format("body", "backgroundColor"))
    assert contrast(paper, tab.evaluate(style.format("body", "color"))) > 7
    assert contrast(paper, tab.evaluate(style.format("p", "color"))) > 4.5
    assert (np.mean([int(x) for x in re.findall(r"\d+", paper)]) < 60) == (scheme == "dark")
    tab.screenshot(path=tmp_path / "page.png")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100, "shades, lines and text are there"
    tab.emulate_media(media="print")
    assert tab.locator("#panel").is_hidden() and tab.locator("#text").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"


# A canvas composes the colours as the page does: paper, shade upon it, text upon that.
PAINTED = """() => [...document.querySelectorAll('.t, .t i')].map((one) => {
  const token = one.closest('.t'), own = getComputedStyle(one), brush = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const painted = (colour, alpha) => {
    brush.globalAlpha = alpha; brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return 'rgb(' + [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3) + ')';
  };
  painted(getComputedStyle(document.body).backgroundColor, 1);
  const ground = painted(getComputedStyle(token).backgroundColor, 1);
  return [token.className, ground, painted(own.color, own.opacity)];
})"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("prompt_tokens", [30, 60], ids=["generated", "given"])
def test_every_token_can_be_read_at_every_shade(opened: Any, scheme: str, prompt_tokens: int) -> None:
    texts = [("\n", "\u202e", "", " word")[i % 4] for i in range(60)]
    tab = opened(page(made_up(texts, prompt_tokens=prompt_tokens)), color_scheme=scheme)
    seen = tab.evaluate(PAINTED)
    assert len(seen) > 60, "marks too"
    assert tab.locator(".t.p").count() == (30 if prompt_tokens == 30 else 0), (
        "where all is given, nothing is marked as such"
    )
    assert len({ground for _, ground, _ in seen}) > 10, "several shades"
    assert min((contrast(ground, ink), name, ground, ink) for name, ground, ink in seen)[0] >= 4.5


# --- the command


@pytest.mark.slow
def test_the_command_writes_page_and_json(smollm2: SmolLM2, tmp_path: Path, opened: Any) -> None:
    html, data = tmp_path / "out.html", tmp_path / "out.json"
    common = ["-m", str(smollm2.model), "-n", "12", "--seed", "1"]
    out = run("trace", "Once upon a time", *common, "--html", str(html), "--json", str(data))
    assert out.returncode == 0 and "gate active" in out.stderr, out.stderr
    found = json.loads(data.read_text("utf-8"))
    assert len(found["tokens"]) == found["prompt_tokens"] + 12 and found["summary"]["tokens"] == 12
    tab = opened(html.read_text("utf-8"))
    assert tab.locator(".t").count() == len(found["tokens"])
    again = run("trace", "Once upon a time", *common, "--json", "-")
    assert json.loads(again.stdout)["tokens"] == found["tokens"]
    shown = run("trace", "--text", "Given text, as it is.", "-m", str(smollm2.model), "--color", "always")
    assert shown.returncode == 0 and "\033[30;48;5;" in shown.stdout
    plain = run("trace", "--text", "Given text, as it is.", "-m", str(smollm2.model))
    assert plain.stdout == "Given text, as it is.\n"


def test_what_cannot_be_traced_is_refused(smollm2: SmolLM2, tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("old")
    common = ["trace", "-m", str(smollm2.model)]
    for args, words in (
        (common, "0 of PROMPT"),
        ([*common, "a", "--text", "b"], "2 of PROMPT"),
        ([*common, "a", "--html", str(tmp_path / "there.html")], "exists already"),
        ([*common, "a", "--html", str(tmp_path / "x"), "--json", str(tmp_path / "x")], "same file"),
        ([*common, "--text", "@/nope"], "/nope"),
        ([*common, "--text", "a"], "fewer than two"),
        ([*common, "--text", "a b", "--chat"], "--chat acts on generation"),
        ([*common, "--text", "a b", "--neg", "sample"], "--neg sample acts on generation"),
        ([*common, "--text", "a b", "--neg-top-k", "5"], "--neg-top-k acts on generation"),
        ([*common, "--text", "a b", "--temp-scale"], "--temp-scale acts on generation"),
        ([*common, "a " * 5000], "context"),
    ):
        out = run(*args)
        assert out.returncode == 2 and len(out.stderr.splitlines()) == 1 and words in out.stderr, out.stderr
    assert (tmp_path / "there.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("output", ["--html", "--json"])
@pytest.mark.parametrize("way", ["itself", "link"])
@pytest.mark.parametrize(
    "reading",
    [
        ["a", "-m", "FILE"],
        ["a", "-m", "other", "--side-car", "FILE"],
        ["-m", "other", "-f", "FILE"],
        ["-m", "other", "--text", "@FILE"],
        ["a", "-m", "other", "--grammar-file", "FILE"],
        ["a", "-m", "other", "--json-schema", "@FILE"],
        ["a", "--demo"],
        ["a", "--demo", "--seed", "1"],
    ],
    ids=["model", "side-car", "prompt", "text", "grammar", "schema", "demo model", "demo head"],
)
def test_no_output_replaces_what_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reading: list[str],
    way: str,
    output: str,
) -> None:
    read, out, other = tmp_path / "read", tmp_path / "link", tmp_path / "other"
    for path in (read, other):
        path.write_text('{"type": "object"}')
    out.symlink_to(read)
    pair = (other, read) if "--seed" in reading else (read, other)
    monkeypatch.setattr(demo_model, "model_and_head", lambda: pair)
    args = [one.replace("FILE", str(read)).replace("other", str(other)) for one in reading]
    assert cli.main(["trace", *args, output, str(read if way == "itself" else out), "--force"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output and input are the same file" in line
    assert read.read_text() == '{"type": "object"}' and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("names", [("out", "there/../out"), ("out", "link"), ("old", "hard")])
def test_page_and_json_are_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("link").symlink_to("out")
    Path("old").write_text("old")
    Path("hard").hardlink_to("old")
    assert cli.main(["trace", "a", "-m", "model", "--html", names[0], "--json", names[1], "--force"]) == 2
    assert "name the same file" in capsys.readouterr().err


def test_a_page_named_like_standard_output_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("old")
    assert cli.main(["trace", "a", "-m", "model", "--html", "-"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_traces_a_text_with_the_gate_that_was_asked_for(smollm2: SmolLM2) -> None:
    common = ["trace", "--text", "Given text, as it is.", "-m", str(smollm2.model), "--json", "-"]
    out = run(*common, "--neg-threshold", "0")
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert found["threshold"] == 0 and [one["active"] for one in found["tokens"]] == [
        one["predicted"] is not None and one["predicted"] > 0 for one in found["tokens"]
    ]
    assert any(one["active"] for one in found["tokens"])
    out = run(*common, "--neg", "off")
    assert json.loads(out.stdout)["action"] == "off" and "gate off]" in out.stderr


def test_the_demo_model_is_traced_with_the_packages_head() -> None:
    out = run("trace", "--demo", "The quick brown fox", "-n", "4", "--temp", "0", "--json", "-")
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["model"] == demo_model.MODEL


# --- the page about what the gate does


def gate_effect() -> Any:
    spec = importlib.util.spec_from_file_location("gate_effect", ROOT / "benchmarks" / "gate_effect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_those_of_its_figures() -> None:
    report = json.loads((ROOT / "docs" / "gate-effect.json").read_text("utf-8"))
    text = (ROOT / "docs" / "gate-effect.md").read_text("utf-8")
    assert gate_effect().tables(report) in text, "benchmarks/gate_effect.py --tables docs/gate-effect.json"
    assert f"{report['prompts']} prompts" in text and f"{report['tokens']} tokens" in text and report["date"] in text


def test_any_number_of_prompts_has_the_tasks_evenly() -> None:
    module = gate_effect()
    texts = module.texts()
    assert len(set(texts)) == len(texts) == len(module.TASKS) * len(module.SUBJECTS)
    for n in (6, 30, 48, 96):
        counts = [sum(one.startswith(task.partition("{")[0]) for one in texts[:n]) for task in module.TASKS]
        assert counts == [n // len(module.TASKS)] * len(module.TASKS)


def test_every_prompt_has_its_own_seed() -> None:
    """With one seed for all, the prompts would share their random numbers and be no independent draws."""
    seeds: list[int] = []

    class Model:
        def generate(self, prompt: list[int], *, seed: int, **_options: Any) -> None:
            seeds.append(seed)

    gate_effect().answers(Model(), [[1], [2], [3]], 4, Neg())
    assert len(set(seeds)) == 3
