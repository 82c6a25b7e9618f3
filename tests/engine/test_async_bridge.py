"""asyncio: many requests and loops over one thread. The engine is scripted (fake_core)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import DarwinNEG, RequestError


def test_hundreds_of_awaited_requests_need_one_thread(llm: DarwinNEG) -> None:
    async def main() -> list[Any]:
        before = threading.active_count()
        outs = await asyncio.gather(*(llm.agenerate(f"p{i}") for i in range(300)))
        assert threading.active_count() <= before + 1
        return outs

    assert [out.text for out in asyncio.run(main())] == [f"p{i} " for i in range(300)]
    assert not fake_core.Engine.last.requests


def test_astream_yields_chunks_and_agenerate_lists(llm: DarwinNEG) -> None:
    async def main() -> None:
        assert [chunk.text async for chunk in llm.astream("a b")] == ["a ", "b "]
        assert [[x.text for x in pair] for pair in await llm.agenerate(["a", "b"], n=2)] == [["a "] * 2, ["b "] * 2]
        with pytest.raises(RequestError):
            await llm.agenerate(["endless", ""])

    asyncio.run(main())
    assert not fake_core.Engine.last.requests


def test_conversations_are_answered_and_streamed_too(llm: DarwinNEG) -> None:
    user = [{"role": "user", "content": "thinker"}]

    async def main() -> None:
        reply = await llm.achat(user)
        assert (reply.reasoning, reply.text, reply.finish_reason) == ("hm", "42", "stop")
        assert [one.text for one in await llm.achat(user, n=2, temperature=0.5)] == ["42", "42"]
        parts = [part async for part in llm.astream_chat(user, enable_thinking=False)]
        assert "".join(part.reasoning for part in parts) == "hm" and "".join(part.text for part in parts) == "42"
        assert fake_core.calls("template")[-1]["enable_thinking"] is False
        with pytest.raises(RequestError, match="n must be 1 for astream_chat; use achat"):
            llm.astream_chat(user, n=2)
        with pytest.raises(RequestError, match="non-empty list"):
            await llm.achat([])
        # leaving a stream cancels its request
        async with contextlib.aclosing(llm.astream_chat([{"role": "user", "content": "endless"}])) as stream:
            assert (await anext(stream)).text == "x "

    asyncio.run(main())
    assert not fake_core.Engine.last.requests


def test_hundreds_of_awaited_conversations_need_one_thread(llm: DarwinNEG) -> None:
    async def main() -> list[Any]:
        before = threading.active_count()
        outs = await asyncio.gather(*(llm.achat([{"role": "user", "content": f"p{i}"}]) for i in range(100)))
        assert threading.active_count() <= before + 1
        return outs

    assert [out.text for out in asyncio.run(main())] == [f"p{i} " for i in range(100)]


def test_cancelling_the_task_cancels_the_request(llm: DarwinNEG) -> None:
    async def main() -> None:
        task = asyncio.create_task(llm.agenerate("endless"))
        await asyncio.sleep(0.05)
        assert len(fake_core.Engine.last.requests) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not fake_core.Engine.last.requests

    asyncio.run(main())


def test_closing_the_model_ends_waiting_tasks_as_cancelled(llm: DarwinNEG) -> None:
    async def main() -> None:
        task = asyncio.create_task(llm.agenerate("endless"))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(llm.close)
        assert (await asyncio.wait_for(task, 5)).finish_reason == "cancelled"

    asyncio.run(main())


def test_two_event_loops_share_the_bridge(llm: DarwinNEG) -> None:
    texts: list[str] = []

    async def one(name: str) -> None:
        texts.append((await llm.agenerate(name)).text)

    threads = [threading.Thread(target=lambda k=k: asyncio.run(one(f"t{k}"))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(texts) == ["t0 ", "t1 ", "t2 ", "t3 "]


def test_llama_log_goes_to_logging_from_awaited_requests_too(llm: DarwinNEG, caplog: pytest.LogCaptureFixture) -> None:
    async def stream() -> None:
        async for _ in llm.astream("a"):
            pass

    for run in (lambda: llm.agenerate("a"), stream):
        caplog.clear()
        with caplog.at_level(logging.INFO, "darwin_neg_cpp.llama"):
            asyncio.run(run())
        assert ("darwin_neg_cpp.llama", logging.INFO, "a line of llama.cpp") in caplog.record_tuples


def test_nothing_is_kept_of_requests_and_loops_that_have_ended(llm: DarwinNEG) -> None:
    async def abandoned() -> None:
        task = asyncio.create_task(llm.agenerate("endless"))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    for _ in range(3):
        asyncio.run(llm.agenerate(["a", "b"]))
        asyncio.run(abandoned())
    assert llm.session.open_bridge()._loops == {}
