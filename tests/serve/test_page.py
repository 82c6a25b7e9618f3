"""The chat page in a real browser, against scripted servers."""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_page import content, finished, marked, message, send
from chat_server import FOLDER, HEAD, ChatServer, Refused, Token, chunk, event, written
from darwin_neg_cpp.files.shown_text import is_unseen
from made_up_trace import HOSTILE, UNSEEN
from pages import contrast
from waiting import wait_until

SENTENCE: list[Token] = [
    ("", "<think>", 0.01),
    ("reasoning", "Let", 2.5),
    ("reasoning", " me", 0.2),
    ("", "\n</think>\n\n", 0.0),
    ("content", "The", 0.4),
    ("content", " sky", 1.9),
    ("content", " is", 0.1),
    ("content", " blue", 3.2),
    ("content", ".", 0.9),
    ("", "", 0.05),
]
TEXT = "The sky is blue."
ENTROPIES = [entropy for _, _, entropy in SENTENCE]
KEY = "sk-0123456789abcdef"
Open = Callable[..., Any]


@pytest.fixture
def served() -> Iterator[Callable[[ChatServer], str]]:
    started: list[ChatServer] = []

    def serve(server: ChatServer) -> str:
        started.append(server)
        return server.start()

    yield serve
    for server in started:
        server.stop()


@pytest.fixture
def opened(visit: Open, served: Callable[[ChatServer], str]) -> Open:
    """open(server, ready=..., what `visit` takes) -> page; ready: once it knows the model."""

    def open_page(server: ChatServer, *, ready: bool = True, **options: Any) -> Any:
        tab = visit(served(server), **options)
        if ready:
            tab.wait_for_selector("#model:has-text('tiny')")
        return tab

    return open_page


def scripted(*scripts: list[Token]) -> ChatServer:
    """A server that gives these answers in turn, the last one again and again."""
    left = list(scripts)

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        return written(left.pop(0) if len(left) > 1 else left[0], return_neg=bool(body.get("return_neg")))

    return ChatServer(answer=answer)


# ---- an answer


def test_an_answer_is_shaded_marked_and_described(opened: Open) -> None:
    server = scripted(SENTENCE)
    tab = opened(server)
    send(tab)
    assert content(tab).text_content() == TEXT
    shades = tab.locator(".answer [aria-label=answer] .t").evaluate_all("all => all.map((t) => t.style.cssText)")
    assert shades == [f"--e: {round(100 * e / 5)};" for e in (0.4, 1.9, 0.1, 3.2, 0.9)]
    assert marked(tab) == ["Let", "sky", "blue"]
    (body,) = server.bodies
    assert body["neg"] == {"enabled": True, "action": "mask"} and body["return_neg"] is True
    assert body["stream"] is True and body["logprobs"] is True and body["top_logprobs"] == 5
    assert body["messages"] == [{"role": "user", "content": "Why?"}] and body["max_tokens"] == 2048
    figures = tab.locator(".figures").inner_text()
    assert figures == (
        f"10 tokens · mean entropy {np.mean(ENTROPIES):.3f} nats · 3 marked (30 %) · 43 tokens/s · gate mask"
        f" · seed {body['seed']}"
    ), "hidden tokens are counted"
    label = tab.locator(".spark").get_attribute("aria-label")
    assert label == f"Entropy over 10 tokens: mean {np.mean(ENTROPIES):.2f}, highest 3.20 nats; 3 marked"
    assert tab.locator(".spark .line").get_attribute("d").count("L") == 9
    assert not tab.locator(".reasoning .text").is_visible()
    assert tab.locator(".reasoning summary").inner_text() == "Reasoning · 2 tokens"


def test_tokens_appear_while_the_answer_is_written(opened: Open) -> None:
    go: list[bool] = []

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        for part in written(SENTENCE):
            if b" is" in part:
                wait_until(lambda: bool(go))
            yield part

    tab = opened(ChatServer(answer=answer))
    tab.fill("#prompt", "Why?")
    tab.click("#send")
    wait_until(lambda: content(tab).locator(".t").count() == 2)
    assert marked(tab) == ["Let", "sky"] and tab.locator(".answer").get_attribute("aria-busy") == "true"
    tab.wait_for_selector(".figures:has-text('4 tokens')")
    go.append(True)
    finished(tab)
    assert content(tab).text_content() == TEXT and tab.locator(".answer").get_attribute("aria-busy") == "false"


def test_a_token_that_is_looked_at_stays_when_the_answer_ends(opened: Open) -> None:
    go: list[bool] = []

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        for part in written(SENTENCE):
            if b'finish_reason": "stop' in part:
                wait_until(lambda: bool(go))
            yield part

    tab = opened(ChatServer(answer=answer))
    tab.fill("#prompt", "Why?")
    tab.click("#send")
    tab.locator(".answer .t", has_text="blue").click()
    assert "token 6 of 7" in tab.locator("#card").inner_text()
    go.append(True)
    finished(tab)
    assert tab.evaluate("document.activeElement.textContent") == "blue" and tab.locator("#card").is_visible()
    tab.keyboard.press("ArrowLeft")
    assert "token 7 of 10" in tab.locator("#card").inner_text(), "those that are not shown are counted now"


