"""Lines of prompts: each field is obeyed or refused with its line and name, before anything is run."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from darwin_neg_cpp import Neg, NegHeadError, RequestError, SamplingParams
from darwin_neg_cpp.batch.requests import Request, for_model, read_requests


def read(*lines: Any, **options: Any) -> list[Request]:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return read_requests("\n".join(texts).encode(), "p.jsonl", **options)


def test_a_line_holds_an_id_or_gets_its_number_and_settings_of_its_own() -> None:
    base = SamplingParams(temperature=0.5, top_k=7, neg=Neg(threshold=2.0))
    a, b, c = read(
        {"id": "a", "prompt": "x", "temperature": 0, "seed": 3, "max_tokens": 5, "n": 2, "neg": {"top_k": 9}},
        "",
        {"prompt": [1, 2], "stop": "s", "logit_bias": {"5": -100}, "neg": False},
        {"custom_id": 7, "messages": [{"role": "user", "content": "hi"}], "enable_thinking": False, "return_neg": True},
        params=base,
    )
    assert (a.number, a.id, a.prompt, a.messages) == (1, "a", "x", None)
    neg = Neg(threshold=2.0, top_k=9)
    assert a.params == SamplingParams(temperature=0, seed=3, max_tokens=5, n=2, top_k=7, neg=neg)
    assert (b.number, b.id, b.prompt, b.params.stop, b.params.logit_bias) == (3, 3, [1, 2], "s", {5: -100})
    assert b.params.neg == Neg(enabled=False, threshold=2.0)
    assert (c.id, c.template, c.return_neg, c.params) == (7, {"enable_thinking": False}, True, base)


def test_openais_envelope_and_names_are_read() -> None:
    body = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 4}
    (request,) = read({"custom_id": "r", "method": "POST", "url": "/v1/chat/completions", "body": body})
    assert (request.id, request.messages, request.params.max_tokens) == ("r", body["messages"], 4)


def test_prompts_of_text_may_be_put_into_the_chat_template() -> None:
    text, ids = read({"prompt": "hi"}, {"prompt": [1]}, chat=True, template={"enable_thinking": True})
    assert text.messages == [{"role": "user", "content": "hi"}] and text.template == {"enable_thinking": True}
    assert (ids.prompt, ids.messages, ids.template) == ([1], None, {})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "x"', "column 15: is not JSON"),
        ("[1]", "is not an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"prompt": "x", "n": 1, "n": 2}', '"n" is given twice'),
        ({"prompt": "x", "temprature": 1}, 'unknown field "temprature"; did you mean "temperature"?'),
        ({"prompt": "x", "stream": True}, 'unknown field "stream"; leave it out'),
        ({"prompt": "x", "top_k": -1}, '"top_k" must be between 0 and 2147483647, got -1'),
        ({"prompt": "x", "seed": "1"}, '"seed" must be a whole number'),
        ({"prompt": "x", "temperature": [0, 1]}, '"temperature" has 2 entries for n = 1'),
        ({"prompt": "x", "max_tokens": 1, "max_completion_tokens": 2}, "both given"),
        ({"prompt": "x", "json_schema": {"type": "strng"}}, "json_schema"),
        ({"prompt": "x", "logit_bias": {"the": 1}}, "token id must be a whole number"),
        ({"prompt": "x", "neg": {"treshold": 1}}, 'unknown field "treshold" in "neg"; did you mean "threshold"?'),
        ({"prompt": "x", "neg": {"threshold": -1}}, "neg.threshold must be"),
        ({"prompt": "x", "neg": "mask"}, '"neg" must be true, false or an object'),
        ({"prompt": "x", "return_neg": 1}, '"return_neg" must be True or False'),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "both given"),
        ({"max_tokens": 1}, 'has neither "prompt" nor "messages"'),
        ({"prompt": ["a", "b"]}, "a line for each"),
        ('{"prompt": "\\ud800"}', "lone surrogate"),
        ({"messages": []}, "messages must be a non-empty list"),
        ({"messages": [{"role": "user"}]}, 'messages[0] has no "content"'),
        ({"prompt": "x", "tools": []}, '"tools" is for conversations'),
        ({"id": 1.5, "prompt": "x"}, '"id" must be text or a whole number'),
        ({"id": "", "prompt": "x"}, '"id" must be text or a whole number'),
        ({"id": 1, "custom_id": 1, "prompt": "x"}, '"id" and "custom_id" are both given'),
        ({"custom_id": "a", "url": "/v1/embeddings", "body": {}}, '"url" must be one of'),
        ({"custom_id": "a", "method": "GET", "body": {}}, '"method" must be "POST"'),
        ({"url": "/v1/completions", "body": {"messages": []}}, '"body" needs "prompt"'),
        ({"body": {"prompt": "x"}, "n": 2}, 'unknown field "n" beside "body"'),
        ({"body": {"prompt": "x", "id": 2}}, '"id" belongs beside "body"'),
        ({"body": 1}, '"body" must be an object'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(line: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read({"prompt": "fine"}, line, {"prompt": "fine"})
    assert str(caught.value).startswith("p.jsonl: line 2: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_are_unique_also_among_numbers_of_lines() -> None:
    for lines in ([{"id": "a", "prompt": "x"}] * 2, [{"prompt": "x"}, {"id": "1", "prompt": "y"}]):
        with pytest.raises(RequestError, match=r"line 2: has the id '.', like line 1"):
            read(*lines)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\n \n", "holds no prompts"),
        (b"PK\x03\x04", "is a ZIP archive"),
        (b'{"prompt": "\xff"}', "is not UTF-8"),
        ('{"prompt": "x"}'.encode("utf-16"), "is UTF-16"),
    ],
)
def test_files_that_hold_something_else_are_named_as_that(data: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_requests(data, "p.jsonl")


def test_marks_and_line_ends_of_windows_are_read() -> None:
    data = b'\xef\xbb\xbf{"prompt": "a\xe2\x80\xa8b"}\r\n{"prompt": "c"}\r\n'
    assert [request.prompt for request in read_requests(data, "p")] == ["a\u2028b", "c"]


def test_a_model_without_a_head_refuses_what_needs_one_and_takes_off() -> None:
    off, action = read({"prompt": "x", "neg": False}, {"prompt": "x", "neg": {"action": "off"}})
    assert [request.params.neg for request in for_model("p", [off, action], has_head=False)] == [None, None]
    for field in ({"neg": {}}, {"neg": True}, {"return_neg": True}):
        requests = read({"prompt": "x"}, {"prompt": "x", **field})
        with pytest.raises(NegHeadError, match=rf'p: line 2: asks for "{next(iter(field))}"'):
            for_model("p", requests, has_head=False)
        assert for_model("p", requests, has_head=True) == requests


def test_the_digest_changes_with_anything_that_the_answer_depends_on_and_with_nothing_else() -> None:
    plain = {"id": "a", "prompt": "x"}
    others = [
        {**plain, "id": "b"},
        {**plain, "prompt": "y"},
        {**plain, "prompt": [1]},
        {"id": "a", "messages": [{"role": "user", "content": "x"}]},
        {**plain, "seed": 1},
        {**plain, "neg": {"threshold": math.inf}},
        {**plain, "return_neg": True},
    ]
    digests = [read(line)[0].digest for line in (plain, *others)]
    assert len(set(digests)) == len(digests)
    assert read({"prompt": "before", "id": "z"}, plain)[1].digest == digests[0]
