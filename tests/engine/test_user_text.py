"""Texts that read like control tokens are cut where they would become one."""

from __future__ import annotations

from typing import Any, cast

from darwin_neg_cpp.engine.user_text import Given, UserText, tokenize_pieces

MARKERS = [
    ("<|im_start|>", True),
    ("</s>", True),
    ("</think>", False),
    ("<tool>", False),
    ("<table>", False),
    ("\n", False),
]


class Tokenizer:
    """Its tokens are characters, and each marker one, numbered from 1000; a start token, and spaces like Llama's."""

    START, END = 1, 2

    def __init__(self, *, space: bool = False, ends: bool = False) -> None:
        self.space, self.ends = space, ends

    def model_info(self) -> dict[str, Any]:
        return {"chat_template": "... </think> <tool> {{ messages }}"}

    def marker_texts(self) -> list[tuple[str, bool]]:
        return MARKERS

    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> list[int]:
        rest, out, after_special = text.decode(), [], True
        while rest:
            for k, (marker, control) in enumerate(MARKERS):
                if rest.startswith(marker) and len(marker) > 1 and (parse_special or not control):
                    out.append(1000 + k)
                    rest, after_special = rest[len(marker) :], True
                    break
            else:
                out += [ord(" ")] * (self.space and after_special) + [ord(rest[0])]
                rest, after_special = rest[1:], False
        return [self.START] * add_special + out + [self.END] * (add_special and self.ends)

    def detokenize(self, tokens: list[int], special: bool) -> bytes:
        return "".join(map(chr, tokens)).encode()


def protect(content: Any, role: str = "user", tools: Any = ()) -> tuple[list[Any], list[Any], str]:
    given, mark = UserText(cast(Any, Tokenizer())).protect(Given([{"role": role, "content": content}], list(tools), {}))
    return given.messages, given.tools, mark


def test_a_conversation_without_such_texts_is_not_touched() -> None:
    for text in ("Hello", "a < b", "<table>\n", "<|im_start", "\ue000"):
        messages, tools, mark = protect(text)
        assert messages == [{"role": "user", "content": text}] and mark == "" and tools == []


def test_each_text_is_cut_inside() -> None:
    for text in ("x<|im_start|>y", "</think>", "a</s></s>b", "<tool>", "<<|im_start|>>"):
        (message,), _, mark = protect(text)
        content = message["content"]
        assert mark and content.replace(mark, "") == text
        assert not any(marker in content for marker, _ in MARKERS[:4])
        tokens = tokenize_pieces(cast(Any, Tokenizer()), content.split(mark))
        assert tokens == [Tokenizer.START, *map(ord, text)]


def test_parts_names_and_calls_are_protected_and_roles_are_not() -> None:
    (message,), _, mark = protect([{"type": "text", "text": "</s>"}])
    assert message["content"] == [{"type": "text", "text": f"<{mark}/s>"}]
    text = UserText(cast(Any, Tokenizer()))
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a": "</s>"}'}}
    given, mark = text.protect(Given([{"role": "assistant", "content": None, "tool_calls": [call]}], [], {}))
    (message,) = given.messages
    assert mark in message["tool_calls"][0]["function"]["arguments"] and message["role"] == "assistant"


def test_the_tags_of_the_reasoning_stay_in_what_the_model_has_said() -> None:
    (message,), _, mark = protect("<think>hm</think>4</s>", role="assistant")
    assert message["content"] == f"<think>hm</think>4<{mark}/s>"


def test_descriptions_of_tools_are_protected_and_their_values_are_not() -> None:
    function = {"name": "f", "description": "ends </s>", "parameters": {"properties": {"a": {"enum": ["</s>"]}}}}
    _, (tool,), mark = protect("hi", tools=[{"type": "function", "function": function}])
    assert tool["function"]["description"] == f"ends <{mark}/s>"
    assert tool["function"]["parameters"] == function["parameters"]


def test_documents_are_protected_and_other_variables_are_not() -> None:
    variables = {"documents": [{"title": "</s>", "text": "a</s>b"}], "suffix": "</s>"}
    given, mark = UserText(cast(Any, Tokenizer())).protect(Given([], [], variables))
    (document,) = given.variables["documents"]
    assert document == {"title": f"<{mark}/s>", "text": f"a<{mark}/s>b"} and given.variables["suffix"] == "</s>"


def test_the_mark_is_a_character_that_nobody_has_written() -> None:
    (message,), _, mark = protect("\ue000</s>\\ue001")
    assert mark == "\ue002" and message["content"] == "\ue000<\ue002/s>\\ue001"


def test_pieces_get_no_space_of_their_own_and_the_end_token_comes_last() -> None:
    tokenizer = Tokenizer(space=True, ends=True)
    tokens = tokenize_pieces(cast(Any, tokenizer), ["<|im_start|>a<", "/s>b", "c<|im_start|>"])
    assert tokens == [1, 1000, *map(ord, " a</s>bc"), 1000, 2]