def test_stop_ends_the_request_and_keeps_what_was_written(opened: Open) -> None:
    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        parts = list(written([("content", "word ", 0.5)] * 2))
        yield from parts[:3]
        while True:
            time.sleep(0.02)
            yield parts[2]

    server = ChatServer(answer=answer)
    tab = opened(server)
    for way in (lambda: tab.click("#stop"), lambda: tab.keyboard.press("Escape")):
        tab.fill("#prompt", "Go on")
        tab.click("#send")
        tab.wait_for_selector(".answer[aria-busy=true] .t")
        way()
        finished(tab)
        assert "stopped" in tab.locator(".figures").last.inner_text()
        assert content(tab).last.text_content().startswith("word word ")
        assert message(tab) == ""
    wait_until(lambda: server.broken_pipes == 2)


def test_hover_shows_figures_and_alternatives(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    send(tab)
    tab.locator(".answer .t", has_text="blue").hover()
    card = tab.locator("#card")
    rows = card.locator("tr").all_inner_texts()
    shown = card.inner_text()
    assert '" blue"' in shown and "3.200 nats" in shown and "1.175 nats, exceeded" in shown and "token 8 of 10" in shown
    assert re.search(r"gate, when it was drawn\s+active", shown)
    assert [row.split("\t")[:2] for row in rows] == [
        ['" blue"', "50.00 %"],
        ['" perhaps"', "25.00 %"],
        ['"<b>"', "12.50 %"],
        ['"\\u{202e}back"', "6.25 %"],
        ['"\\n"', "3.13 %"],
    ]
    card.hover()
    time.sleep(0.3)
    assert card.is_visible(), "the pointer may move onto it"
    tab.locator("#top").hover()
    card.wait_for(state="hidden")


def test_everything_works_by_keyboard(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    press = tab.keyboard.press
    focused = "document.activeElement.textContent"
    assert tab.evaluate("document.activeElement.id") == "prompt", "one can type at once"
    tab.keyboard.type("Why?")
    press("Shift+Enter")
    tab.keyboard.type("Please.")
    press("Enter")
    tab.wait_for_selector(".figures:has-text('10 tokens')")
    finished(tab)
    assert tab.locator(".user").inner_text() == "Why?\nPlease."
    for _ in range(20):
        press("Shift+Tab")
        if tab.evaluate(focused) == "The":
            break
    assert tab.locator("#card").is_visible()
    press("ArrowRight")
    assert tab.evaluate(focused) == "sky"
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is seen"
    press("ArrowDown")
    assert tab.evaluate(focused) == "blue", "the next marked one"
    described = tab.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert described == "card" and "3.200 nats" in tab.locator("#card").inner_text()
    assert tab.locator(".spark .here").get_attribute("d") == f"M{7 * 600 / 9:.1f} 0V40"
    press("ArrowUp")
    press("End")
    assert tab.evaluate(focused) == "."
    press("ArrowRight")
    press("Home")
    assert tab.evaluate(focused) == "The"
    press("Escape")
    assert not tab.locator("#card").is_visible() and tab.evaluate("document.activeElement.id") == "prompt"
    seen = set()
    for _ in range(30):
        press("Tab")
        seen.add(
            tab.evaluate("document.activeElement.id || document.activeElement.type || document.activeElement.tagName")
        )
    assert {"radio", "threshold", "temperature", "seed", "max-tokens", "system", "key", "export", "clear"} <= seen
    assert {"SUMMARY", "send", "compare", "log"} <= seen
    tab.focus("summary")
    press("Enter")
    press("Tab")
    assert tab.evaluate(focused) == "Let", "the reasoning, unfolded"


def test_the_slider_marks_again_at_once_and_the_next_answer_is_asked_with_it(opened: Open) -> None:
    server = scripted(SENTENCE)
    tab = opened(server)
    send(tab)
    slider = tab.locator("#threshold")
    assert tab.locator("#threshold-value").inner_text() == "1.175 nats"
    slider.fill("0.05")
    assert marked(tab) == ["Let", "me", "The", "sky", "is", "blue", "."]
    assert "7 marked (70 %)" in tab.locator(".figures").inner_text()
    limit = tab.locator(".spark .limit").get_attribute("d")
    slider.fill("3")
    assert marked(tab) == ["blue"] and tab.locator(".spark .limit").get_attribute("d") != limit
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#threshold-value").inner_text() == "3.010 nats"
    tab.check("input[value=sample]", force=True)
    tab.fill("#temperature", "0.3")
    tab.fill("#seed", "7")
    tab.fill("#max-tokens", "50")
    tab.fill("#system", "Be brief.")
    send(tab)
    body = server.bodies[-1]
    assert body["neg"] == {"enabled": True, "action": "sample", "threshold": 3.01}
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.3, 7, 50)
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "Why?"},
    ]
    tab.click("#threshold-default")
    tab.check("input[value=off]", force=True)
    assert marked(tab) == ["Let", "sky", "blue"] * 2
    send(tab)
    assert server.bodies[-1]["neg"] is False and server.bodies[-1]["return_neg"] is True


