"""Opening and closing a model, prompts and tokens, requests and their release. The engine is scripted (fake_core)."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import DarwinNEG, DarwinNegError, ModeConfig, ModelFileError, Question, RequestError
from darwin_neg_cpp.protocols.sampler import EngineSampler, Job
from fake_core import calls


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (b"bytes", "got bytes"),
        (None, "got NoneType"),
        ([], "got nothing in it"),
        ({"a": 1}, "got dict"),
        (["a", 3], "got int"),
        ([1.5], "got float"),
        ([True], "got bool"),
        ([[1, "a"]], "with a str in it"),
        ([256], "outside the vocabulary of 256"),
        ([-1], "outside the vocabulary"),
        ([2**70], "outside the vocabulary"),
        ([10**400], r"holds token 1000+\.\.\., outside the vocabulary"),
        ([10**5000], "holds token int, outside the vocabulary"),
        ("\ud800", "lone surrogate at character 0"),
        ("", "prompt has no tokens"),
    ],
)
def test_a_bad_prompt_is_refused(llm: DarwinNEG, prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompt)
    assert not fake_core.Engine.last.requests


def test_tokens_that_are_no_token_ids_are_refused(llm: DarwinNEG) -> None:
    for tokens, got in (("abc", "str"), ([1, "a"], "one with a str in it"), (None, "NoneType"), ([1.0], "float")):
        with pytest.raises(RequestError, match=rf"^tokens must be a list of token ids, got .*{got}"):
            llm.detokenize(tokens)  # type: ignore[arg-type]


def test_every_request_is_released(llm: DarwinNEG) -> None:
    llm.generate(["a", "b"])
    with pytest.raises(RequestError):
        llm.generate(["a", ""])
    assert not fake_core.Engine.last.requests


def test_what_stops_the_sampler_is_a_request_error_and_a_failed_decode_is_not(llm: DarwinNEG) -> None:
    with pytest.raises(RequestError, match="the sampler gave up"):
        llm.generate("boom")
    with pytest.raises(DarwinNegError, match="llama_decode failed") as raised:
        list(llm.stream("broken"))
    assert not isinstance(raised.value, RequestError)


@pytest.mark.parametrize("prompt", ["half", "halfbroken"])
def test_a_sample_that_fails_says_why_and_leaves_the_others_alone(llm: DarwinNEG, prompt: str) -> None:
    async def in_asyncio() -> list[Any]:
        several = await llm.agenerate(prompt, n=3)
        chunks = [chunk async for chunk in llm.astream(prompt, n=3)]
        return [several, [chunk for chunk in chunks if chunk.finish_reason is not None]]

    streamed = [chunk for chunk in llm.stream(prompt, n=3) if chunk.finish_reason is not None]
    for samples in (llm.generate(prompt, n=3), llm.chat([{"role": "user", "content": prompt}], n=3), streamed):
        assert [sample.finish_reason for sample in samples] == ["stop", "error", "stop"]
        assert [sample.error is None for sample in (getattr(x, "chunk", x) for x in samples)] == [True, False, True]
    assert [[sample.finish_reason for sample in samples] for samples in asyncio.run(in_asyncio())] == [
        ["stop", "error", "stop"]
    ] * 2
    samples = llm.generate(prompt, n=3)
    assert [sample.text for sample in samples] == ["one "] * 3, "also what the failed one had said before"
    assert samples[1].to_openai()["choices"][0]["error"] == samples[1].error
    assert not fake_core.Engine.last.requests


def test_a_prompt_that_fails_says_why_and_leaves_the_others_alone(llm: DarwinNEG) -> None:
    first, second = llm.generate(["fine", "boom"])
    assert (first.text, first.error, second.text, second.finish_reason) == ("fine ", None, "one", "error")
    assert second.error == "the sampler gave up"
    with pytest.raises(RequestError, match="the sampler gave up"):  # nothing else to return
        llm.generate(["boom", "boom"], n=2)
    with pytest.raises(RequestError, match="the sampler gave up"):
        asyncio.run(llm.agenerate("boom"))


def test_a_stream_that_fails_shows_what_there_was_and_then_raises(llm: DarwinNEG) -> None:
    for stream in (llm.stream("boom"), llm.stream_chat([{"role": "user", "content": "boom"}])):
        shown = ""
        with pytest.raises(RequestError, match="the sampler gave up"):
            for chunk in stream:
                shown += chunk.text
        assert shown == "one" and next(stream, None) is None


def test_candidates_that_were_refused_are_returned_and_a_fault_of_the_engine_is_raised(llm: DarwinNEG) -> None:
    sampler = EngineSampler(llm.session)
    for prompt, refused in (("half", 1), ("boom", 2)):
        sampler.start([Job(prompt, (0.0, 0.7), 1, False, ModeConfig())])
        outputs = [output for _, _, output in sampler.wait()]
        failed = [output for output in outputs if output.finish_reason == "error"]
        assert len(outputs) == 2 and [output.error for output in failed] == ["the sampler gave up"] * refused
    sampler.start([Job("halfbroken", (0.0, 0.7), 1, False, ModeConfig())])
    with pytest.raises(DarwinNegError, match="llama_decode failed"):
        sampler.wait()
    sampler.close()


def test_an_interrupt_while_waiting_releases_the_requests(llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake_core.Inbox, "wait", interrupted)
    for run in (lambda: llm.generate(["a", "b"]), lambda: next(llm.stream("a"))):
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not fake_core.Engine.last.requests


def test_nothing_polls(llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []
    original = fake_core.Inbox.wait

    def watched(self: Any, timeout: float | None = None) -> Any:
        timeouts.append(timeout)
        return original(self, timeout)

    async def stream() -> list[str]:
        return [chunk.text async for chunk in llm.astream("a")]

    monkeypatch.setattr(fake_core.Inbox, "wait", watched)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("something sleeps"))
    llm.generate(["a", "b"], n=2)
    list(llm.stream("a"))
    asyncio.run(stream())
    llm.answer(Question("Which?", ("a", "b")), mode=2)
    assert len(timeouts) > 5 and set(timeouts) == {None}


def test_a_thread_that_waits_gets_its_answer_when_the_model_is_closed(llm: DarwinNEG) -> None:
    answers: list[Any] = []
    messages = [{"role": "user", "content": "endless"}]
    threads = [
        threading.Thread(target=lambda: answers.append(llm.generate("endless"))),
        threading.Thread(target=lambda: answers.append(llm.chat(messages))),
        threading.Thread(target=lambda: answers.append(list(llm.stream("endless"))[-1])),
    ]
    for thread in threads:
        thread.start()
    while len(fake_core.Engine.last.requests) < 3:
        time.sleep(0.001)
    llm.close()
    for thread in threads:
        thread.join(10)
    assert [answer.finish_reason for answer in answers] == ["cancelled"] * 3
    assert not fake_core.Engine.last.requests


def test_close_is_idempotent_and_use_afterwards_says_so(llm: DarwinNEG) -> None:
    stream = llm.stream("endless")
    llm.close()
    llm.close()
    stream.close()
    assert len(calls("close")) == 1
    for use in (
        lambda: llm.generate("a"),
        lambda: llm.stream("a"),
        lambda: llm.tokenize("a"),
        llm.stats,
        llm.cancel,
        lambda: asyncio.run(llm.agenerate("a")),
    ):
        with pytest.raises(DarwinNegError, match="the model is closed"):
            use()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": None}, RequestError, "model must be a path"),
        ({"model": b"x"}, RequestError, "model must be a path"),
        ({"model": "/no/such.gguf"}, ModelFileError, "/no/such.gguf: no such file"),
        ({"model": "/"}, ModelFileError, "is a folder"),
        ({"model": "/dev/null"}, ModelFileError, "pipe or device"),
        ({"model": "a\0b"}, ModelFileError, "is not a valid file name"),
        ({"model": "\udcff"}, ModelFileError, "not valid UTF-8"),
        ({"neg": "/no/such.gguf"}, ModelFileError, "no such file"),
        ({"n_ctx": -1}, RequestError, "n_ctx must be between 0"),
        ({"n_ctx": "4096"}, RequestError, "n_ctx must be a whole number"),
        ({"n_parallel": 0}, RequestError, "n_parallel"),
        ({"n_threads": 513}, RequestError, "n_threads must be between 0 and 512"),
        ({"chat_template": "\ud800"}, RequestError, "chat_template holds a lone surrogate"),
        ({"flash_attn": True}, RequestError, "flash_attn must be text"),
    ],
)
def test_bad_model_options_are_refused_in_one_line(
    fake: type[fake_core.Engine], file: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        DarwinNEG(**{"model": file, **options})
    assert "\n" not in str(raised.value)


def test_progress_may_return_nothing_and_stops_on_false(fake: type[fake_core.Engine], file: Path) -> None:
    seen: list[float] = []
    DarwinNEG(file, progress=seen.append).close()
    assert seen == [1.0]
    with pytest.raises(DarwinNegError):
        DarwinNEG(file, progress=lambda fraction: False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_is_told_to_load_the_model_itself(llm: DarwinNEG) -> None:
    stream, sampler = llm.stream("endless"), EngineSampler(llm.session)
    sampler.start([Job("endless", (0.0,), 0, False, ModeConfig())])
    asyncio.run(llm.agenerate("a"))
    with pytest.warns(DeprecationWarning) if sys.version_info >= (3, 12) and threading.active_count() > 1 else _quiet():
        child = os.fork()
    if child == 0:
        code = 0
        for use in (
            lambda: llm.generate("a"),
            lambda: next(stream),
            sampler.wait,
            lambda: asyncio.run(llm.agenerate("a")),
        ):
            try:
                use()
                code = 1
            except DarwinNegError as error:
                code = code if "'spawn'" in str(error) else 2
        # must neither hang nor crash
        stream.close()
        sampler.close()
        llm.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _quiet() -> Any:
    import contextlib

    return contextlib.nullcontext()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_of_the_compiled_engine_is_told_so_too(tiny_llama: Path) -> None:
    script = """
