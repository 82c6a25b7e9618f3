"""An answer that continues the last message: the prompt is that of transformers, and the reply holds what is new."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import TinyQwen
from darwin_neg_cpp import DarwinNEG, RequestError

USER = {"role": "user", "content": "What is six times seven?"}
BEGUN = [USER, {"role": "assistant", "content": "It is"}]
TEMPLATES = (
    "Qwen3.5-4B", "Qwen-Qwen3-0.6B", "Qwen-QwQ-32B", "google-gemma-2-2b-it", "meta-llama-Llama-3.2-3B-Instruct",
    "mistralai-Mistral-Nemo-Instruct-2407", "microsoft-Phi-3.5-mini-instruct", "openai-gpt-oss-120b",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "NVIDIA-Nemotron-Nano-v2", "GLM-4.6", "LFM2-8B-A1B",
)  # fmt: skip


@pytest.fixture(scope="module")
def llm(tiny_qwen: TinyQwen) -> Iterator[DarwinNEG]:
    with DarwinNEG(tiny_qwen.model, n_ctx=1024, n_threads=1) as model:
        yield model


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_that_of_transformers(llama_tree: Path, tiny_llama: Path, name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (llama_tree / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
    conversations = [
        BEGUN,
        [USER, {"role": "assistant", "content": "It is \n"}],
        [USER, {"role": "assistant", "content": "It is", "reasoning_content": "Six sevens."}],
        [USER, {"role": "assistant", "content": "42"}, USER, {"role": "assistant", "content": "Still,\nit is"}],
    ]
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, chat_template=source) as llm:
        for messages in conversations:
            ((expected,), _) = render_jinja_template(
                conversations=[messages],
                chat_template=source,
                continue_final_message=True,
                bos_token="<s>",
                eos_token="</s>",
                enable_thinking=True,
            )
            text = llm.apply_chat_template(messages, continue_final_message=True, enable_thinking=True)
            # the model wants a start token, also where its template does not write it
            assert text == "<s>" + expected.removeprefix("<s>")
            assert llm.chat_tokens(messages, continue_final_message=True, enable_thinking=True) == llm.tokenize(
                text, add_special=False
            )


def test_only_what_is_new_is_the_reply(llm: DarwinNEG) -> None:
    options: dict[str, Any] = {"grammar": 'root ::= " 42, of course."', "max_tokens": 60, "temperature": 0.0}
    reply = llm.chat(BEGUN, continue_final_message=True, **options)
    assert (reply.text, reply.reasoning, reply.finish_reason) == (" 42, of course.", "", "stop")
    tokens = llm.chat_tokens(BEGUN, continue_final_message=True)
    assert reply.generation.prompt_tokens == len(tokens)
    assert [one.text for one in llm.chat(BEGUN, n=2, continue_final_message=True, **options)] == [reply.text] * 2
    parts = list(llm.stream_chat(BEGUN, continue_final_message=True, **options))
    assert len(parts) > 3 and "".join(part.text for part in parts) == reply.text
    cut = llm.chat(BEGUN, continue_final_message=True, stop=[","], **options)
    assert (cut.text, cut.finish_reason, cut.generation.stop) == (" 42", "stop", ",")

    async def main() -> list[str]:
        whole = await llm.achat(BEGUN, continue_final_message=True, **options)
        stream = llm.astream_chat(BEGUN, continue_final_message=True, **options)
        return [whole.text, "".join([part.text async for part in stream])]

    assert asyncio.run(main()) == [reply.text] * 2


def test_a_message_with_reasoning_is_continued_after_it_or_inside_it(llm: DarwinNEG) -> None:
    options: dict[str, Any] = {"max_tokens": 80, "temperature": 0.0}
    message = {"role": "assistant", "content": "It is", "reasoning_content": "Six sevens."}
    reply = llm.chat([USER, message], continue_final_message=True, grammar='root ::= " 42."', **options)
    assert (reply.text, reply.reasoning) == (" 42.", "")
    message = {"role": "assistant", "content": "", "reasoning_content": "Six"}
    grammar = 'root ::= " sevens.\\n</think>\\n\\nIt is 42."'
    field = "reasoning_content"
    text = llm.apply_chat_template([USER, message], continue_final_message=field)
    assert text.endswith("<|im_start|>assistant\n<think>\nSix")
    reply = llm.chat([USER, message], continue_final_message=field, grammar=grammar, **options)
    assert (reply.reasoning.rstrip(), reply.text) == (" sevens.", "It is 42.")


def test_where_answers_start_as_reasoning_a_begun_text_is_still_continued_as_text(
    llama_tree: Path, tiny_llama: Path
) -> None:
    source = (llama_tree / "models" / "templates" / "Qwen-QwQ-32B.jinja").read_text("utf-8")
    options: dict[str, Any] = {"grammar": 'root ::= " 42, of course."', "stop": [","], "max_tokens": 40}
    options["enable_thinking"] = True
    with DarwinNEG(tiny_llama, n_ctx=512, n_parallel=2, n_threads=1, chat_template=source) as llm:
        assert llm.apply_chat_template([USER], enable_thinking=True).endswith("<think>\n")
        for reply in llm.chat(BEGUN, n=2, continue_final_message=True, reasoning_budget_tokens=3, **options):
            assert (reply.text, reply.reasoning, reply.generation.stop) == (" 42", "", ",")
        tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
        with pytest.raises(RequestError, match="continue_final_message and tools are both given"):
            llm.chat(BEGUN, continue_final_message=True, tools=tools)


def test_a_schema_is_one_of_what_is_new(llm: DarwinNEG) -> None:
    schema = {"enum": ["a", "b"]}
    message = {"role": "assistant", "content": "As JSON: "}
    for thinking in (True, False):
        reply = llm.chat(
            [USER, message], continue_final_message=True, enable_thinking=thinking, json_schema=schema, max_tokens=20
        )
        assert reply.finish_reason == "stop" and json.loads(reply.text) in ("a", "b")


@pytest.mark.parametrize(
    "content", ["It is", [{"type": "text", "text": "It"}, {"type": "text", "text": " is"}]], ids=["text", "parts"]
)
def test_the_text_of_a_message_may_come_in_parts(llm: DarwinNEG, content: Any) -> None:
    text = llm.apply_chat_template([USER, {"role": "assistant", "content": content}], continue_final_message=True)
    assert text.endswith("is") and "It" in text[-6:]


@pytest.mark.parametrize(
    ("messages", "options", "message"),
    [
        (BEGUN, {"continue_final_message": "yes"}, "must be True, False, or one of content, reasoning_content"),
        (BEGUN, {"continue_final_message": 1}, "must be True, False, or one of content, reasoning_content"),
        (BEGUN, {"continue_final_message": True, "add_generation_prompt": True}, "are both given"),
        ([USER, {"role": "assistant", "content": "a", "tool_calls": [{}]}], {}, "holds tool calls"),
        ([USER, {"role": "assistant", "content": []}], {}, 'no text in "content"'),
        (BEGUN, {"continue_final_message": "reasoning_content"}, 'no text in "reasoning_content"'),
        ([], {}, "non-empty list"),
    ],
)
def test_what_cannot_be_continued_is_refused(
    llm: DarwinNEG, messages: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        llm.apply_chat_template(messages, **{"continue_final_message": True, **options})
    assert "\n" not in str(raised.value)


def test_a_template_that_leaves_the_message_out_cannot_continue_it(tiny_llama: Path) -> None:
    with (
        DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, chat_template="{{ messages[0].content }}") as llm,
        pytest.raises(RequestError, match="does not show the end of the last message's content"),
    ):
        llm.chat(BEGUN, continue_final_message=True)