SEED = "The seed must be a whole number from 0 to 4294967294, or empty for a random one."
TEMPERATURE = "The temperature must be a number that is not negative."
MAX_TOKENS = "The maximum number of tokens must be a whole number of at least 1."
BAD_SETTINGS = [
    ("seed", "-1", SEED),
    ("seed", "4294967295", SEED),
    ("seed", "abc", SEED),
    ("temperature", "-0.1", TEMPERATURE),
    ("temperature", "1e999", TEMPERATURE),
    ("temperature", "-", TEMPERATURE),
    ("max-tokens", "0", MAX_TOKENS),
    ("max-tokens", "1.5", MAX_TOKENS),
    ("max-tokens", "", MAX_TOKENS),
]


def test_a_bad_setting_is_named_and_nothing_is_sent(opened: Open) -> None:
    server = scripted(SENTENCE)
    tab = opened(server)
    for field, value, said in BAD_SETTINGS:
        good = tab.input_value(f"#{field}")
        tab.fill(f"#{field}", "")
        tab.focus(f"#{field}")
        tab.keyboard.type(value)
        send(tab)
        assert (field, value, message(tab)) == (field, value, said)
        tab.fill(f"#{field}", good)
    assert server.bodies == [] and tab.input_value("#prompt") == "Why?"
    send(tab)
    assert message(tab) == "" and len(server.bodies) == 1


# ---- compare


def other(*words: str) -> list[Token]:
    return [*SENTENCE[:6], *(("content", word, 0.7) for word in words)]


def test_compare_asks_twice_with_one_seed_and_marks_where_the_answers_part(opened: Open) -> None:
    server = scripted(SENTENCE, other(" is", " red", "."), SENTENCE)
    tab = opened(server)
    send(tab, button="#compare")
    gated, free = server.bodies
    assert gated["neg"] == {"enabled": True, "action": "mask"} and free["neg"] is False
    assert gated.pop("neg") is not None and free.pop("neg") is False
    assert gated == free and gated["cache_prompt"] is False, "nothing else differs"
    assert content(tab).all_text_contents() == [TEXT, "The sky is red."]
    assert tab.locator(".t.d").all_text_contents() == ["blue", "red"]
    assert tab.locator(".verdict").inner_text() == f"Seed {gated['seed']}: the answers part at token 8. Show it"
    marker = tab.evaluate("getComputedStyle(document.querySelector('.t.d'), '::before').content")
    assert "≠" in marker, "not by colour alone"
    tab.click(".verdict button")
    assert tab.evaluate("document.activeElement.textContent") == "blue"
    boxes = [box.bounding_box() for box in tab.locator(".answer").all()]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] < boxes[1]["x"], "side by side"
    tab.locator(".answer button").nth(1).click()
    send(tab, "And then?")
    assert server.bodies[-1]["messages"][1]["content"] == "The sky is red.", "it continues with the chosen one"
    assert "cache_prompt" not in server.bodies[-1]


def test_compare_finds_an_earlier_end_and_equal_answers(opened: Open) -> None:
    short = SENTENCE[:6]
    tab = opened(scripted(short, SENTENCE, SENTENCE))
    send(tab, button="#compare")
    assert (
        tab.locator(".t.d").all_text_contents() == ["is"] and "part at token 7." in tab.locator(".verdict").inner_text()
    )
    send(tab, button="#compare")
    assert tab.locator(".verdict").last.inner_text().endswith(": both answers are the same.")
    tab.reload()
    tab.wait_for_selector(".t.d")
    assert tab.locator(".t.d").all_text_contents() == ["is"], "after a reload too"


def test_where_one_answer_fails_nothing_is_compared(opened: Open) -> None:
    def answer(body: dict[str, Any]) -> Any:
        if body["neg"] is False:
            raise Refused(400, "neg: not today")
        return written(SENTENCE)

    tab = opened(ChatServer(answer=answer), expect=("400",))
    send(tab, button="#compare")
    assert tab.locator(".verdict").inner_text() == "Not compared: an answer is not complete."
    assert tab.locator(".problem").last.inner_text() == "The server answered 400: neg: not today"


# ---- untrusted text


def test_what_a_model_writes_stays_text(opened: Open) -> None:
    script = "<script>document.title = 'taken'</script>"
    tokens: list[Token] = [
        ("reasoning", script, 1.0), ("content", script, 2.0), ("content", HOSTILE, 3.0), ("content", UNSEEN, 0.1)
    ]  # fmt: skip
    tab = opened(scripted(tokens), expect=("requires 'TrustedHTML'",))
    send(tab, script)
    assert tab.title() == "tiny<b>.gguf – darwin-neg"
    assert tab.locator("main script, main img").count() == 0
    assert script in tab.locator(".user").inner_text() and script in content(tab).inner_text()
    for i in range(3):
        tab.locator(".answer [aria-label=answer] .t").nth(i).hover()
        assert not [c for c in tab.locator("#card").inner_text() if is_unseen(c) and c not in "\n\t"]
    shown = tab.locator("body").inner_text()
    assert not [c for c in shown if is_unseen(c) and c not in "\n\t"]
    for c in UNSEEN:
        assert (chr(0x2400 + ord(c)) if ord(c) < 0x20 else f"U+{ord(c):04X}") in shown
    policy = "document.querySelector('meta[http-equiv]').content"
    assert "'unsafe" not in tab.evaluate(policy)
    refused = "() => { try { document.body.innerHTML = '<p>x'; return ''; } catch (e) { return e.name; } }"
    assert tab.evaluate(refused) == "TypeError", "HTML cannot be set at all"


