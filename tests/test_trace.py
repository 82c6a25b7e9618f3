"""Traces: the numbers against evaluation and generation, and the page in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG, SamplingParams, demo, trace
from darwin_neg_cpp.trace import Trace, TraceToken
from darwin_neg_cpp.trace_page import page

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">]]>--></span>&amp;\u202eabc\x1b[31m\u2028'


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=120, check=False)


def made_up(texts: list[str], *, threshold: float | None = 1.0) -> Trace:
    tokens = tuple(
        TraceToken(
            id=i,
            text=text,
            generated=i > 1,
            predicted=None if threshold is None or not i else (i * 0.37) % 6,
            true=(i * 0.31) % 6 if i else None,
            active=bool(threshold is not None and i and (i * 0.37) % 6 > threshold),
            logprob=-0.5 if i else None,
            top=((HOSTILE, 0.5), ("b", 0.25)) if i else (),
        )
        for i, text in enumerate(texts)
    )
    return Trace("m<b>odel.gguf", "<i>source</i>", threshold, 20, 2, tokens)


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
    all_at_once = smol.evaluate([one.id for one in found.tokens], top=5)
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
        ([*common, "a " * 5000], "context"),
    ):
        out = run(*args)
        assert out.returncode == 2 and len(out.stderr.splitlines()) == 1 and words in out.stderr, out.stderr
    assert (tmp_path / "there.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_demo_model_is_traced_with_the_packages_head() -> None:
    out = run("trace", "--demo", "The quick brown fox", "-n", "4", "--temp", "0", "--json", "-")
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["model"] == demo.MODEL
