"""The Python API above the engine: arguments, streams, asyncio, chat, results. The engine is scripted (fake_core)."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darwin_neg_cpp
import fake_core
from darwin_neg_cpp import (
    DarwinNEG,
    DarwinNegError,
    ModelFileError,
    Neg,
    NegHeadError,
    RequestError,
    SamplingParams,
    hub,
    load_darwin_neg,
)
from darwin_neg_cpp.sampling import MAX_JSON_DEPTH, json_text, merge, submit_arguments


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[fake_core.Engine]:
    module = fake_core.module()
    monkeypatch.setitem(sys.modules, "darwin_neg_cpp._core", module)
    monkeypatch.setattr(darwin_neg_cpp, "_core", module, raising=False)
    return fake_core.Engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def llm(fake: type[fake_core.Engine], file: Path) -> Iterator[DarwinNEG]:
    with DarwinNEG(file) as model:
        yield model


def calls(name: str) -> list[Any]:
    return [value for kind, value in fake_core.Engine.last.calls if kind == name]


# --- importing


def test_import_loads_neither_the_engine_nor_numpy() -> None:
    code = "import sys, darwin_neg_cpp; print([m for m in ('numpy', 'darwin_neg_cpp._core') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_exported_name_exists() -> None:
    for name in darwin_neg_cpp.__all__:
        assert getattr(darwin_neg_cpp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = darwin_neg_cpp.nonsense


# --- arguments

BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": math.nan}, "temperature must be a finite number"),
    ({"temperature": math.inf}, "temperature must be a finite number"),
    ({"temperature": -0.1}, "temperature must be at least 0"),
    ({"temperature": "1"}, "temperature must be a number"),
    ({"temperature": 10**400}, "temperature must be a finite number"),
    ({"max_tokens": -1}, r"max_tokens .*None: no limit"),
    ({"max_tokens": 2**31}, "max_tokens must be between 0 and 2147483647"),
    ({"max_tokens": 1.0}, "max_tokens must be a whole number"),
    ({"max_tokens": True}, "max_tokens must be a whole number"),
    ({"max_tokens": 1, "max_new_tokens": 2}, "max_tokens and max_new_tokens are both given"),
    ({"top_k": -1}, "top_k"),
    ({"top_p": 1.01}, "top_p must be between 0 and 1"),
    ({"min_p": -0.1}, "min_p must be between 0 and 1"),
    ({"typical_p": math.nan}, "typical_p"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repeat_last_n": -2}, "repeat_last_n"),
    ({"frequency_penalty": math.inf}, "frequency_penalty"),
    ({"presence_penalty": None}, "presence_penalty must be a number"),
    ({"seed": -1}, r"seed .*None: draw one"),
    ({"seed": 2**63}, "seed"),
    ({"n": 0}, "n must be between 1 and 4096"),
    ({"n": 4097}, "n must be between 1 and 4096"),
    ({"logprobs": -1}, "logprobs"),
    ({"stop": 3}, "stop must be a string or a list of strings"),
    ({"stop": [b"x"]}, "stop must be text"),
    ({"stop": ["a", ""]}, "stop holds an empty string"),
    ({"stop": "\ud800"}, "stop holds a lone surrogate"),
    ({"grammar": 3}, "grammar must be text"),
    ({"grammar": "\ud800"}, "grammar holds a lone surrogate"),
    ({"grammar": "x", "json_schema": {}}, "grammar and json_schema are both given"),
    ({"json_schema": "{"}, "json_schema is not valid JSON"),
    ({"json_schema": "[]"}, "json_schema must be a dict"),
    ({"json_schema": {"a": {1, 2}}}, "json_schema cannot be written as JSON"),
    ({"json_schema": {"a": math.nan}}, "json_schema cannot be written as JSON"),
    ({"json_schema": {"a": "\ud800"}}, "json_schema holds a lone surrogate"),
    ({"json_schema": "[" * 100_000}, "json_schema is nested deeper than 100 levels"),
    ({"json_schema": {"a": "x" * 1_000_000}}, "json_schema is larger than 1,000,000 bytes"),
    ({"logit_bias": [1]}, "logit_bias must be a dict"),
    ({"logit_bias": {"a": 1}}, "logit_bias: token id must be a whole number"),
    ({"logit_bias": {-1: 1}}, "logit_bias: token id"),
    ({"logit_bias": {1: math.inf}}, "logit_bias of token 1 must be a number or -inf"),
    ({"logit_bias": {1: math.nan}}, "logit_bias of token 1 must be a number or -inf"),
    ({"ignore_eos": 1}, "ignore_eos must be True or False"),
    ({"neg": "mask"}, r"write neg=Neg\(\.\.\.\)"),
    ({"nonsense": 1}, "unknown option 'nonsense'; known are"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_a_bad_option_is_refused_in_one_line_that_names_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        submit_arguments(merge(None, options), stream=False)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enabled": 1}, "neg.enabled"),
        ({"threshold": -1.0}, "neg.threshold must be at least 0"),
        ({"threshold": math.nan}, "neg.threshold"),
        ({"top_k": 0}, "neg.top_k must be between 1"),
        ({"use_temp_scale": 1}, "neg.use_temp_scale"),
        ({"action": "drop"}, "neg.action must be 'mask', 'sample' or 'off'"),
    ],
)
def test_a_bad_gate_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Neg(**options)


def test_a_schema_that_contains_itself_is_refused() -> None:
    schema: dict[str, Any] = {}
    schema["properties"] = {"again": schema}
    with pytest.raises(RequestError, match="nested deeper"):
        SamplingParams(json_schema=schema)


def test_json_may_be_as_deep_as_the_limit_and_no_deeper() -> None:
    value: Any = 1
    for _ in range(MAX_JSON_DEPTH - 1):
        value = [value]
    assert json_text("x", value).count("[") == MAX_JSON_DEPTH - 1
    with pytest.raises(RequestError, match="nested deeper"):
        json_text("x", [value])


def test_numpy_numbers_are_numbers() -> None:
    params = merge(
        None, {"temperature": np.float32(0.5), "max_tokens": np.int64(3), "logit_bias": {np.int32(1): np.float64(2)}}
    )
    args = submit_arguments(params, stream=False)
    assert (args["temperature"], args["max_tokens"], args["logit_bias"]) == ([0.5], 3, [(1, 2.0)])


def test_options_override_params_and_max_new_tokens_is_an_alias() -> None:
    params = merge(SamplingParams(max_tokens=1, top_k=7), {"max_new_tokens": 9})
    assert (params.max_tokens, params.top_k) == (9, 7)
    with pytest.raises(RequestError, match="params must be a SamplingParams"):
        merge({"top_k": 1}, {})  # type: ignore[arg-type]


def test_unset_values_reach_the_engine_as_its_words_for_unset() -> None:
    args = submit_arguments(SamplingParams(), stream=False)
    assert (args["max_tokens"], args["seed"], args["logprobs"], args["neg_action"]) == (-1, -1, -1, "default")
    assert (args["neg_threshold"], args["neg_top_k"], args["neg_use_temp_scale"]) == (None, 0, -1)


@pytest.mark.parametrize(
    ("neg", "action"),
    [(Neg(), "mask"), (Neg(enabled=False), "off"), (Neg(action="sample"), "sample"), (Neg(action="off"), "off")],
)
def test_gate_settings_reach_the_engine(neg: Neg, action: str) -> None:
    assert submit_arguments(SamplingParams(neg=neg), stream=False)["neg_action"] == action


# --- prompts


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
        ("\ud800", "lone surrogate at character 0"),
        ("", "prompt has no tokens"),
    ],
)
def test_a_bad_prompt_is_refused(llm: DarwinNEG, prompt: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.generate(prompt)
    assert not fake_core.Engine.last.requests


def test_the_shape_of_the_result_follows_the_prompt_and_n(llm: DarwinNEG) -> None:
    assert llm.generate("a b").text == "a b "
    assert [one.index for one in llm.generate("a", n=3)] == [0, 1, 2]
    assert [one.text for one in llm.generate(["a", "b"])] == ["a ", "b "]
    assert [[one.text for one in two] for two in llm.generate(["a", "b"], n=2)] == [["a ", "a "], ["b ", "b "]]
    assert llm.generate(list(b"a b")).text == "a b "
    assert llm.generate(np.frombuffer(b"a b", np.uint8)).text == "a b "
    assert [one.text for one in llm.generate([[97], [98]])] == ["a ", "b "]


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


# --- results


def test_results_carry_entropy_gate_and_seed(llm: DarwinNEG) -> None:
    out = llm.generate("a b C D", logprobs=2)
    assert out.neg.entropy.dtype == np.float32 and len(out.neg.entropy) == len(out.token_ids) == len(out.pieces) == 4
    assert out.neg.active.tolist() == [False, False, True, True]
    assert (out.neg.activation_rate, out.neg.mean_entropy, out.seed) == (0.5, 1.0, 7)
    assert out.logprobs.top.shape == (4, 2)


def test_without_a_head_there_is_no_trace_and_gate_options_are_refused(
    llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(fake_core.Engine, "with_neg", False)
    with DarwinNEG(file) as bare:
        assert bare.neg is None and bare.generate("a").neg is None
        with pytest.raises(NegHeadError):
            bare.generate("a", neg=Neg())


def test_openai_objects_have_openai_names_and_are_json(llm: DarwinNEG) -> None:
    out = json.loads(json.dumps(llm.generate("a B", logprobs=1).to_openai(), allow_nan=False))
    assert out["object"] == "text_completion" and out["id"].startswith("cmpl-")
    choice = out["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["index"]) == ("a B ", "stop", 0)
    assert choice["logprobs"]["tokens"] == ["a ", "B "] and choice["logprobs"]["text_offset"] == [0, 2]
    assert out["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert choice["neg"]["active"] == [False, True]
    reply = llm.chat([{"role": "user", "content": "thinker"}], logprobs=0)
    out = json.loads(json.dumps(reply.to_openai(), allow_nan=False))
    assert out["object"] == "chat.completion" and out["id"].startswith("chatcmpl-")
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    assert out["choices"][0]["logprobs"]["content"][3]["token"] == "42"


# --- streams


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


def test_an_interrupt_while_waiting_releases_the_requests(llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, request_id: int, timeout: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake_core.Engine, "wait", interrupted)
    for run in (lambda: llm.generate(["a", "b"]), lambda: next(llm.stream("a"))):
        with pytest.raises(KeyboardInterrupt):
            run()
        assert not fake_core.Engine.last.requests


def test_no_wait_keeps_the_thread_from_ctrl_c_for_long(llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = []
    original = fake_core.Engine.wait

    def watched(self: Any, request_id: int, timeout: float) -> Any:
        longest.append(timeout)
        return original(self, request_id, timeout)

    monkeypatch.setattr(fake_core.Engine, "wait", watched)
    llm.generate("a")
    list(llm.stream("a"))
    assert 0 < max(longest) <= 0.1


# --- asyncio


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


def test_closing_the_model_ends_waiting_tasks_with_an_error(llm: DarwinNEG) -> None:
    async def main() -> None:
        task = asyncio.create_task(llm.agenerate("endless"))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(llm.close)
        with pytest.raises(DarwinNegError, match="closed"):
            await asyncio.wait_for(task, 5)

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


# --- chat


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "non-empty list"),
        ("hello", "non-empty list"),
        ({"role": "user"}, "non-empty list"),
        ([3], r"messages\[0\] must be a dict"),
        ([{"content": "x"}], r'messages\[0\] must be a dict with a "role"'),
        ([{"role": "user"}], r'messages\[0\] has no "content"'),
        ([{"role": "user", "content": 3}], '"content" must be text'),
        ([{"role": "user", "content": "\ud800"}], "messages holds a lone surrogate"),
        ([{"role": "user", "content": "x", "extra": {1}}], "messages cannot be written as JSON"),
    ],
)
def test_bad_messages_are_refused(llm: DarwinNEG, messages: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        llm.chat(messages)


def test_tools_and_template_arguments_are_checked_and_passed_on(llm: DarwinNEG) -> None:
    user = [{"role": "user", "content": "hi"}]
    for options, message in (
        ({"tools": 3}, "tools must be a list"),
        ({"tools": ["f"]}, "tools must be a list"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be a dict"),
    ):
        with pytest.raises(RequestError, match=message):
            llm.chat(user, **options)
    llm.chat(user, enable_thinking=False, tools=[{"type": "function"}], chat_template_kwargs={"a": 1})
    passed = calls("template")[-1]
    assert passed["enable_thinking"] is False and json.loads(passed["tools_json"]) == [{"type": "function"}]
    assert json.loads(passed["template_kwargs_json"]) == {"a": 1}


def test_reasoning_is_split_from_the_answer_and_streamed_apart(llm: DarwinNEG) -> None:
    user = [{"role": "user", "content": "thinker"}]
    reply = llm.chat(user)
    assert (reply.reasoning, reply.text, str(reply)) == ("hm", "42", "42")
    parts = list(llm.stream_chat(user))
    assert "".join(part.reasoning for part in parts) == "hm" and "".join(part.text for part in parts) == "42"
    assert [one.text for one in llm.chat(user, n=2)] == ["42", "42"]
    with pytest.raises(RequestError, match="n must be 1"):
        llm.stream_chat(user, n=2)


def test_a_schema_in_chat_goes_through_the_template(llm: DarwinNEG) -> None:
    llm.chat([{"role": "user", "content": "hi"}], json_schema={"type": "object"})
    assert json.loads(calls("template")[-1]["json_schema"]) == {"type": "object"}
    assert calls("submit")[-1]["json_schema"] == ""


# --- opening and closing


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
        ({"model": "a\0b"}, ModelFileError, "not a possible file name"),
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
    with pytest.warns(DeprecationWarning) if sys.version_info >= (3, 12) and threading.active_count() > 1 else _quiet():
        child = os.fork()
    if child == 0:
        code = 1
        try:
            llm.generate("a")
        except DarwinNegError as error:
            code = 0 if "before fork()" in str(error) else 2
        llm.close()  # must neither hang nor crash
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _quiet() -> Any:
    import contextlib

    return contextlib.nullcontext()


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


# --- repositories


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (["a.gguf", "README.md"], {}, "a.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf", "x.mmproj-Q8_0.gguf"], {"quant": "q4_k_m"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K"}, "m-Q4_K.gguf"),
        (["a.gguf", "b.gguf"], {"file": "b.gguf"}, "b.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], {}, "m-00001-of-00002.gguf"),
        (["m.gguf", "m.neg.gguf"], {}, "m.gguf"),
    ],
)
def test_the_model_file_of_a_repository_is_found(names: list[str], options: dict[str, str], found: str) -> None:
    assert hub.choose("a/b", names, **{"quant": None, "file": None, **options}) == found


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["model.safetensors", "neg_modules.safetensors"], {}, "neither a GGUF file nor a checkpoint"),
        (["a.gguf", "b.gguf"], {}, "has several GGUF files; choose one with quant= or file=: a.gguf, b.gguf"),
        (["a-Q4_0.gguf"], {"quant": "Q8_0"}, "has no file of quant Q8_0"),
        (["a.gguf"], {"file": "b.gguf"}, "has no file b.gguf; it has a.gguf"),
    ],
)
def test_a_repository_without_the_file_says_what_it_has(
    names: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        hub.choose("a/b", names, **{"quant": None, "file": None, **options})


def test_from_pretrained_takes_the_model_and_the_side_car_beside_it(
    fake: type[fake_core.Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    def download(repo: str, name: str, **_: Any) -> str:
        (tmp_path / name).write_bytes(b"GGUF")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["m.gguf", "m.neg.gguf"])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with load_darwin_neg("some/repo", hf_token="secret", n_ctx=64):
        assert fake_core.Engine.last.options["neg_path"] == str(tmp_path / "m.neg.gguf")
        assert fake_core.Engine.last.options["n_ctx"] == 64


def test_a_repository_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class TransportError(Exception):
        """Stands for the HTTP library's own class, which is no OSError."""

    def fail(*_: Any, **__: Any) -> None:
        raise TransportError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DarwinNegError, match="some/repo: cannot be downloaded: no route to host; check"):
        load_darwin_neg("some/repo")


def test_a_path_that_does_not_exist_is_no_repository(fake: type[fake_core.Engine]) -> None:
    for name in ("missing.gguf", "./missing", "/no/such/file"):
        with pytest.raises(ModelFileError, match="no such file"):
            load_darwin_neg(name)
