"""Results in OpenAI's form. The engine is scripted (fake_core), or a tiny model whose tokens are single bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.engine import chat
from darwin_neg_cpp.results import ChatReply, Generation, TokenLogprobs, TokenText, ToolCall


def test_openai_objects_have_openai_names_and_are_json(llm: DarwinNEG) -> None:
    out = json.loads(json.dumps(llm.generate("a B", logprobs=1).to_openai(), allow_nan=False))
    assert out["object"] == "text_completion" and out["id"].startswith("cmpl-")
    choice = out["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["index"]) == ("a B ", "stop", 0)
    assert choice["logprobs"]["tokens"] == ["a ", "B "] and choice["logprobs"]["text_offset"] == [0, 2]
    assert out["usage"] == {
        "prompt_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens": 2,
        "total_tokens": 5,
    }
    assert choice["neg"]["active"] == [False, True]
    reply = llm.chat([{"role": "user", "content": "thinker"}], logprobs=0)
    out = json.loads(json.dumps(reply.to_openai(), allow_nan=False))
    assert out["object"] == "chat.completion" and out["id"].startswith("chatcmpl-")
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}
    assert out["choices"][0]["logprobs"]["content"][3]["token"] == "42"


def check_token(entry: dict[str, Any], *others: str) -> None:
    assert set(entry) == {"token", "logprob", "bytes", *others}
    assert type(entry["token"]) is str and type(entry["logprob"]) is float
    assert all(type(byte) is int and 0 <= byte < 256 for byte in entry["bytes"])


@pytest.fixture
def byte_model(tiny_llama: Path) -> Any:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with DarwinNEG(tiny_llama, n_ctx=256, n_parallel=2, n_threads=1, chat_template=template) as model:
        yield model


@pytest.mark.parametrize("k", [0, 3])
def test_every_token_of_a_chat_has_its_own_bytes_and_its_alternatives(byte_model: DarwinNEG, k: int) -> None:
    text = "안녕😀, é!"
    reply = byte_model.chat(
        [{"role": "user", "content": "a"}], grammar=f'root ::= "{text}"', temperature=0.0, max_tokens=40,
        logprobs=True, top_logprobs=k,
    )  # fmt: skip
    out = json.loads(json.dumps(reply.to_openai(), allow_nan=False))
    logprobs = out["choices"][0]["logprobs"]
    content = logprobs["content"]
    assert reply.text == text and len(content) == out["usage"]["completion_tokens"] == len(text.encode()) + 1
    for entry in content:
        check_token(entry, "top_logprobs")
        assert len(entry["top_logprobs"]) == k
        for top in entry["top_logprobs"]:
            check_token(top)
        values = [top["logprob"] for top in entry["top_logprobs"]]
        assert values == sorted(values, reverse=True)
    # a character of several tokens is put together from their bytes
    assert b"".join(bytes(entry["bytes"]) for entry in content) == text.encode()
    assert [content[0]["token"], content[0]["bytes"]] == ["\\xec", [0xEC]]
    # the end token has a name, and no bytes in the text
    assert (content[-1]["token"], content[-1]["bytes"]) == ("</s>", [])
    # ids stand beside the names, and both are of the same tokens
    top_bytes = [[byte_model.session.detokenize_bytes([i]) for i in row] for row in logprobs["top_token_ids"]]
    assert [[bytes(top["bytes"]) for top in entry["top_logprobs"]] for entry in content] == top_bytes


def test_a_greedy_token_is_the_first_of_its_alternatives(byte_model: DarwinNEG) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 30, "ignore_eos": True, "logprobs": 2}
    samples = byte_model.chat([{"role": "user", "content": "ab"}], n=2, **options)
    for sample in samples:
        for entry in sample.to_openai()["choices"][0]["logprobs"]["content"]:
            assert entry["top_logprobs"][0] == {name: entry[name] for name in ("token", "logprob", "bytes")}
    out = byte_model.generate(["ab", "cd"], **options)[0].to_openai()["choices"][0]
    logprobs = out["logprobs"]
    for token, value, tops in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        assert next(iter(tops.items())) == (token, value) and 1 <= len(tops) <= 2
    assert any(token.startswith("bytes:\\x") for token in logprobs["tokens"])


def test_a_chosen_token_that_is_none_of_the_likeliest_is_listed_in_completions(byte_model: DarwinNEG) -> None:
    out = byte_model.generate("a", grammar='root ::= "zzz"', max_tokens=8, logprobs=1).to_openai()["choices"][0]
    for token, value, tops in zip(*(out["logprobs"][key] for key in ("tokens", "token_logprobs", "top_logprobs")),
                                  strict=True):  # fmt: skip
        assert tops[token] == value
    bare = byte_model.generate("a", max_tokens=2, logprobs=0).to_openai()["choices"][0]
    assert bare["logprobs"]["top_logprobs"] is None and len(bare["logprobs"]["token_logprobs"]) == 2


def test_a_probability_of_nothing_is_openais_number_for_it() -> None:
    logprobs = TokenLogprobs(
        np.array([-math.inf], np.float32), np.array([[1]], np.int32), np.array([[math.nan]], np.float32),
        {1: TokenText(b"b", b"b"), 0: TokenText(b"a", b"a")},
    )  # fmt: skip
    sample = Generation("a", np.array([0], np.int32), "stop", None, logprobs, pieces=("a",))
    entry = chat.ChatReply("a", "", sample).to_openai()["choices"][0]["logprobs"]["content"][0]
    assert entry["logprob"] == -9999.0 and entry["top_logprobs"] == [{"token": "b", "logprob": -9999.0, "bytes": [98]}]
    assert sample.to_openai()["choices"][0]["logprobs"]["top_logprobs"] == [{"b": -9999.0, "a": -9999.0}]


TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": {
        "type": "object", "properties": properties, "required": list(properties)}}}
    for name, properties in (("weather", {"city": {"type": "string"}}), ("now", {}))
]  # fmt: skip
# template, and answers as its model writes them
ANSWERS = {
    "Qwen3.5-4B": [
        "six sevens\n</think>\n\nIt is 42.",
        "six sevens\n</think>\n\n",
        "six sev",
        "",
        "</think>\n\nI look.\n<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
        "</tool_call>",
        "</think>\n\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
    ],
    "Qwen-Qwen2.5-7B-Instruct": [
        "It is 42.",
        "",
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    ],
    "meta-llama-Llama-3.2-3B-Instruct": ["It is 42.", "", '{"name": "weather", "parameters": {"city": "Paris"}}'],
    "google-gemma-2-2b-it": ["It is 42.", ""],
    "mistralai-Mistral-Nemo-Instruct-2407": ["It is 42.", ""],
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ["six\n</think>\n\nIt is 42.", "six", ""],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_openais_form_can_be_the_next_message(llama_tree: Path, tiny_llama: Path, name: str) -> None:
    template = (llama_tree / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    user = {"role": "user", "content": "What is six times seven?"}
    found = 0
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, n_threads=1, chat_template=template) as llm:
        for answer in ANSWERS[name]:
            tools = {"tools": TOOLS} if "weather" in answer or "now" in answer else {}
            prompt = llm.session.render([user], **tools)
            for reason in ("stop", "length"):
                sample = Generation(answer, np.zeros(0, np.int32), reason, None)
                reply = chat.read_reply(llm.session.engine, prompt, sample)
                message = json.loads(json.dumps(reply.to_openai()))["choices"][0]["message"]
                # as a client's library hands it on, with the fields that are not set
                message = {"refusal": None, "annotations": None, "audio": None, "tool_calls": None} | message
                after = [
                    {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
                    for call in message["tool_calls"] or []
                ]
                found += len(after)
                text = llm.apply_chat_template([user, message, *(after or [user])], **tools)
                assert reply.text.strip() in text and ("rain" in text) == bool(after)
    assert (found > 0) == any("weather" in answer for answer in ANSWERS[name])


TEXT, CALL, CALLS = "It is 42.", (("weather", '{"city": "Paris"}'),), (("weather", '{"city": "Paris"}'), ("now", "{}"))
# template, and whether it shows text beside calls, and several calls
SHOWN_BACK = {
    "Qwen3.5-4B": (True, True),
    "Qwen-QwQ-32B": (True, True),
    "openai-gpt-oss-120b": (True, False),
    "Cohere2MoE": (False, True),
    "deepseek-ai-DeepSeek-V3.2": (True, True),
    "mistralai-Ministral-3-14B-Reasoning-2512": (True, True),
    "unsloth-mistral-Devstral-Small-2507": (True, True),
    "meta-llama-Llama-3.1-8B-Instruct": (False, False),
}


@pytest.mark.parametrize("name", SHOWN_BACK)
def test_whatever_an_answer_holds_it_renders_as_a_message(llama_tree: Path, tiny_llama: Path, name: str) -> None:
    template = (llama_tree / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    beside_calls, several = SHOWN_BACK[name]
    user = {"role": "user", "content": "What is six times seven?"}
    logprobs = TokenLogprobs(np.zeros(1, np.float32), np.array([[7]], np.int32), np.zeros((1, 1), np.float32), {})
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, n_threads=1, chat_template=template) as llm:
        for text, reasoning, calls in (
            *((TEXT, "", ()), (TEXT, "six sevens", ()), ("", "six sevens", ()), ("", "", ())),
            *((TEXT, "", CALL), ("", "six sevens", CALL), ("", "", CALLS if several else CALL)),
        ):
            sample = Generation("raw", np.zeros(1, np.int32), "stop", None, logprobs, pieces=("raw",), index=1)
            ids = chat.unique_ids([""] * len(calls))
            reply = ChatReply(
                text, reasoning, sample, tuple(ToolCall(i, *call) for i, call in zip(ids, calls, strict=True))
            )
            message = json.loads(json.dumps(reply.to_openai(), allow_nan=False))["choices"][0]["message"]
            results = [{"role": "tool", "tool_call_id": i, "content": f"result {k}"} for k, i in enumerate(ids)]
            shown = llm.apply_chat_template([user, message, *(results or [user])], tools=TOOLS)
            if text and (beside_calls or not calls):
                assert text in shown
            for k, (call_name, arguments) in enumerate(calls):
                assert f"result {k}" in shown and call_name in shown.partition("seven?")[2]
                assert "Paris" in shown or "Paris" not in arguments
