"""The chat page on a real server: the demo model with its head."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chat_page import content, finished, marked, message, send
from chat_server import FOLDER
from darwin_neg_cpp import demo_model
from http_server import Server

KEY = "sk-page"


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server]) -> Server:
    model, head = demo_model.model_and_head()
    options = ["-m", model, "--neg-file", head, "-c", 4096, "-np", 2, "-t", 2, "-tb", 2]
    return start_server(*options, "--ui", "--path", FOLDER, "--api-key", KEY)


@pytest.fixture
def tab(server: Server, visit: Callable[..., Any]) -> Any:
    """The page of a server that asks for a key, after the key has been typed."""
    tab = visit(f"http://127.0.0.1:{server.port}/", expect=("40[01]",))
    tab.set_default_timeout(60_000)
    tab.wait_for_selector("#message:has-text('asks for an API key')")
    tab.keyboard.type(KEY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#model:has-text('SmolLM2-135M-Instruct.Q4_1.gguf')")
    return tab


def exported(tab: Any) -> list[Any]:
    with tab.expect_download() as download:
        tab.click("#export")
    return list(json.loads(download.value.path().read_text("utf-8"))["messages"])


def test_the_files_need_no_key_and_are_asked_for_again(server: Server) -> None:
    for path in FOLDER.iterdir():
        for name in {path.name, path.name.replace("index.html", "")}:
            answer = server.get(f"/{name}")
            assert (answer.status, answer.headers["cache-control"]) == (200, "no-cache")
            assert answer.text == path.read_text("utf-8")
    kinds = [server.get(f"/{name}").headers["content-type"] for name in ("", "app.js", "style.css")]
    assert kinds == ["text/html", "text/javascript", "text/css"]
    assert (
        server.get("/props").status == server.get("/nothing.js").status == server.get("/%2e%2e/page.css").status == 401
    )


def test_an_answer_is_written_compared_stopped_and_kept(server: Server, tab: Any) -> None:
    tab.fill("#max-tokens", "16")
    tab.fill("#temperature", "0")
    send(tab, "Say hello in Japanese: こんにちは. Then write an emoji.")
    question, answer = exported(tab)
    request = {"messages": [question], **answer["request"], "logprobs": True, "top_logprobs": 5, "cache_prompt": False}
    asked = server.post("/v1/chat/completions", request, Authorization=f"Bearer {KEY}")
    (choice,) = asked.json["choices"]
    assert answer["content"] == choice["message"]["content"] and answer["finish_reason"] == choice["finish_reason"]
    neg = choice["neg"]
    assert [token["token"] for token in answer["tokens"]] == neg["tokens"]
    # what else is decoded with a token can change its last digits
    assert [token["neg"]["entropy"] for token in answer["tokens"]] == pytest.approx(neg["entropy"], abs=2e-2)
    assert [token["neg"]["active"] for token in answer["tokens"]] == neg["active"]
    # spaces are held back, so that nothing is said about them
    words = [token for token in answer["tokens"] if token["token"].strip() and token["part"] != "unseen"]
    assert len(words) > 5 and all(len(token["top_logprobs"]) == 5 for token in words)
    tab.locator("#threshold").fill("0")
    assert len(marked(tab)) == content(tab).locator(".t").count(), "every token is above 0"

    send(tab, "Name a river.", button="#compare")
    assert tab.locator(".verdict").inner_text().endswith(": both answers are the same."), (
        "masking is without effect here"
    )
    tab.fill("#temperature", "1.5")
    tab.fill("#seed", "4")
    send(tab, "Name another one.", button="#compare")
    assert "the answers part at token" in tab.locator(".verdict").last.inner_text()
    assert 1 <= tab.locator(".t.d").count() <= 2
    gated, free = (tab.locator(".compared").last.locator(".figures").nth(i).inner_text() for i in range(2))
    assert "gate mask" in gated and "gate off" in free and "seed 4" in gated and "seed 4" in free

    # whatever the model would say on this CPU, it does not end by itself
    endless = {"ignore_eos": True}
    tab.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(post_data={**route.request.post_data_json, **endless}),
    )
    tab.fill("#max-tokens", "1800")
    tab.fill("#temperature", "0")
    tab.fill("#prompt", "Count from one to a thousand.")
    tab.click("#send")
    tab.locator(".answer").last.locator(".t").nth(2).wait_for()
    tab.click("#stop")
    finished(tab)
    assert tab.locator(".figures").last.inner_text().endswith("stopped") and message(tab) == ""
    before = tab.locator("#log").inner_text()
    tab.reload()
    tab.wait_for_selector("[aria-label=answer] .t")
    tab.fill("#key", KEY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#model:has-text('SmolLM2')")
    assert tab.locator("#log").inner_text() == before


def test_the_servers_refusals_are_shown_in_one_line(tab: Any) -> None:
    send(tab, "word " * 3000)
    said = message(tab)
    assert said.startswith("The server answered 400: ") and "\n" not in said and len(said) < 450
    tab.fill("#key", "wrong")
    tab.fill("#prompt", "Hello")
    tab.click("#send")
    tab.wait_for_selector("#message:has-text('refused this API key')")
    assert tab.input_value("#prompt") == "Hello"
