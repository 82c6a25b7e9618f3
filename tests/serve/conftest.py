"""Visits to the chat page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """visit(url, expect=patterns, **context options) -> page.

    Beyond what is expected, it must not write to the console or ask anything of another server.
    """
    said: list[str] = []
    expected: list[str] = ["$^"]
    contexts = []

    def open_page(url: str, *, expect: tuple[str, ...] = (), **options: Any) -> Any:
        own = (url, "data:", f"blob:{url[:-1]}")
        expected.extend(expect)
        contexts.append(browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options}))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(f"pageerror {error}"))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: said.append(request.url) if not request.url.startswith(own) else None)
        tab.set_default_timeout(30_000)
        tab.goto(url)
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in said if not re.search("|".join(expected), line)] == []
