"""A trace's page, as text and in a real browser."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp.files.shown_text import is_unseen
from darwin_neg_cpp.trace import render_page
from made_up_trace import HOSTILE, UNSEEN, made_up
from pages import contrast


def links(html: str) -> list[str]:
    found: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Parser().feed(html)
    return found


def test_what_the_model_wrote_is_escaped() -> None:
    html = render_page(made_up(["a", HOSTILE, "</script><script>alert(3)</script>"]))
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
    html = render_page(found)
    assert {c for c in html if is_unseen(c)} == {"\n"}
    header, _, rest = html.partition("</header>")
    for c in UNSEEN:
        assert header.count(f"[U+{ord(c):04X}]") == 3, "title, heading and the head's source"
        mark = chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"U+{ord(c):04X}"
        assert f"<i>{mark}</i>" in rest, "the token"


@pytest.mark.slow
def test_hover_and_keys_show_what_is_known_of_a_token(opened: Any) -> None:
    found = made_up(["one", " two", " three", "\n", " five", ""])
    tab = opened(render_page(found))
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
    assert tab.locator(".t.a").count() == sum(token.active for token in found.tokens)
    assert tab.locator("circle").count() == 5 and tab.locator("polyline").count() == 2


@pytest.mark.slow
def test_hostile_text_stays_text(opened: Any) -> None:
    tab = opened(render_page(made_up(["a", HOSTILE, "</script><script>document.title = 'taken'</script>"])))
    for i in range(3):
        tab.locator(".t").nth(i).hover()
    assert tab.title() == "NEG trace: m<b>odel.gguf"
    tab.locator(".t").nth(1).hover()
    panel = tab.locator("#panel").inner_text()
    assert "\\u{202e}abc\\u001b[31m" in panel and not [c for c in panel if is_unseen(c) and c not in "\n\t"]
    assert tab.locator("img").count() == 0 and "<script>alert(1)</script>" in tab.locator("#text").inner_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_dark_and_print(opened: Any, scheme: str, tmp_path: Path) -> None:
    from PIL import Image

    tab = opened(render_page(made_up([f" word{i}" for i in range(60)])), color_scheme=scheme)
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
  const token = one.closest('.t'), own = getComputedStyle(one);
  const brush = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
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
    tab = opened(render_page(made_up(texts, prompt_tokens=prompt_tokens)), color_scheme=scheme)
    seen = tab.evaluate(PAINTED)
    assert len(seen) > 60, "marks too"
    assert tab.locator(".t.p").count() == (30 if prompt_tokens == 30 else 0), (
        "where all is given, nothing is marked as such"
    )
    assert len({ground for _, ground, _ in seen}) > 10, "several shades"
    assert min((contrast(ground, ink), name, ground, ink) for name, ground, ink in seen)[0] >= 4.5
