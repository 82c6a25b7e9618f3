"""Many requests at once, some good, some bad, some cancelled: nobody disturbs anybody and nothing stays occupied."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time

import psutil
import pytest

from darwin_neg_cpp import ContextFullError, DarwinNEG, DarwinNegError, RequestError, SamplingParams

# what is wrong, and what the request is refused with at once; None: it ends when no token is left to choose
BAD = [
    ({"prompt": "word " * 2000}, ContextFullError, "1024"),
    ({"grammar": "root ::= ("}, RequestError, "grammar"),
    ({"logit_bias": {10**8: 1.0}}, RequestError, "vocabulary"),
    ({"grammar": 'root ::= "\u0001\u0002"', "logit_bias": dict.fromkeys(range(1000), -math.inf)}, None, ""),
]


@pytest.mark.slow
def test_two_hundred_mixed_requests_over_eight_sequences(smollm2):
    rng = random.Random(4)
    # prefixes are kept in the context alone, so that the process must not grow
    with DarwinNEG(smollm2.model, n_ctx=1024, n_parallel=8, prefix_cache_bytes=0) as llm:
        session = llm.session
        inbox = session.open_inbox()

        def wave() -> dict[str, int]:
            good, cancelled, impossible, refused, stopped = [], [], [], 0, 0
            for i in range(200):
                kind = rng.choice(["good", "good", "cancel", "bad"])
                words = "hello " * rng.randint(1, 60)
                if kind == "bad":
                    bad, error, said = rng.choice(BAD)
                    bad = dict(bad)
                    prompt = llm.tokenize(bad.pop("prompt", words))
                    params = SamplingParams(max_tokens=8, **bad)
                    if error is None:  # impossible only once it runs
                        impossible.append(session.submit([prompt], params, inbox, "request"))
                    else:
                        with pytest.raises(error, match=said):
                            session.submit([prompt], params, inbox, "request")
                    refused += 1
                    continue
                params = SamplingParams(
                    max_tokens=rng.randint(1, 24), n=rng.choice([1, 1, 1, 3, 10]), seed=i, ignore_eos=True
                )
                request = session.submit([llm.tokenize(words)], params, inbox, "request")
                (cancelled if kind == "cancel" else good).append((request, params))
            for request, _ in rng.sample(cancelled, len(cancelled)):
                time.sleep(rng.random() * 0.02)
                request.cancel()
            last = {}
            while len(last) < len(good) + len(cancelled) + len(impossible):
                update = inbox.wait()
                assert update["finished"] and update["request"] not in last
                last[update["request"]] = update
            for request, params in good + cancelled:
                update = last[request.ids[0]]
                reasons = {sample["finish_reason"] for sample in update["samples"]}
                assert len(update["samples"]) == params.n
                if (request, params) in good:
                    assert reasons == {"length"}
                    assert all(len(sample["token_ids"]) == params.max_tokens for sample in update["samples"])
                else:
                    assert reasons <= {"length", "cancelled"}
                    stopped += "cancelled" in reasons
                request.release()
            for request in impossible:
                update = last[request.ids[0]]
                assert [sample["finish_reason"] for sample in update["samples"]] == ["refused"]
                assert "no token" in update["samples"][0]["error"]
                request.release()
            assert stopped > len(cancelled) // 2 and len(impossible) > 3
            stats = llm.stats()
            assert (stats["n_seq_used"], stats["kv_cells_used"], stats["n_waiting"], stats["n_running"]) == (0, 0, 0, 0)
            return {"good": len(good), "cancelled": len(cancelled), "refused": refused}

        counts = wave()
        assert min(counts.values()) >= 30
        level = psutil.Process().memory_info().rss
        wave()
        assert psutil.Process().memory_info().rss - level < 32 << 20


def test_failing_grammar_in_a_batch_fails_alone(smol):
    ban = dict.fromkeys(range(smol.info["n_vocab"]), -math.inf)
    stream = smol.stream("The capital of France is", temperature=0.0, max_tokens=60, ignore_eos=True)
    shown = next(stream).text
    with pytest.raises(RequestError, match="no token"):
        smol.generate("Hello", grammar="root ::= [a-z]+", logit_bias=ban, max_tokens=8)
    assert smol.stats()["n_running"] == 1, "the good one was running all the while"
    rest = list(stream)
    assert (shown + "".join(chunk.text for chunk in rest)).startswith(" Paris")
    assert rest[-1].finish_reason == "length"


def test_closing_a_stream_frees_its_place_at_once(smol):
    stream = smol.stream("Once upon a time", max_tokens=1000, ignore_eos=True)
    next(stream)
    assert smol.stats()["n_running"] == 1
    stream.close()
    for _ in range(100):
        if smol.stats()["n_seq_used"] == 0:
            return
        time.sleep(0.02)
    pytest.fail("the place is still occupied two seconds after the stream was closed")


def test_hundred_async_requests_share_one_thread(smol):
    async def main() -> list[int]:
        before = threading.active_count()
        jobs = [smol.agenerate(f"Number {i} is", max_tokens=6, temperature=0.0, ignore_eos=True) for i in range(100)]
        running = asyncio.gather(*jobs)
        await asyncio.sleep(0.05)
        assert threading.active_count() <= before + 1
        return [len(result.token_ids) for result in await running]

    assert asyncio.run(main()) == [6] * 100


def test_cancelling_a_task_cancels_its_request(smol):
    async def main() -> None:
        task = asyncio.ensure_future(smol.agenerate("Once", max_tokens=1500, ignore_eos=True))
        await asyncio.sleep(0.2)
        assert smol.stats()["n_running"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        text = ""
        async for chunk in smol.astream("The capital of France is", max_tokens=8, temperature=0.0):
            text += chunk.text
        assert "Paris" in text

    asyncio.run(main())
    time.sleep(0.1)
    assert smol.stats()["n_seq_used"] == 0


def test_close_ends_what_runs_and_later_use_is_refused(smollm2):
    llm = DarwinNEG(smollm2.model, n_ctx=1024, n_parallel=2)
    outcome: list[object] = []

    def work() -> None:
        try:
            outcome.append(llm.generate("Once", max_tokens=900, ignore_eos=True).finish_reason)
        except DarwinNegError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    llm.close()
    llm.close()
    thread.join(timeout=10)
    assert not thread.is_alive() and outcome == ["cancelled"]
    with pytest.raises(DarwinNegError, match="closed"):
        llm.generate("x")


def test_the_prompts_of_one_call_begin_in_one_step(smol):
    before = smol.stats()["n_steps"]
    results = smol.generate([f"number {i} is" for i in range(8)], max_tokens=6, temperature=0.0, ignore_eos=True)
    assert [len(result.token_ids) for result in results] == [6] * 8
    assert smol.stats()["n_steps"] - before == 6
    asked = asyncio.run(smol.agenerate(["a", "b", "c"], max_tokens=6, temperature=0.0, ignore_eos=True))
    assert [len(result.token_ids) for result in asked] == [6] * 3
    assert smol.stats()["n_steps"] - before == 12
