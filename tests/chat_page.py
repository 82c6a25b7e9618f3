"""What a test does with the chat page, and reads from it."""

from __future__ import annotations

from typing import Any


def send(tab: Any, text: str = "Why?", button: str = "#send") -> None:
    tab.fill("#prompt", text)
    tab.click(button)
    finished(tab)


def finished(tab: Any) -> None:
    tab.wait_for_selector("#send:visible")


def content(tab: Any) -> Any:
    return tab.locator(".answer [aria-label=answer]")


def message(tab: Any) -> str:
    return str(tab.locator("#message").inner_text())


def marked(tab: Any) -> list[str]:
    return [str(text) for text in tab.locator(".answer .t.a").all_text_contents()]
