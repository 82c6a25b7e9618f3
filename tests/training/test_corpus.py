"""Texts cut into documents, and documents split into parts of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

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
