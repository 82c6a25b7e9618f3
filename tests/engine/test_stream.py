"""Streams: chunks, and the end of a request that nobody follows any more. The engine is scripted (fake_core)."""

from __future__ import annotations

import gc
import threading

import fake_core
from darwin_neg_cpp import DarwinNEG


def test_a_stream_yields_the_text_in_pieces_and_ends_with_the_reason(llm: DarwinNEG) -> None:
    chunks = list(llm.stream("a b c"))
    assert [chunk.text for chunk in chunks] == ["a ", "b ", "c "]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert not fake_core.Engine.last.requests


def test_closing_leaving_or_dropping_a_stream_cancels_the_request(llm: DarwinNEG) -> None:
    engine = fake_core.Engine.last
    stream = llm.stream("endless")
    next(stream)
    stream.close()
    stream.close()
    assert not engine.requests and list(stream) == []
    with llm.stream("endless") as stream:
        next(stream)
    assert not engine.requests
    llm.stream("endless")  # never iterated
    gc.collect()
    assert not engine.requests
    chat = llm.stream_chat([{"role": "user", "content": "endless"}])
    next(chat)
    chat.close()
    assert not engine.requests


def test_cancel_from_another_thread_ends_what_runs(llm: DarwinNEG) -> None:
    threading.Timer(0.1, llm.cancel).start()
    assert llm.generate("endless").finish_reason == "cancelled"
    stream = llm.stream("endless")
    threading.Timer(0.05, stream.cancel).start()
    assert list(stream)[-1].finish_reason == "cancelled"