import os, sys, warnings
from darwin_neg_cpp import DarwinNEG, DarwinNegError
warnings.simplefilter("ignore")
with DarwinNEG(sys.argv[1], n_ctx=64, n_parallel=1, n_threads=1) as llm:
    stream = llm.stream("ab", max_tokens=40)
    if os.fork() == 0:
        for use in (lambda: llm.generate("ab", max_tokens=2), lambda: next(stream), llm.close):
            try:
                use()
                print("done")
            except DarwinNegError as error:
                print("'spawn'" in str(error))
        stream.close()
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""
    command = [sys.executable, "-c", script, str(tiny_llama)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout.split()) == (0, ["True", "True", "done"]), result.stderr


def test_llama_log_goes_to_logging_and_is_silent_otherwise(
    llm: DarwinNEG, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "darwin_neg_cpp.llama"):
        llm.generate("a")
    assert ("darwin_neg_cpp.llama", logging.INFO, "a line of llama.cpp") in caplog.record_tuples
    assert capfd.readouterr() == ("", "")


def test_tokens_and_text(llm: DarwinNEG) -> None:
    assert llm.tokenize("ab") == [97, 98] and llm.detokenize([97, 255]) == "a\ufffd"
    with pytest.raises(RequestError, match="tokens holds token 256"):
        llm.detokenize([256])
    with pytest.raises(RequestError, match="text must be text"):
        llm.tokenize(b"ab")  # type: ignore[arg-type]
