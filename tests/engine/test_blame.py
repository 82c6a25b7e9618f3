"""Errors of llama.cpp's parsers and template engine: each names what the user gave, and says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest

from darwin_neg_cpp import ContextFullError, DarwinNEG, DarwinNegError, Question, RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.json_schema.keywords import MAX_REPEATS
from tiny_gguf import write_tiny_llama

ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if m['content'] == 'bad' %}{{ raise_exception('No bad\\nwords') }}{% endif %}[{{ m['content'] }}]{% endfor %}"
)
SETTINGS: dict[str, Any] = {"n_ctx": 128, "n_parallel": 2, "n_threads": 1}


@pytest.fixture(scope="module")
def alternating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DarwinNEG]:
    path = write_tiny_llama(tmp_path_factory.mktemp("blame") / "model.gguf", chat_template=ALTERNATING)
    with DarwinNEG(path, **SETTINGS) as llm:
        yield llm


def conversation(*roles: str, bad: int = -1) -> list[dict[str, Any]]:
    return [{"role": role, "content": "bad" if i == bad else "x"} for i, role in enumerate(roles)]


ALTERNATE, WORDS = "Roles must alternate user/assistant", "No bad words"
U, A = "user", "assistant"


@pytest.mark.parametrize(
    ("messages", "where", "rule"),
    [
        (conversation(U, U), "messages[1] (user after user)", ALTERNATE),
        (conversation(U, A, U, A, A, U, A), "messages[4] (assistant after assistant)", ALTERNATE),
        (conversation(A, U), "messages[0] (assistant)", ALTERNATE),
        (conversation(A), "messages[0] (assistant)", ALTERNATE),
        (conversation(U, A, U, bad=2), "messages[2] (user after assistant)", WORDS),
        (conversation(U, A, *[U, A] * 100, U, bad=101), "messages[101] (assistant after user)", WORDS),
    ],
)
def test_a_rule_of_the_template_is_told_with_the_message_that_breaks_it(
    alternating: DarwinNEG, messages: list[dict[str, Any]], where: str, rule: str
) -> None:
    calls: list[Any] = [alternating.chat, alternating.apply_chat_template, alternating.chat_tokens]
    for call in [*calls, lambda given: list(alternating.stream_chat(given))]:
        with pytest.raises(RequestError) as raised:
            call(messages)
        said = str(raised.value)
        assert said.startswith(f"{where}: the chat template refuses this: {rule}; change the messages")
        assert not re.search(r"line \d|column|parser|Jinja|\^", said)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": U, "content": [{"type": "text"}]}, "messages[2] (user after assistant): cannot be read: key 'text'"),
        ({"role": U, "content": [{"type": "file"}]}, "messages[2] (user after assistant): cannot be read: Unsup"),
        (
            {"role": A, "tool_calls": [{"a": 1}]},
            "messages[2] (assistant after assistant): cannot be read: Missing tool",
        ),
    ],
)
def test_a_message_that_cannot_be_read_is_named(alternating: DarwinNEG, message: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as raised:
        alternating.chat([*conversation(U, A), message])
    assert str(raised.value).startswith(said) and "json.exception" not in str(raised.value)
    assert ("tool_calls" in message) == ('OpenAI\'s form is "tool_calls": [{' in str(raised.value))


@pytest.mark.parametrize("kind", ["image_url", "input_image", "image", "input_audio", "video_url"])
def test_images_are_refused_with_the_way_to_ask_about_them(alternating: DarwinNEG, kind: str) -> None:
    picture = {"type": kind, kind: {"url": "data:image/png;base64,AAAA"}}
    messages = [*conversation(U, A), {"role": U, "content": [{"type": "text", "text": "What is this?"}, picture]}]
    calls: list[Any] = [alternating.chat, alternating.apply_chat_template, alternating.chat_tokens]
    for call in [*calls, lambda given: list(alternating.stream_chat(given))]:
        with pytest.raises(RequestError) as raised:
            call(messages)
        said = str(raised.value)
        assert said.startswith(f"messages[2]: part 1 of its content has type '{kind}'") and "\n" not in said
        assert "darwin-neg serve -m MODEL --mmproj FILE" in said and "AAAA" not in said


def test_a_fault_of_the_template_is_not_blamed_on_the_messages(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "model.gguf", chat_template="{{ messages[0].content.foo() }}")
    with DarwinNEG(path, **SETTINGS) as llm:  # a model whose template is of no use still generates
        assert llm.generate("a", max_tokens=1).text is not None
        with pytest.raises(RequestError, match=r"^the chat template fails at its line 1: Callee is not a function"):
            llm.chat(conversation(U))


@pytest.mark.parametrize(
    ("template", "reason"),
    [("{% for %}", "token: %}"), ("{{ a", "Expected }}"), ("{% nonsense %}", "nonsense"), ("a\n{% if x %}", "token")],
)
def test_a_template_that_cannot_be_parsed_says_why(tiny_llama: Path, template: str, reason: str) -> None:
    with pytest.raises(RequestError) as raised:
        DarwinNEG(tiny_llama, chat_template=template, **SETTINGS)
    said = str(raised.value)
    assert said.startswith("chat_template cannot be parsed: ") and reason in said
    assert "std::exception" not in said and "\n" not in said


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "minLength": 5000}, "minLength at # is 5000"),
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 2500}},
          "required": ["a"]}, "minItems at #/properties/a is 2500"),
    ],
)  # fmt: skip
def test_more_repetitions_than_a_grammar_may_have_are_named_by_their_keyword(
    alternating: DarwinNEG, schema: dict[str, Any], named: str
) -> None:
    asks = (alternating.generate, "a"), (alternating.chat, conversation(U))
    for ask, prompt in asks:
        with pytest.raises(RequestError) as raised:
            ask(prompt, json_schema=schema)
        said = str(raised.value)
        assert (
            said.startswith(f"json_schema: {named}") and f"at most {MAX_REPEATS} times" in said and "GBNF" not in said
        )


def test_the_limit_is_that_of_llama_cpp(llama_tree: Path) -> None:
    source = (llama_tree / "src" / "llama-grammar.cpp").read_text("utf-8")
    assert f"#define MAX_REPETITION_THRESHOLD {MAX_REPEATS}\n" in source


@pytest.mark.parametrize("schema", [{"enum": []}, {"$ref": "#/nowhere"}])
def test_a_schema_that_a_template_cannot_take_is_not_blamed_on_the_messages(
    alternating: DarwinNEG, schema: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match=r"^json_schema") as raised:
        alternating.chat(conversation(U), json_schema=schema, max_tokens=2)
    assert "messages" not in str(raised.value)


def test_a_grammar_of_the_users_own_is_still_named_grammar(alternating: DarwinNEG) -> None:
    with pytest.raises(RequestError, match=r"^grammar cannot be parsed: number of repetitions"):
        alternating.generate("a", grammar='root ::= "a"{5000}')


def test_a_text_that_is_too_long_to_be_scored_is_named_as_it_was_given(alternating: DarwinNEG) -> None:
    with pytest.raises(ContextFullError, match=r"^prompt has 301 tokens, the context holds 128; shorten"):
        alternating.score("a" * 300)
    with pytest.raises(RequestError, match=r"^prompt has no tokens"):
        alternating.score([])


def test_of_several_prompts_the_one_that_is_meant_is_named(alternating: DarwinNEG) -> None:
    with pytest.raises(
        ContextFullError, match=r"^prompt\[1\] has 201 tokens, the context holds 128; shorten the prompt"
    ):
        alternating.generate(["a", "b" * 200, "c" * 300], max_tokens=1)
    with pytest.raises(RequestError, match=r"^prompt\[2\] has no tokens; give at least one"):
        alternating.generate([[1], [2], []], max_tokens=1)
    with pytest.raises(ContextFullError, match=r"^prompt\[1\] has 201 tokens"):
        list(alternating.score_many(["a", "b" * 200]))
    with pytest.raises(RequestError, match=r"^prompt\[0\] has no tokens"):
        list(alternating.score_many([[], [1]]))
    with pytest.raises(ContextFullError, match=r"^prompt has 201 tokens"):
        alternating.generate("b" * 200, max_tokens=1)


def test_a_question_that_does_not_fit_is_named_and_not_the_form_of_its_prompt(
    alternating: DarwinNEG, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ContextFullError, match=r"^question: prompt has \d+ tokens, the context holds 128; shorten the prompt"
    ):
        alternating.answer(Question("q" * 200, ("a", "b")), mode=0)
    args = ["answer", "-m", alternating.path, "-c", "64", "-t", "1", "--mode", "0", "q" * 200]
    assert main([*args, "--choice", "a", "--choice", "b"]) == 2
    err = capsys.readouterr().err
    assert "error: question: prompt has" in err and "raise --n-ctx" in err and "--prompt" not in err


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_locking_memory_leaves_the_mapping_as_it_was_asked_for(
    tiny_llama: Path, caplog: pytest.LogCaptureFixture, mapped: bool, locked: bool
) -> None:
    with (
        caplog.at_level("DEBUG", "darwin_neg_cpp.llama"),
        DarwinNEG(tiny_llama, use_mmap=mapped, use_mlock=locked, **SETTINGS) as llm,
    ):
        assert llm.generate("a", max_tokens=1).finish_reason == "length"
    (mode,) = set(re.findall(r"load_mode = ([\w+]+)", caplog.text))
    expected = {(False, False): "none", (True, False): "mmap", (False, True): "mlock", (True, True): "mmap+mlock"}
    assert mode == expected[mapped, locked]


STRINGS = (b"tiny", b"QQ{{", b"gpt2", b"gpt-2", b"</s>", b"h e", b"top_kQQ", b"output_norm.weight", b"general.name")


@pytest.mark.parametrize("text", STRINGS, ids=bytes.decode)
def test_a_string_that_is_not_utf8_ends_in_one_line_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    path = tmp_path / "model.gguf"
    keys = {"general.sampling.sequence": (gguf.GGUFValueType.STRING, "top_kQQ")}
    whole = write_tiny_llama(path, chat_template="QQ{{ messages[0].content }}", keys=keys).read_bytes()
    at = whole.index(text)
    path.write_bytes(whole[: at + 1] + b"\xff" + whole[at + 2 :])
    machine = ["-c", "64", "-t", "1"]
    for args in (
        ["info", str(path)],
        ["info", str(path), "--json"],
        ["generate", "-m", str(path), "abc", "-n", "2", "--json", *machine],
        ["generate", "-m", str(path), "abc", "-n", "2", "--chat", "-q", *machine],
        ["trace", "-m", str(path), "--text", "abc", "--json", *machine],
        ["quantize", str(path), str(tmp_path / "out.gguf"), "q8_0", "--force"],
        ["neg", "attach", str(path), "--random", "1", "-o", str(tmp_path / "neg.gguf"), "--force"],
    ):
        code = main(args)
        lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert (code == 0 and not lines) or (code == 2 and len(lines) == 1 and str(path) in lines[0]), lines
    try:
        with DarwinNEG(path, **SETTINGS) as llm:
            assert isinstance(llm.metadata, dict)
    except DarwinNegError as error:
        assert "\n" not in str(error)
