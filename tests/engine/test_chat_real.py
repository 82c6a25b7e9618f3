"""Chat through the family's own template: thinking on and off, reasoning apart from the answer, schemas, tools.

The model's weights are random, so a grammar makes it say what the test needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from conftest import TinyQwen
from darwin_neg_cpp import DarwinNEG, RequestError
from tiny_gguf import write_tiny_llama

USER = [{"role": "user", "content": "What is six times seven?"}]
THINKING = {"grammar": 'root ::= "six sevens\\n</think>\\n\\nIt is 42."', "max_tokens": 60, "temperature": 0.0}
PLAIN = {"grammar": 'root ::= "It is 42."', "max_tokens": 60, "temperature": 0.0}


@pytest.fixture(scope="module")
def llm(tiny_qwen: TinyQwen) -> Iterator[DarwinNEG]:
    with DarwinNEG(tiny_qwen.model, n_ctx=1024) as model:
        yield model


def test_thinking_is_switched_per_call(llm: DarwinNEG) -> None:
    assert llm.info["supports_thinking"]
    assert llm.apply_chat_template(USER, enable_thinking=True).endswith("<|im_start|>assistant\n<think>\n")
    assert llm.apply_chat_template(USER, enable_thinking=False).endswith("<think>\n\n</think>\n\n")


def test_reasoning_comes_apart_from_the_answer(llm: DarwinNEG) -> None:
    reply = llm.chat(USER, enable_thinking=True, **THINKING)
    assert (reply.reasoning.strip(), reply.text, reply.finish_reason) == ("six sevens", "It is 42.", "stop")
    reply = llm.chat(USER, enable_thinking=False, **PLAIN)
    assert (reply.reasoning, reply.text) == ("", "It is 42.")


def test_a_stream_adds_up_to_the_reply(llm: DarwinNEG) -> None:
    for thinking, options in ((True, THINKING), (False, PLAIN)):
        whole = llm.chat(USER, enable_thinking=thinking, **options)
        parts = list(llm.stream_chat(USER, enable_thinking=thinking, **options))
        assert "".join(part.text for part in parts) == whole.text
        assert "".join(part.reasoning for part in parts) == whole.reasoning
        assert [part.finish_reason for part in parts][-1] == "stop"
        assert sum(len(part.chunk.token_ids) for part in parts) == len(whole.token_ids)
        assert not any(part.text and part.reasoning.strip() for part in parts[:-1])


def test_an_answer_cut_off_while_thinking_is_all_reasoning(llm: DarwinNEG) -> None:
    reply = llm.chat(USER, enable_thinking=True, **{**THINKING, "max_tokens": 2})
    assert reply.finish_reason == "length" and reply.text == ""
    assert reply.reasoning and "six sevens".startswith(reply.reasoning.strip())


def test_a_schema_holds_after_the_reasoning(llm: DarwinNEG) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    ban = {token: -30.0 for text in (" ", "\n", "\t", "  ") for token in llm.tokenize(text)}
    reply = llm.chat(USER, enable_thinking=False, json_schema=schema, max_tokens=200, temperature=0.0, logit_bias=ban)
    assert reply.finish_reason == "stop" and set(json.loads(reply.text)) == {"a"}


def test_tools_reach_the_prompt(llm: DarwinNEG) -> None:
    function = {"name": "weather", "description": "Looks it up.", "parameters": {"type": "object", "properties": {}}}
    prompt = llm.apply_chat_template(USER, tools=[{"type": "function", "function": function}])
    assert '"name": "weather"' in prompt and "Looks it up." in prompt
    assert "weather" not in llm.apply_chat_template(USER)


def test_template_arguments_reach_the_template(tiny_qwen: TinyQwen) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}|{{ mood }}|"
    with DarwinNEG(tiny_qwen.model, n_ctx=256, chat_template=template) as llm:
        assert llm.apply_chat_template(USER, chat_template_kwargs={"mood": "glad"}).endswith("|glad|")


def test_what_a_template_cannot_render_is_a_request_error_of_one_line(llm: DarwinNEG, tiny_qwen: TinyQwen) -> None:
    for messages in (
        [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
        [{"role": "assistant", "content": "no user spoke"}],
    ):
        with pytest.raises(RequestError) as raised:
            llm.chat(messages, max_tokens=1)
        assert "\n" not in str(raised.value)
    with pytest.raises(RequestError, match="chat_template"):
        DarwinNEG(tiny_qwen.model, chat_template="{% if")


@pytest.mark.parametrize("begin", ["{{ bos_token }}", ""], ids=["template with start token", "template without"])
def test_a_conversation_has_one_start_token_wherever_its_tokens_are_made(tiny_llama, begin):
    template = begin + "{% for message in messages %}{{ message.content }}{% endfor %}"
    with DarwinNEG(tiny_llama, n_ctx=128, n_parallel=1, chat_template=template) as llm:
        user = [{"role": "user", "content": "hello"}]
        tokens = llm.chat_tokens(user)
        assert tokens == llm.tokenize("hello") and tokens.count(llm.info["bos"]) == 1
        assert llm.chat(user, max_tokens=1).generation.prompt_tokens == len(tokens)
        # in two steps, with and without special tokens, and as a prompt
        text = llm.apply_chat_template(user)
        assert text == "<s>hello"
        assert llm.tokenize(text, add_special=False) == llm.tokenize(text) == tokens
        assert llm.generate(text, max_tokens=1).prompt_tokens == len(tokens)
        assert llm.tokenize("<s><s>hello", add_special=False).count(llm.info["bos"]) == 2
        as_text = llm.tokenize("<s>hello", add_special=False, parse_special=False)
        assert llm.tokenize("<s>hello", parse_special=False) == [tokens[0], *as_text]


def test_an_answer_does_not_start_after_the_end_token_of_a_vocabulary_that_adds_one(tmp_path):
    template = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=template, add_eos=True)
    with DarwinNEG(model, n_ctx=128, n_parallel=1, n_threads=1) as llm:
        assert llm.tokenize("a")[-1] == llm.info["eos"], "else there is nothing to show"
        user = [{"role": "user", "content": "hi"}]
        texts = {
            "<s>[user]hi</s>[assistant]": {},
            "<s>[user]hi</s>": {"add_generation_prompt": False},
            "<s>[user]hi": {"continue_final_message": True},
        }
        for text, options in texts.items():
            assert llm.apply_chat_template(user, **options) == text
            assert llm.chat_tokens(user, **options) == llm.tokenize(text, add_special=False)
        for options in ({}, {"continue_final_message": True}):
            reply = llm.chat(user, max_tokens=1, **options)
            assert reply.generation.prompt_tokens == len(llm.chat_tokens(user, **options))
