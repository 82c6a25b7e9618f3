"""What becomes of an answer: reasoning, text and tool calls, with nothing lost, whatever a model writes.

A tiny model with random weights, in the chat templates of llama.cpp's tree; its vocabulary has one token for each byte
and for each tag.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.engine import chat
from darwin_neg_cpp.results import Chunk
from tiny_gguf import write_tiny_llama

TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_call>\n"]
TOOL_CALL, TOOL_CALL_LINE = (258 + TAGS.index(tag) for tag in ("<tool_call>", "<tool_call>\n"))
USER = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Looks it up.", "parameters": CITY}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
YES_OR_NO = 'root ::= "yes" | "no"'
XML = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'

Open = Callable[[str], DarwinNEG]


@pytest.fixture(scope="module")
def open_model(llama_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """open(name of a template): the model in that template, loaded once."""
    path = write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", tags=TAGS)
    models: dict[str, DarwinNEG] = {}

    def open_once(name: str) -> DarwinNEG:
        if name not in models:
            template = (llama_tree / "models" / "templates" / f"{name}.jinja").read_text("utf-8")
            # what a random model writes would depend on today's date
            template = re.sub(r"strftime_now\(.*?\)", '"2026-11-27"', template)
            models[name] = DarwinNEG(path, n_ctx=4096, n_parallel=2, n_threads=1, chat_template=template)
        return models[name]

    yield open_once
    for model in models.values():
        model.close()


# template, a call as its models write it, what a model has written before its visible text
FORMATS = [
    ("Qwen3.5-4B", XML, "hm\n</think>\n\n"),
    ("Qwen-QwQ-32B", HERMES, "hm</think>"),
    ("Qwen-Qwen3-0.6B", HERMES, ""),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", HERMES, ""),
    ("meta-llama-Llama-3.1-8B-Instruct", '{"name": "weather", "parameters": {"city": "Paris"}}', ""),
    (
        "mistralai-Mistral-Nemo-Instruct-2407",
        '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}]',
        "",
    ),
]


def streamed(llm: DarwinNEG, prompt: Any, answer: str) -> tuple[str, str, list[tuple[str, str]]]:
    """An answer read as it comes, a character at a time."""
    splitter = chat.StreamSplitter(llm.session.engine, prompt)
    reasoning, text, calls = "", "", []
    for i, character in enumerate(answer):
        reason: Any = "stop" if i + 1 == len(answer) else None
        part = splitter.add(Chunk(character, np.zeros(1, np.int32), (character,), None, finish_reason=reason))
        reasoning, text, calls = reasoning + part.reasoning, text + part.text, list(part.tool_calls)
    return reasoning, text, [(call.name, call.arguments) for call in calls]


@pytest.mark.parametrize(("template", "call", "before"), FORMATS, ids=[name for name, _, _ in FORMATS])
def test_what_is_no_complete_call_of_an_offered_tool_is_text(
    open_model: Open, template: str, call: str, before: str
) -> None:
    llm = open_model(template)
    prompt = llm.session.render(USER, tools=TOOLS, enable_thinking=True)
    broken = [call[:end] for end in (len(call) // 4, len(call) // 2, len(call) - 2)]
    unknown = call.replace("weather", "whether")
    tag = "".join(itertools.takewhile(lambda c: c not in "\n{", call)) or "{"
    cases = [
        *((text, text, 0) for text in ("Hello", f"Hello {tag} is a tag", f"{tag}{tag}", "a < b [ { <", unknown)),
        *((f"So: {part}", f"So: {part}", 0) for part in broken),
        (f"So: {unknown} or", f"So: {unknown} or", 0),
        (call, "", 1),
        (f"So: {call}", "So: ", 1),
        (f"{call} and bye", "and bye", 1),
        (f"{tag} is a tag. {call}", f"{tag} is a tag. ", 1),
        (f"{call}\n{call}", "", 2),
        (f"One {call} two {call} three", "One  two  three", 2),
    ]
    for answer, text, n_calls in cases:
        reasoning, shown, calls = chat.split(llm.session.engine, prompt, before + answer, partial=False)
        assert (reasoning.strip(), shown) == ("hm" if before else "", text), answer
        assert [(x.name, json.loads(x.arguments)) for x in calls] == [("weather", {"city": "Paris"})] * n_calls, answer
        assert len({x.id for x in calls} - {""}) == n_calls
        expected = (reasoning, shown, [(x.name, x.arguments) for x in calls])
        assert streamed(llm, prompt, before + answer) == expected, answer


def test_a_tag_in_a_thought_is_a_part_of_it(open_model: Open) -> None:
    llm = open_model("Qwen3.5-4B")
    prompt = llm.session.render(USER, tools=TOOLS)
    for answer, reasoning, text, n_calls in (
        ("six <tool_call> sevens\n</think>\n\nIt is 42.", "six <tool_call> sevens", "It is 42.", 0),
        ("six <tool_call> sevens", "six <tool_call> sevens", "", 0),
        (f"six {XML}", "six", "", 1),  # here a call may end the reasoning
        (f"six {XML[:40]}", "six", XML[:40], 0),
        ("six <", "six <", "", 0),
    ):
        got = chat.split(llm.session.engine, prompt, answer, partial=False)
        assert (got[0].strip(), got[1], len(got[2])) == (reasoning, text, n_calls), answer


@pytest.mark.parametrize("tool_choice", ["auto", "required"])
@pytest.mark.parametrize("counted", [{"type": "array", "minItems": 5000}, {"type": "string", "pattern": "^a{5000}$"}])
def test_counts_of_a_tool_beyond_what_a_grammar_may_have_are_blamed_on_the_tool(
    open_model: Open, counted: dict[str, Any], tool_choice: str
) -> None:
    parameters = {"type": "object", "properties": {"a": counted}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(RequestError) as raised:
        open_model("Qwen-Qwen2.5-7B-Instruct").chat(USER, max_tokens=2, tools=[tool], tool_choice=tool_choice)
    assert "tools repeats more than 2000 times" in str(raised.value) and "GBNF" not in str(raised.value)


def test_any_answer_keeps_all_its_letters_in_every_template(open_model: Open, llama_tree: Path) -> None:
    names = sorted(path.stem for path in (llama_tree / "models" / "templates").glob("*.jinja"))
    assert len(names) > 50
    for name in names[::4]:
        llm = open_model(name)
        try:
            prompt = llm.session.render(USER, tools=TOOLS)
        except RequestError as error:
            assert "the chat template does not show them" in str(error)
            prompt = llm.session.render(USER)
        for answer in ("Hello <tool_call> is a tag", "a < b { x [ y <", '{"name": "weather", "argum'):
            reasoning, text, calls = chat.split(llm.session.engine, prompt, answer, partial=False)
            assert sorted(reasoning + text) == sorted(answer) and not calls, (name, answer)


def test_calls_have_ids_by_which_a_tool_message_names_them(open_model: Open) -> None:
    assert chat.unique_ids(["a", "", "a", "b"])[::3] == ["a", "b"]
    made = [*chat.unique_ids([""] * 100), *chat.unique_ids(["x", "x"])]
    assert len(set(made)) == 102 and all(len(x) == 9 and x.isalnum() for x in made if x != "x")
    for template in ("mistralai-Mistral-Nemo-Instruct-2407", "Qwen3.5-4B"):
        llm = open_model(template)
        (call_id,) = chat.unique_ids([""])
        function = {"name": "weather", "arguments": '{"city": "Paris"}'}
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "type": "function", "function": function}],
        }
        text = llm.apply_chat_template([*USER, call, {"role": "tool", "tool_call_id": call_id, "content": "sunny"}])
        assert "sunny" in text and (text.count(call_id) == 2 or template == "Qwen3.5-4B")


@pytest.mark.parametrize("template", ["Qwen3.5-4B", "Qwen-QwQ-32B", "Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-V3.1"])
def test_a_grammar_is_about_the_text_after_the_reasoning(open_model: Open, template: str) -> None:
    llm = open_model(template)
    # tags are their own tokens, and not spelled out
    options: Any = {"max_tokens": 40, "temperature": 1.0, "seed": 3, "logit_bias": {ord("<"): -math.inf}}
    for grammar in (YES_OR_NO, 'root ::= answer # yes\nanswer ::= [y] "es" | "n" "o"{1,1} | "\\"root"'):
        out = llm.chat(USER, grammar=grammar, reasoning_budget_tokens=4, **options)
        assert out.text in ("yes", "no", '"root') and out.finish_reason == "stop"
        assert out.reasoning or not llm.apply_chat_template(USER).rstrip().endswith("<think>")
        assert (
            "".join(part.text for part in llm.stream_chat(USER, grammar=grammar, reasoning_budget_tokens=4, **options))
            == out.text
        )
    if template != "Qwen-QwQ-32B":  # which always thinks
        off = llm.chat(USER, grammar=YES_OR_NO, enable_thinking=False, **options)
        assert off.text in ("yes", "no") and not off.reasoning and len(off.generation.pieces) <= 4
    with pytest.raises(RequestError, match="grammar cannot be parsed"):
        llm.chat(USER, grammar="root ::= (", **options)


@pytest.mark.parametrize(
    ("template", "header", "budget"),
    [
        ("openai-gpt-oss-120b", "<|channel|>final<|message|>", {"reasoning_budget_tokens": 4}),
        ("Cohere2MoE", "<|START_TEXT|>", {"reasoning_budget_tokens": 4}),
        ("muse-glimmer", "<|message|>", {}),
    ],
)
def test_a_grammar_is_about_the_message_for_the_user(
    open_model: Open, template: str, header: str, budget: dict[str, Any]
) -> None:
    llm = open_model(template)
    answers, thoughts = 0, 0
    for seed in range(40):  # at this temperature a thought is as likely as none
        if answers > 1 and thoughts:
            break
        out = llm.chat(USER, grammar=YES_OR_NO, max_tokens=160, temperature=50.0, seed=seed, **budget)
        thoughts += bool(out.reasoning)
        if out.finish_reason == "length":  # thoughts without an end
            assert not out.text and out.reasoning
            continue
        answers += 1
        assert out.text in ("yes", "no") and f"{header}{out.text}" in out.generation.text, out.generation.text
    assert answers > 1 and thoughts
    whole = llm.chat(USER, grammar=f'root ::= "{header}yes"', temperature=0.0, max_tokens=60)
    assert whole.generation.text == f"{header}yes"


def test_a_grammar_that_ends_the_reasoning_is_one_of_the_whole_answer(open_model: Open) -> None:
    out = open_model("Qwen3.5-4B").chat(
        USER, grammar='root ::= "six\\n</think>\\n\\n42"', temperature=0.0, max_tokens=60
    )
    assert (out.reasoning.strip(), out.text) == ("six", "42")


@pytest.mark.parametrize("constraint", [{"grammar": YES_OR_NO}, {"json_schema": {"type": "boolean"}}], ids=str)
def test_a_constraint_beside_tools_is_refused_by_name(open_model: Open, constraint: dict[str, Any]) -> None:
    llm = open_model("Qwen3.5-4B")
    for run in (llm.chat, llm.stream_chat):
        with pytest.raises(RequestError, match=f"{next(iter(constraint))} and tools are both given"):
            run(USER, tools=TOOLS, max_tokens=1, **constraint)
    off: Any = {"tools": TOOLS, "tool_choice": "none", "enable_thinking": False, "max_tokens": 40}
    assert llm.chat(USER, **off, **constraint).text.strip() in ("yes", "no", "true", "false")
    prompt = llm.session.render(USER, tools=TOOLS)
    inbox = llm.session.open_inbox()
    with pytest.raises(RequestError, match="both given"):
        from darwin_neg_cpp import SamplingParams

        llm.session.submit([[1]], SamplingParams(**constraint), inbox, "request", prompt)


WHOLE = 'root ::= "six sevens\\n</think>\\n\\nIt is 42 sevens."'


@pytest.mark.parametrize(
    ("stop", "text", "found"),
    [("sevens", "It is 42 ", "sevens"), ("42", "It is ", "42"), (["six", "\n", "It"], "", "It"), ("\n\n", None, None)],
)
def test_stop_strings_count_in_the_visible_text_alone(
    open_model: Open, stop: Any, text: str | None, found: str | None
) -> None:
    llm = open_model("Qwen3.5-4B")
    options: Any = {"grammar": WHOLE, "temperature": 0.0, "max_tokens": 80, "stop": stop}
    out = llm.chat(USER, **options)
    assert out.reasoning.strip() == "six sevens" and out.finish_reason == "stop"
    assert (out.text, out.generation.stop) == ("It is 42 sevens." if text is None else text, found)
    parts = list(llm.stream_chat(USER, **options))
    assert ("".join(p.reasoning for p in parts), "".join(p.text for p in parts)) == (out.reasoning, out.text)


@pytest.mark.parametrize("grammar", ['root ::= "six sevens are 42"', 'root ::= "six sevens are 42" "<|end|>"'])
def test_stop_strings_count_where_a_model_ignores_the_format(open_model: Open, grammar: str) -> None:
    llm = open_model("openai-gpt-oss-120b")
    # the second writes a tag of the format, and so is one of the whole answer
    options: Any = {"temperature": 0.0, "max_tokens": 80, "logit_bias": {ord("f"): 100.0}}  # for "final"
    out = llm.chat(USER, grammar=grammar, stop="are", **options)
    assert (out.text, out.finish_reason, out.generation.stop) == ("six sevens ", "stop", "are")
    assert out.generation.text.startswith("<|") == ("end" not in grammar)


def test_stop_strings_do_not_cut_a_call(open_model: Open) -> None:
    llm = open_model("Qwen3.5-4B")
    options: Any = {"tools": TOOLS[1:], "tool_choice": "required", "enable_thinking": False, "max_tokens": 80}
    bias = {TOOL_CALL: 100.0}
    out = llm.chat(USER, stop=["function", "<", "now"], parallel_tool_calls=False, logit_bias=bias, **options)
    assert [call.name for call in out.tool_calls] == ["now"] and out.generation.stop is None


@pytest.mark.parametrize(
    ("template", "start"), [("Qwen3.5-4B", TOOL_CALL), ("Qwen-Qwen3-0.6B", TOOL_CALL_LINE)], ids=["its own", "generic"]
)
def test_calls_are_several_where_the_template_knows_them(open_model: Open, template: str, start: int) -> None:
    llm = open_model(template)
    options: Any = {"tools": TOOLS[1:], "tool_choice": "required", "enable_thinking": False, "max_tokens": 200}
    options |= {"logit_bias": {start: 100.0}, "temperature": 0.0}
    several = llm.chat(USER, **options)
    assert len(several.tool_calls) > 1 and len({call.id for call in several.tool_calls}) == len(several.tool_calls)
    assert len(llm.chat(USER, parallel_tool_calls=True, **options).tool_calls) == len(several.tool_calls)
    one = llm.chat(USER, parallel_tool_calls=False, **options)
    assert len(one.tool_calls) == 1 and one.finish_reason == "stop"
    with pytest.raises(RequestError, match="parallel_tool_calls must be True or False"):
        llm.chat(USER, parallel_tool_calls="yes", **options)


# template, what starts its grammar of calls, whether a prompt opens a thought that only its tag ends
@pytest.mark.parametrize(
    ("template", "start", "thinks"),
    [
        ("Qwen-QwQ-32B", TOOL_CALL_LINE, True),
        ("Qwen-Qwen3-0.6B", TOOL_CALL_LINE, False),
        ("Qwen3.5-4B", TOOL_CALL, False),
    ],
)
def test_the_grammar_of_calls_leaves_a_thought_alone(open_model: Open, template: str, start: int, thinks: bool) -> None:
    llm = open_model(template)
    options: Any = {"tools": TOOLS[1:], "enable_thinking": True, "temperature": 0.0, "logit_bias": {start: 100.0}}
    free = llm.chat(USER, max_tokens=6, **options).generation.text
    assert free.count("<tool_call>") == (6 if thinks else 1)
    if template == "Qwen-QwQ-32B":
        limits: Any = {"max_tokens": 60, "reasoning_budget_tokens": 3, "parallel_tool_calls": False}
        called = llm.chat(USER, **limits, **options)
        assert called.reasoning.strip() == "<tool_call>\n<tool_call>", "in the thought as often as the model likes"
        assert [call.name for call in called.tool_calls] == ["now"] and called.text.strip() == ""
