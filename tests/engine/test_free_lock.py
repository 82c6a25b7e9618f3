"""Python's lock is free while C++ works: another thread goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darwin_neg_cpp import DarwinNEG
from tiny_gguf import write_tiny_llama

LONG = "word " * 1_000_000


def _parse(llm: DarwinNEG) -> Callable[[], Any]:
    prompt = llm.session.render([{"role": "user", "content": "a"}])
    return lambda: llm.session.engine.parse_chat(LONG, prompt, True)


def _detokenize(llm: DarwinNEG) -> Callable[[], Any]:
    tokens = [97] * 1_000_000
    return lambda: llm.session.engine.detokenize(tokens, False)


def _tokenize(llm: DarwinNEG) -> Callable[[], Any]:
    return lambda: llm.session.engine.tokenize(LONG[:200_000].encode(), False, False)


def _render(llm: DarwinNEG) -> Callable[[], Any]:
    messages = json.dumps([{"role": "user", "content": LONG}])
    return lambda: llm.session.engine.apply_chat_template(messages)


@pytest.mark.parametrize("prepare", [_parse, _detokenize, _tokenize, _render])
def test_a_thread_runs_while_text_is_worked_on(
    tmp_path: Path, prepare: Callable[[DarwinNEG], Callable[[], Any]]
) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf", chat_template="{{ messages[0].content }}")
    with DarwinNEG(path, n_ctx=64, n_parallel=1, n_threads=1) as llm:
        work = prepare(llm)
        steps, ended = 0, threading.Event()

        def count() -> None:
            nonlocal steps
            while not ended.is_set():
                time.sleep(0.0005)
                steps += 1

        thread = threading.Thread(target=count)
        thread.start()
        try:
            seen = 0
            # a held lock is handed over once when the call returns; what is seen in between needs a free one
            for _ in range(5):
                before, begin = steps, time.monotonic()
                work()
                seen = max(seen, steps - before)
                assert time.monotonic() - begin > 0.004, "too quick to show anything"
        finally:
            ended.set()
            thread.join()
    assert seen > 3
