"""Texts cut into documents, and documents split into parts of the data."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.training import corpus
from darwin_neg_cpp.training.own_texts import draw_openings
from training_runs import SENTENCES, write_texts


def test_a_document_is_in_one_part_only_and_the_models_own_texts_follow_theirs(tmp_path: Path) -> None:
    documents = corpus.read(write_texts(tmp_path, 40))
    documents = [replace(document, tokens=tuple(range(len(document.text.split())))) for document in documents]
    parts = corpus.split(documents, 3)
    assert sorted(document.origin for document in parts) == sorted(document.origin for document in documents)
    sizes = {name: sum(len(part.tokens) for part in parts if part.split == name) for name in corpus.SPLITS}
    assert 0.08 < sizes["test"] / sum(sizes.values()) < 0.15 and 0.08 < sizes["validation"] / sum(sizes.values()) < 0.15
    of = {part.origin: part.split for part in parts}
    starts = draw_openings(parts, 60, 1)
    assert {start.split for start in starts} == set(corpus.SPLITS)
    assert all(start.split == of[start.origin.partition("out of ")[2]] for start in starts)
    assert corpus.split(documents, 3) == parts != corpus.split(documents, 4)


def test_few_long_files_are_cut_at_blank_lines_and_lines_of_jsonl_are_documents(tmp_path: Path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("\n\n".join(f"paragraph {i} " + "word " * 300 for i in range(40)), "utf-8")
    parts = corpus.read([long])
    assert len(parts) > 5 and "\n\n".join(part.text for part in parts) == long.read_text("utf-8")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(json.dumps({"text": sentence}) for sentence in SENTENCES) + "\n", "utf-8")
    assert [document.text for document in corpus.read([lines])] == SENTENCES


@pytest.mark.parametrize(
    "text",
    [
        "\r\n\r\n".join(f"paragraph {i} " + "word " * 60 for i in range(100)),
        "\r".join(f"line {i} " + "word " * 12 for i in range(500)),
        " ".join(f"Sentence {i} ends here." for i in range(2000)),
        " ".join(f"word{i}" for i in range(5000)),
        "".join(chr(0x4E00 + i % 5000) for i in range(40_000)),
        "。".join("".join(chr(0x4E00 + (i * 31 + k) % 5000) for k in range(40)) for i in range(1000)),
        "short\n\n" + "x" * 30 + "".join(str(i) for i in range(9000)),
    ],
    ids=["crlf", "cr", "sentences", "words", "characters", "chinese", "one-word"],
)
def test_one_file_of_any_shape_is_cut_in_documents_and_nothing_is_lost(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one.txt"
    path.write_bytes(text.encode())
    parts = corpus.read([path])
    assert len(parts) > 15 and max(len(part.text) for part in parts) < 4000
    assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())


def test_a_text_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    paths = write_texts(tmp_path, 40)
    copy = tmp_path / "copy.txt"
    copy.write_text(paths[3].read_text("utf-8").replace("\n", "\r\n") + "\n", "utf-8", newline="")
    assert corpus.read([*paths, paths[0], copy]) == corpus.read(paths)
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        "\n".join(json.dumps({"text": sentence}) for sentence in [*SENTENCES, *SENTENCES[:4], " "]), "utf-8"
    )
    assert [document.text for document in corpus.read([lines])] == SENTENCES


@pytest.mark.parametrize("text", ["汉字" * 300, "x" * 900, "a b", "one two three " * 60], ids=len)
def test_openings_do_not_need_spaces(text: str) -> None:
    found = draw_openings([corpus.Document("it", text)], 20, 0)
    assert len(found) == 20 and all(document.text.strip() and document.text in text for document in found)
    assert all(len(document.text) <= 150 for document in found)
    if len(text) > 200:
        assert len({document.text for document in found}) > 10


# --- lines of JSON

TALK = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."}]
FORMS = {
    "text": {"text": "a text", "messages": TALK},
    "prompt and completion": {"prompt": "Once upon", "completion": " a time."},
    "messages": {"messages": TALK, "weight": 1},
    "turns": {"conversations": [{"from": "human", "value": "What is 2 + 2?"}, {"from": "gpt", "value": "It is 4."}]},
    "turns with roles": {"conversations": TALK},
    "prompt and completion of messages": {"prompt": TALK[:1], "completion": TALK[1:]},
    "a prompt, and a completion of messages": {"prompt": "What is 2 + 2?", "completion": TALK[1:]},
    "instruction": {"instruction": "What is 2 + 2?", "input": "", "output": "It is 4."},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.JSONL", "a.NDJson", "a.json", "a.Json"])
def test_forms_of_training_data_are_read_whatever_the_ending(tmp_path: Path, form: str, name: str) -> None:
    path, entry = tmp_path / name, FORMS[form]
    path.write_text(json.dumps([entry], indent=1) if name.lower() == "a.json" else json.dumps(entry) + "\r\n", "utf-8")
    (document,) = corpus.read([path])
    texts = {"text": "a text", "prompt and completion": "Once upon a time."}
    assert document.text == texts.get(form, "What is 2 + 2?\n\nIt is 4.")
    assert document.messages == (None if form in texts else tuple(TALK)) and document.tools is None
    assert document.origin == f"{path}:1"


@pytest.mark.parametrize("form", ["messages", "turns", "instruction"])
def test_a_system_message_and_tools_beside_the_turns_are_of_the_conversation(tmp_path: Path, form: str) -> None:
    path, tool = tmp_path / "a.jsonl", {"type": "function", "function": {"name": "f"}}
    path.write_text(json.dumps({**FORMS[form], "system": "Be brief.", "tools": json.dumps([tool])}), "utf-8")
    (document,) = corpus.read([path])
    system = {"role": "system", "content": "Be brief."}
    assert document.messages == (system, *TALK) and document.tools == (tool,)
    for other in (
        {"messages": [system, *TALK], "system": "x", "tools": ""},
        {"messages": [system, *TALK], "system": " "},
    ):
        path.write_text(json.dumps(other), "utf-8")
        (document,) = corpus.read([path])
        assert document.messages == (system, *TALK) and document.tools is None


def test_a_byte_order_mark_before_lines_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(FORMS["messages"]).encode())
    assert corpus.read([path])[0].messages == tuple(TALK)


@pytest.mark.parametrize(
    "content",
    ['{"a": 1}', "[1, 2]", '[{"a": 1}]', '"text"', "[{", "".join(f"[{i}," for i in range(3000)), "[]"],
    ids=["object", "numbers", "other objects", "text", "cut off", "nested deeply", "nothing"],
)
def test_a_json_file_of_another_kind_is_a_text(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, "utf-8")
    assert "".join(document.text for document in corpus.read([path])) == content


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"words": 3, "lines": 4}, ('"text"', "found: words, lines")),
        ([1], ("not an object",)),
        ({"prompt": "x"}, ('no "completion"',)),
        ({"prompt": 1, "completion": "x"}, ("neither texts nor lists",)),
        ({"messages": "hi"}, ('"messages" is not a list',)),
        ({"messages": []}, ('"messages" is not a list',)),
        ({"messages": ["hi"]}, ('message 1 has no "role"',)),
        ({"messages": [*TALK, {"role": "user"}]}, ('message 3 has no "content"',)),
        ({"conversations": [{"from": "human"}]}, ('message 1 has no "role"',)),
        ({"messages": TALK, "tools": "x"}, ('"tools"',)),
        ({"text": None}, ('"text"',)),
        ({"instruction": "x"}, ('no "text"', "found: instruction")),
    ],
)
def test_a_line_of_another_form_is_refused_with_what_was_found(
    tmp_path: Path, entry: object, words: tuple[str, ...]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x"}) + "\n" + json.dumps(entry), "utf-8")
    with pytest.raises(RequestError) as caught:
        corpus.read([path])
    text = str(caught.value)
    assert text.startswith(f"{path}:2: ") and "\n" not in text and all(word in text for word in words), text


def test_a_conversation_is_not_cut_into_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    talks = [[{"role": "user", "content": f"{i} " + "word " * 3000}] for i in range(3)]
    path.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks), "utf-8")
    assert [document.messages for document in corpus.read([path])] == [tuple(talk) for talk in talks]


CHAT = (
    "{% for tool in tools or [] %}[{{ tool['function']['name'] }}]{% endfor %}"
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def test_a_conversation_is_trained_on_in_the_models_template(tiny_llama: Path) -> None:
    document = corpus.Document("a:1", "x", messages=tuple(TALK))
    # jinja2 is the oracle
    expected = jinja2.Template(CHAT).render(messages=TALK, add_generation_prompt=False)
    with DarwinNEG(tiny_llama, n_ctx=64, n_threads=1, chat_template=CHAT) as llm:
        (found,) = corpus.tokenize(llm.session, [document])
        ids = llm.tokenize(expected, add_special=False, parse_special=True)
        assert list(found.tokens) == ids and ids.count(llm.info["bos"]) == 2 and "generation" not in found.text
        plain = corpus.tokenize(llm.session, [corpus.Document("a:2", "<s>x</s>")])[0]
        assert plain.tokens.count(llm.info["bos"]) == 1, "in a text they are text; the first one is the start token"


@pytest.mark.parametrize("add_bos", [True, False])
def test_every_piece_begins_with_the_models_start_token(add_bos: bool) -> None:
    start = [257] if add_bos else []
    session = SimpleNamespace(info={"bos": 257}, tokenize=lambda text, **_: [*start, *text.encode()])
    text = "every byte of this is one token, so it is as long as it looks"
    documents = [
        corpus.Document(name, content, tokens=(*start, *content.encode()))
        for name, content in (("a", text), ("b", "short"))
    ]
    numbered = corpus.cut_numbered(session, documents, 16)  # type: ignore[arg-type]
    pieces = [piece for number, piece in numbered if number == 0]
    assert all(list(piece[: len(start)]) == start for piece in pieces), "as at the beginning of any request"
    assert all(len(piece) == 16 for piece in pieces[:-1]) and [number for number, _ in numbered][-1] == 1
    assert bytes(token for piece in pieces for token in piece[len(start) :]).decode() == text


def test_what_the_template_or_the_tokenizer_refuses_is_named_by_its_line(tiny_llama: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}x{% endfor %}"
    )
    bad = corpus.Document("talk.jsonl:7", "x", messages=({"role": "tool", "content": "x"},))
    with DarwinNEG(tiny_llama, n_ctx=64, n_threads=1, chat_template=template) as llm:
        with pytest.raises(RequestError, match=r"^talk\.jsonl:7: .*no tools here"):
            corpus.tokenize(llm.session, [bad])
        with pytest.raises(RequestError, match=r"^talk\.jsonl:8: "):
            corpus.tokenize(llm.session, [corpus.Document("talk.jsonl:8", "a\ud800")])
    with (
        DarwinNEG(tiny_llama, n_ctx=64, n_threads=1) as llm,
        pytest.raises(RequestError, match=r"^talk\.jsonl:7: is a conversation, and the model has no chat template"),
    ):
        corpus.tokenize(llm.session, [bad])


def test_a_web_page_is_a_text_but_holds_no_lines(tmp_path: Path) -> None:
    for name in ("a.html", "a.jsonl"):
        (tmp_path / name).write_text("<!doctype html><p>Log in", "utf-8")
    assert corpus.read([tmp_path / "a.html"])[0].text == "<!doctype html><p>Log in"
    with pytest.raises(RequestError, match="web page; download the file"):
        corpus.read([tmp_path / "a.jsonl"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PAR1\x15\x04", "Parquet"),
        (gzip.compress(b"text"), "gzip"),
        (bz2.compress(b"text"), "bzip2"),
        (lzma.compress(b"text"), "xz"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
    ids=["parquet", "gzip", "bzip2", "xz", "pointer"],
)
def test_a_file_that_is_no_text_is_named_as_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    for name in ("a.txt", "a.jsonl", "a.json"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(RequestError, match=words):
            corpus.read([path])