def test_joiners_stay_where_they_shape_text(opened: Open) -> None:
    family = "👩\u200d👧 می\u200cخواهم ❤\ufe0f"
    tab = opened(scripted([("content", family, 0.1), ("content", "❤", 0.1), ("content", "\ufe0f!", 0.1)]))
    send(tab)
    assert content(tab).text_content() == family + "❤\ufe0f!"
    send(tab)


def test_unseen_characters_are_those_of_the_python_side(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    found = tab.evaluate("""async () => {
      const { isUnseen } = await import('./text.js');
      const out = [];
      for (let i = 0; i < 0x110000; i += 1) if (isUnseen(String.fromCodePoint(i))) out.push(i);
      return out;
    }""")
    # what a newer Unicode than Python's has assigned since may differ
    known = [i for i in range(sys.maxunicode + 1) if unicodedata.category(chr(i)) != "Cn"]
    assert set(found) & set(known) == {i for i in known if is_unseen(chr(i))}


PIECES: list[tuple[list[str], str, Any]] = [
    (["a", " b"], "a b", [[0, 1], [1, 3]]),
    (["<think>", "r", "</think>", "\n\n", "c"], "rc", [None, [0, 1], None, None, [1, 2]]),
    (["\ufffd", "\ufffd", "\ufffd", "!"], "😀!", [None, None, [0, 2], [2, 3]]),
    (["x", "\ufffd", "\ufffd"], "x😀", [[0, 1], None, [1, 3]]),
    (["", "", "😀", "!"], "😀!", [None, None, [0, 2], [2, 3]]),
    (["r\n", "</think>", " c"], "rc", [[0, 1], None, [1, 2]]),
    (["a", "b"], "something else", None),
    (["a"], "", [None]),
]


def test_pieces_are_found_in_the_text(opened: Open) -> None:
    code = "async (all) => { const { align } = await import('./answer.js'); return all.map((one) => align(...one)); }"
    found = opened(scripted(SENTENCE)).evaluate(code, [[pieces, whole] for pieces, whole, _ in PIECES])
    assert found == [expected for _, _, expected in PIECES]


def test_characters_split_between_packets_and_tokens_are_put_together(opened: Open) -> None:
    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        tokens: list[Token] = [
            ("content", "Ω", 0.3),
            ("", "", 2.0),
            ("content", "😀", 1.0),
            ("content", " é", 0.2),
        ]
        raw = (
            b"".join(written(tokens))
            .replace(b'"\\u03a9"', '"Ω"'.encode())
            .replace(b'"\\ud83d\\ude00"', '"😀"'.encode())
        )
        assert "😀".encode() in raw
        for i in range(len(raw)):
            yield raw[i : i + 1]

    tab = opened(ChatServer(answer=answer))
    send(tab)
    assert content(tab).text_content() == "Ω·😀 é" and marked(tab) == ["·"], (
        "one that wrote a part of a character is shown"
    )
    assert "4 tokens" in tab.locator(".figures").inner_text()
    tab.locator(".answer .t.a").hover()
    assert "writes a part of the next character" in tab.locator("#card").inner_text()
    assert "2.000 nats" in tab.locator("#card").inner_text()


def test_several_tokens_in_one_chunk_are_several_on_the_page(opened: Open) -> None:
    half = {"token": "\ufffd", "bytes": [0xE3, 0x81], "logprob": -1.0}
    entries: list[dict[str, Any]] = [
        {"token": " a", "logprob": -0.5, "neg": {"entropy": 0.5}},
        {"token": " b", "logprob": -0.5, "neg": {"entropy": 2.0}, "top_logprobs": [half]},
    ]

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        yield event(chunk({"content": " a b"}, logprobs={"content": entries}, neg={"entropy": 2.0, "active": True}))
        yield event(chunk({"content": " c d"}, neg={"entropy": 3.0, "active": True}))
        yield event(chunk({}, finish="length"))
        yield event(b"[DONE]")

    tab = opened(ChatServer(answer=answer))
    send(tab)
    assert tab.locator(".answer .t").all_text_contents() == ["a", "b", "c d"] and marked(tab) == ["b", "c d"]
    tab.locator(".answer .t").nth(1).hover()
    assert tab.locator("#card td").first.inner_text() == '"<E3><81>"', "bytes that are no character alone"
    assert "ended by the maximum number of tokens" in tab.locator(".figures").inner_text()


def test_what_a_chunk_says_is_about_its_last_token(opened: Open) -> None:
    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        entry = {
            "token": "b",
            "logprob": -0.5,
            "top_logprobs": [{"token": "b", "logprob": -0.5}],
            "neg": {"entropy": 3.0},
        }
        yield event(chunk({"content": "a"}, neg={"entropy": 1.0, "active": False}))
        # spaces are held back until it is known that they are not at the end
        yield event(chunk({"content": "\n\nb"}, logprobs={"content": [entry]}))
        last = chunk({}, finish="stop")
        last["choices"][0]["neg"] = {"tokens": ["a", "\n\n", "b"], "entropy": [1, 2, 3], "active": [False, True, True]}
        yield event(last)
        yield event(b"[DONE]")

    tab = opened(ChatServer(answer=answer))
    send(tab)
    assert tab.locator(".answer .t").all_text_contents() == ["a", "↵\n↵\n", "b"]
    tab.locator(".answer .t").nth(2).hover()
    assert "3.000 nats" in tab.locator("#card").inner_text() and tab.locator("#card td").first.inner_text() == '"b"'
    tab.locator(".answer .t").nth(1).hover()
    assert "2.000 nats" in tab.locator("#card").inner_text() and tab.locator("#card td").count() == 0


def test_a_tag_is_not_taken_for_the_text_that_follows_it(opened: Open) -> None:
    tokens: list[Token] = [
        ("", "</", 0.1), ("", "think", 4.0), ("", ">", 0.1), ("content", "think", 0.2), ("content", " hard", 3.0)
    ]  # fmt: skip
    tab = opened(scripted(tokens))
    send(tab)
    assert marked(tab) == ["hard"] and content(tab).text_content() == "think hard"
    tab.locator(".answer .t").first.hover()
    assert "0.200 nats" in tab.locator("#card").inner_text()


def test_line_ends_before_a_text_leave_no_empty_lines(opened: Open) -> None:
    tokens: list[Token] = [
        ("reasoning", "\nLet", 1.0), ("content", "\n", 2.0), ("content", "\n\n", 0.1), ("content", "The\n", 0.1),
        ("content", "\n", 0.1), ("content", "end", 0.1),
    ]  # fmt: skip
    tab = opened(scripted(tokens))
    send(tab)
    assert tab.locator(".answer .t").all_text_contents() == ["↵Let", "↵", "↵↵", "The↵\n", "↵\n", "end"]
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t")
    assert tab.locator(".answer .t").all_text_contents() == ["↵Let", "↵", "↵↵", "The↵\n", "↵\n", "end"]


def test_figures_of_no_use_are_left_out(opened: Open) -> None:
    odd: list[Any] = [None, "1", {}, [], True, -1.0, 1e308]

    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        for value in odd:
            neg = {"entropy": value, "active": value}
            entry = {
                "token": 1,
                "logprob": value,
                "top_logprobs": [None, {"token": value, "logprob": value}],
                "neg": neg,
            }
            yield event(chunk({"content": "x "}, logprobs={"content": [entry]}, neg=neg, timings=value))
        yield event({"choices": value})
        yield event({"choices": [None], "neg": 5})
        yield event(chunk({"content": 5}, neg=None, logprobs=7))
        last = chunk({}, finish="stop")
        last["choices"][0]["neg"] = {"tokens": ["x "], "entropy": 5}
        yield event(last)
        yield event(b"[DONE]")

    tab = opened(ChatServer(answer=answer))
    send(tab)
    assert content(tab).text_content() == "x " * len(odd) and message(tab) == ""
    for i in range(len(odd)):
        tab.locator(".answer .t").nth(i).hover()
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t")
    assert content(tab).text_content() == "x " * len(odd) and message(tab) == "", "such an answer can be kept"


# ---- errors


def test_a_key_is_typed_into_the_page_and_kept_nowhere(opened: Open) -> None:
    server = scripted(SENTENCE)
    server.key = KEY
    tab = opened(server, ready=False, expect=("401",))
    tab.wait_for_selector("#message:has-text('asks for an API key')")
    assert tab.evaluate("document.activeElement.id") == "key", "it can be typed at once"
    tab.keyboard.type("wrong")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#message:has-text('refused this API key')")
    tab.fill("#key", "ключ")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#message:has-text('ASCII')")
    tab.fill("#key", KEY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#model:has-text('tiny')")
    assert message(tab) == "" and tab.evaluate("document.activeElement.id") == "prompt"
    send(tab)
    assert content(tab).text_content() == TEXT
    server.key = KEY + "0"
    send(tab, "Again")
    assert message(tab).startswith("The server refused this API key")
    tab.fill("#key", server.key)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#message:empty", state="attached")
    tab.click("#send")
    finished(tab)
    assert content(tab).count() == 2
    with tab.expect_download() as download:
        tab.click("#export")
    assert KEY not in download.value.path().read_text("utf-8")
    assert KEY not in tab.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
    )
    for _, path, headers, _ in server.asked:
        assert KEY not in path and KEY not in headers.get("Referer", "")
    assert server.asked[-1][2]["Authorization"] == f"Bearer {server.key}"


def test_a_server_that_is_loading_is_asked_again(opened: Open) -> None:
    server = scripted(SENTENCE)
    server.loading = True
    tab = opened(server, ready=False, expect=("503",))
    tab.wait_for_selector("#message:has-text('The server is still loading the model.')")
    server.loading = False
    tab.wait_for_selector("#model:has-text('tiny')")
    assert message(tab) == ""


def refused(status: int, text: Any, **headers: str) -> Callable[[dict[str, Any]], Any]:
    def answer(body: dict[str, Any]) -> Any:
        raise Refused(status, text, **headers)

    return answer


def ended_by(*parts: bytes) -> Callable[[dict[str, Any]], Any]:
    return lambda body: [*list(written(SENTENCE))[:6], *parts]


ERRORS: list[tuple[Any, str, str]] = [
    (refused(400, "neg.top_k\n is\u202e bad"), "The server answered 400: neg.top_k is[U+202E] bad", ""),
    (refused(500, {"a": "<b>"}), "The server answered 500: no reason given", ""),
    (refused(503, "Queue full", **{"Retry-After": "7"}), "The server is busy; try again in 7 s. (Queue full)", ""),
    (refused(503, "Loading model"), "The server is still loading the model.", ""),
    (refused(400, "x" * 5000), "The server answered 400: " + "x" * 400 + " …", ""),
    (ended_by(), "The connection was lost before the answer was complete.", "The sky is"),
    (ended_by(b"data: {broken\n\n"), "The server sent something that is not JSON; the answer ends here.", "The sky is"),
    (ended_by(b"data: 5\n\n"), "The server sent something that is not an object; the answer ends here.", "The sky is"),
    (
        ended_by(event({"error": {"message": "the context is full", "code": 500}})),
        "The server stopped: the context is full",
        "The sky is",
    ),
]  # fmt: skip


def test_an_error_is_one_line_and_nothing_is_lost(opened: Open) -> None:
    server = ChatServer()
    tab = opened(server, expect=("status of",))
    for server.answer, said, kept in ERRORS:
        send(tab, "My question")
        assert message(tab) == said
        if kept:
            assert content(tab).last.text_content() == kept and tab.locator(".problem").last.inner_text() == said
            assert tab.input_value("#prompt") == ""
        else:
            assert tab.locator(".turn").count() == 0 and tab.locator("#welcome").is_visible()
            assert tab.input_value("#prompt") == "My question", "it can be sent again"


def test_a_server_that_is_gone_is_named_and_found_again(opened: Open) -> None:
    server = scripted(SENTENCE)
    tab = opened(server, expect=("ERR_FAILED",))
    tab.route("**/v1/*", lambda route: route.abort())
    tab.route("**/v1/**", lambda route: route.abort())
    send(tab)
    assert message(tab) == "The server cannot be reached; check that it is running."
    tab.unroute_all()
    tab.click("#send")
    finished(tab)
    assert content(tab).text_content() == TEXT and message(tab) == ""


def test_a_model_without_a_head_is_chatted_with_and_said_to_have_none(opened: Open) -> None:
    server = ChatServer(head=None, answer=lambda body: written(SENTENCE, head=False))
    tab = opened(server)
    assert tab.locator("#no-head").is_visible() and tab.locator("#threshold").is_disabled()
    send(tab)
    assert "neg" not in server.bodies[0] and "return_neg" not in server.bodies[0]
    assert content(tab).text_content() == TEXT and marked(tab) == [] and not tab.locator(".spark").is_visible()
    tab.locator(".answer .t", has_text="blue").hover()
    shown = tab.locator("#card").inner_text()
    assert "entropy" not in shown and "50.00 %" in shown
    tab.fill("#prompt", "x")
    tab.click("#compare")
    assert message(tab) == "There is nothing to compare: this model has no NEG head." and len(server.bodies) == 1


def test_a_threshold_beyond_the_scale_makes_the_scale_longer(opened: Open) -> None:
    server = scripted(SENTENCE)
    server.head = {**HEAD, "threshold": 5.27}
    tab = opened(server)
    assert tab.locator("#scale-end").inner_text() == "8" and tab.get_attribute("#threshold", "max") == "8"
    assert tab.input_value("#threshold") == "5.27" and tab.locator("#threshold-value").inner_text() == "5.270 nats"
    assert tab.evaluate("document.querySelector('#scale').style.cssText") == "--full: 62.5%;", "where the shade is full"


@pytest.mark.parametrize("action", ["mask", "sample", "off"])
def test_the_gate_begins_as_the_server_has_it(opened: Open, action: str) -> None:
    server = scripted(SENTENCE)
    server.head = {**HEAD, "action": action, "threshold": None}
    tab = opened(server)
    assert tab.locator("input[name=gate]:checked").input_value() == action
    assert tab.locator("#threshold-value").inner_text() == "–"
    tab.fill("#temperature", "0")
    assert tab.locator("#greedy-note").is_visible() == (action == "mask")
    send(tab)
    assert marked(tab) == [], "no threshold, no marks"


# ---- the conversation


def test_the_conversation_and_the_settings_survive_a_reload(opened: Open) -> None:
    server = scripted(SENTENCE, other(" is", " red"))
    tab = opened(server)
    tab.fill("#seed", "11")
    tab.locator("#threshold").fill("3")
    send(tab, button="#compare")
    tab.locator(".answer button").nth(1).click()
    picture = "document.querySelector('#log').innerText"
    before = tab.evaluate(picture)
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t.a")
    assert tab.evaluate(picture) == before and marked(tab) == ["blue"]
    assert tab.input_value("#seed") == "11" and tab.locator("#threshold-value").inner_text() == "3.000 nats"
    tab.locator(".answer .t", has_text="blue").hover()
    assert "25.00 %" in tab.locator("#card").inner_text(), "alternatives too"
    send(tab, "More")
    assert [m["content"] for m in server.bodies[-1]["messages"]] == ["Why?", "The sky is red", "More"]


def test_an_answer_that_a_reload_interrupts_is_kept_as_far_as_it_came(opened: Open) -> None:
    def answer(body: dict[str, Any]) -> Iterator[bytes]:
        yield from list(written(SENTENCE))[:6]
        time.sleep(2)

    tab = opened(ChatServer(answer=answer))
    tab.fill("#prompt", "Why?")
    tab.click("#send")
    tab.wait_for_selector("[aria-label=answer] .t:has-text('is')")
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t")
    assert content(tab).text_content() == "The sky is" and tab.locator("#send").is_visible()


def test_it_is_exported_as_json(opened: Open) -> None:
    server = scripted(SENTENCE, SENTENCE, other(" is"))
    tab = opened(server)
    send(tab)
    send(tab, "Again", button="#compare")
    with tab.expect_download() as download:
        tab.click("#export")
    assert re.fullmatch(r"darwin-neg-chat-[\dT-]+\.json", download.value.suggested_filename)
    data = json.loads(download.value.path().read_text("utf-8"))
    assert (data["format"], data["version"], data["model"]) == ("darwin-neg chat", 1, "tiny<b>.gguf")
    first, answer, second, compared = data["messages"]
    assert first == {"role": "user", "content": "Why?"} and second["content"] == "Again"
    assert answer["content"] == TEXT and answer["reasoning_content"] == "Let me" and answer["finish_reason"] == "stop"
    assert [token["neg"]["entropy"] for token in answer["tokens"]] == ENTROPIES
    assert "".join(token["token"] for token in answer["tokens"] if token["part"] == "content") == TEXT
    assert [token["neg"]["active"] for token in answer["tokens"]] == [e > 1.175 for e in ENTROPIES if e is not None]
    assert len(answer["tokens"][4]["top_logprobs"]) == 5
    assert answer["request"]["neg"] == {"enabled": True, "action": "mask"}
    (rest,) = compared["compared_with"]
    assert rest["content"] == "The sky is" and rest["request"]["neg"] is False
    assert rest["request"]["seed"] == compared["request"]["seed"]


def test_clear_can_be_undone(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    send(tab)
    tab.click("#clear")
    assert tab.locator(".turn").count() == 0 and tab.locator("#welcome").is_visible()
    tab.click("#message button")
    assert content(tab).text_content() == TEXT and message(tab) == ""
    tab.click("#clear")
    tab.reload()
    tab.wait_for_selector("#model:has-text('tiny')")
    assert tab.locator(".turn").count() == 0


UNREADABLE = [
    "{",
    "null",
    "5",
    '{"version":2,"turns":[]}',
    '{"version":1,"turns":5}',
    '{"version":1,"turns":[null]}',
    '{"version":1,"turns":[{"user":"a","answers":[]}]}',
    '{"version":1,"turns":[{"user":"a","answers":[{"title":"","request":null}]}]}',
    '{"version":1,"turns":[{"user":"a","answers":[{"title":"","request":{},"reasoning":"","content":"","tokens":[[7]],'
    '"finish":null,"error":"","speed":null}]}]}',
]


def test_what_cannot_be_read_is_set_aside(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    load = """async (kept) => {
      const { load } = await import('./store.js');
      localStorage['darwin-neg.chat'] = kept;
      return [load(), localStorage['darwin-neg.chat.unreadable']];
    }"""
    problem = "The conversation that this browser kept cannot be read; a new one begins."
    for kept in UNREADABLE:
        assert tab.evaluate(load, kept) == [{"settings": {}, "turns": [], "problem": problem}, kept]
    tab.add_init_script("if (!sessionStorage.once) { sessionStorage.once = 1; localStorage['darwin-neg.chat'] = '{'; }")
    tab.reload()
    tab.wait_for_selector("#message:has-text('cannot be read; a new one begins')")
    send(tab)
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t")
    assert content(tab).text_content() == TEXT and message(tab) == ""


STORAGE = """Object.defineProperty(window, 'localStorage', {{ get() {{ {} }} }});"""


def test_without_storage_one_can_chat_all_the_same(opened: Open) -> None:
    server = scripted(SENTENCE)
    tab = opened(server)
    tab.add_init_script(STORAGE.format("throw new DOMException('no', 'SecurityError')"))
    tab.reload()
    tab.wait_for_selector("#model:has-text('tiny')")
    assert message(tab) == "This browser does not let the page keep the conversation."
    send(tab)
    assert content(tab).text_content() == TEXT and message(tab) == "", "that was said"


def test_a_full_storage_keeps_the_text(opened: Open) -> None:
    tab = opened(scripted(SENTENCE))
    room = "const put = Storage.prototype.setItem; Storage.prototype.setItem = function (k, v) {"
    tab.add_init_script(
        room + " if (v.length > 500) throw new DOMException('', 'QuotaExceededError'); put.call(this, k, v); }"
    )
    tab.reload()
    tab.wait_for_selector("#model:has-text('tiny')")
    send(tab)
    assert message(tab).startswith("The browser’s storage is full: of this conversation it keeps the text")
    tab.reload()
    tab.wait_for_selector(".answer")
    assert content(tab).text_content() == TEXT


# ---- looks


# A canvas composes the colours as the page does: what lies under the token, its shade, its text
PAINTED = """() => [...document.querySelectorAll('.t, .t i')].map((one) => {
  const token = one.closest('.t'), own = getComputedStyle(one);
  const brush = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const painted = (colour) => {
    brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return 'rgb(' + [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3) + ')';
  };
  const below = [];
  for (let e = token; e; e = e.parentElement) below.unshift(e);
  const ground = below.map((e) => painted(getComputedStyle(e).backgroundColor)).pop();
  return [one.textContent, ground, painted(own.color), painted(getComputedStyle(token).borderBottomColor)];
})"""
TEXTS = """() => [...document.querySelectorAll(
    'p, label, legend, summary, h1, h2, h3, button, dt, dd, caption, td, output')]
  .filter((e) => e.checkVisibility() && e.textContent.trim()).map((e) => {
    let ground = e;
    while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
    return [e.textContent.trim().slice(0, 40), getComputedStyle(ground).backgroundColor, getComputedStyle(e).color];
  })"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_light_and_dark(opened: Open, scheme: str, tmp_path: Path) -> None:
    texts = ["word", "\n", "\u202e", "", " more", "x"]
    tokens: list[Token] = [("content", texts[i % 6] or "·", i * 0.1) for i in range(60)]
    tab = opened(scripted(tokens), color_scheme=scheme)
    send(tab)
    seen = tab.evaluate(PAINTED)
    assert len({ground for _, ground, _, _ in seen}) > 20, "several shades"
    assert min((contrast(ground, ink), text) for text, ground, ink, _ in seen)[0] >= 4.5
    marks = {(ground, mark) for _, ground, _, mark in seen if ground}
    assert marks
    tab.locator(".answer .t").last.hover()
    tab.fill("#temperature", "0")
    readable = tab.evaluate(TEXTS)
    assert len(readable) > 30
    assert [(text, ground, ink) for text, ground, ink in readable if contrast(ground, ink) < 4.5] == []
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (np.mean([int(x) for x in re.findall(r"\d+", paper)]) < 60) == (scheme == "dark")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_is_wide_enough(opened: Open, width: int) -> None:
    long: list[Token] = [("content", "Donaudampfschifffahrtsgesellschaft" * 4, 3.0), *SENTENCE[4:]]
    tab = opened(
        scripted(long), viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    parts = "'html, body, #log, #settings, #composer, #card'"
    fits = f"[...document.querySelectorAll({parts})].every((e) => e.scrollWidth <= innerWidth)"
    assert tab.evaluate(fits)
    assert not tab.locator("#settings").is_visible()
    tab.fill("#prompt", "one")
    tab.keyboard.press("Enter")
    tab.keyboard.type("two")
    assert tab.input_value("#prompt") == "one\ntwo", "on a phone Enter is a new line"
    tab.tap("#send")
    finished(tab)
    tab.wait_for_selector(".figures:has-text('tokens')")
    assert tab.evaluate(fits)
    tab.locator(".answer .t", has_text="blue").tap()
    box = tab.locator("#card").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 640
    tab.fill("#prompt", "again")
    tab.tap("#compare")
    finished(tab)
    assert tab.evaluate(fits)
    tops = [answer.bounding_box()["y"] for answer in tab.locator(".compared .answer").all()]
    assert tops[0] < tops[1], "one above the other"
    tab.tap("#settings-button")
    assert tab.locator("#threshold").is_visible() and tab.evaluate(fits)
    assert tab.locator("#settings-button").get_attribute("aria-expanded") == "true"
    tab.tap("#send")
    assert tab.locator("#settings").is_visible(), "there was nothing to send"
    tab.fill("#prompt", "once more")
    tab.tap("#send")
    finished(tab)
    assert not tab.locator("#settings").is_visible(), "the answer is seen"
    small = tab.evaluate("""[...document.querySelectorAll('#top button, #composer button')]
      .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 36).map((e) => e.id)""")
    assert small == [], "they can be hit with a finger"


def test_colours_are_those_of_the_other_pages() -> None:
    def colours(*names: str) -> list[str]:
        text = "".join((FOLDER / name).read_text("utf-8") for name in names)
        return sorted(set(re.findall(r"--(?:paper|ink|faint|line|panel|hot|gate|predicted): #\w+", text)))

    assert colours("style.css") == colours("../page.css", "../trace.css") and len(colours("style.css")) == 16


def test_the_files_are_small_and_need_nothing_else() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    html = (FOLDER / "index.html").read_text("utf-8")
    imports = {
        name for path in FOLDER.glob("*.js") for name in re.findall(r"from '\./([\w.]+)'", path.read_text("utf-8"))
    }
    linked = {name for name in re.findall(r'(?:src|href)="([^"]+)"', html) if name != "data:,"}
    assert names == imports | linked | {"index.html"}, "every file is used, and none is missing"
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 80_000
    assert not re.search(r"<style|style=|<script(?! type=\"module\" src)|\son\w+=|https?:", html)
    for path in FOLDER.iterdir():
        text = path.read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert set(re.findall(r"https?://[^' ]+", text)) <= {"http://www.w3.org/2000/svg"}, path
