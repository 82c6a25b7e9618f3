"""Question files in the layouts that published sets have: read, or refused with what was found."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.eval import data
from darwin_neg_cpp.eval.questions.choices import Choices, read_text

ABC = ("x", "y", "z")
LETTERED = {"question": "q", "A": "x", "B": "y", "C": "z"}
LIST = {"question": "q", "choices": ["x", "y", "z"]}
DIGITS = {"question": "q", "choices": ["1", "2", "3", "4"]}


def load(folder: Path, content: str, name: str = "set.csv", **options: Any) -> data.DataSet:
    path = folder / name
    path.write_text(content, "utf-8", newline="")
    return data.load(path, **options)


def table(*rows: dict[str, Any], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def lines(*objects: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in objects)


def numbered(word: str, first: int, texts: Any = ABC) -> dict[str, str]:
    return {"question": "q", **{f"{word}{first + i}": text for i, text in enumerate(texts)}}


RECORDS = {
    "choice0 with a number": ({**numbered("choice", 0), "answer": 1}, 1),
    "choice0 with the number of a text": ({**numbered("choice", 0, ["2", "3", "1"]), "answer": 1}, 1),
    "choice_0": ({**numbered("choice_", 0), "label": 2}, 2),
    "choice1": ({**numbered("choice", 1), "answer": 1}, 0),
    "choice1 with a name": ({**numbered("choice", 1), "answer": "choice2"}, 1),
    "option_a": ({"question": "q", "option_a": "x", "option_b": "y", "option_c": "z", "answer": "B"}, 1),
    "Option A with a name": ({"Question": "q", "Option A": "x", "Option B": "y", "Correct Option": "option_b"}, 1),
    "opa and cop": ({"question": "q", "opa": "x", "opb": "y", "opc": "z", "cop": 0}, 0),
    "letters": ({**LETTERED, "answer": "C"}, 2),
    "a prompt": ({"prompt": "q", "A": "x", "B": "y", "C": "z", "answer": "C"}, 2),
    "a bracketed letter": ({**LETTERED, "answer": "(B)"}, 1),
    "a letter with a stop": ({**LETTERED, "answer": "B."}, 1),
    "a letter with a bracket": ({**LETTERED, "answer": "b)"}, 1),
    "an answer in words": ({**LETTERED, "answer": "Answer: (C)"}, 2),
    "a letter with its text": ({**LETTERED, "answer": "B. y"}, 1),
    "answerKey": ({**LETTERED, "answerKey": "B"}, 1),
    "answer_index": ({**LETTERED, "answer_index": 2}, 2),
    "right and wrong": ({"question": "q", "distractor1": "y", "distractor2": "z", "correct_answer": "x"}, 0),
}
OBJECTS = {
    "options and answer_index": ({"question": "q", "options": ["x", "y", "z"], "answer_index": 2}, 2),
    "an index where choices are numbers": ({"question": "q", "options": ["2", "3", "1"], "answer_index": 1}, 1),
    "answer and answer_index": ({**LIST, "answer": "C", "answer_index": 2}, 2),
    "an answer of one item": ({**LIST, "answer": ["y"]}, 1),
    "a number with a point": ({**LIST, "answer": 2.0}, 2),
    "text and label": ({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, 1),
    "labels that are numbers": (
        {"question": "q", "choices": {"text": ["3", "1", "2"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        2,
    ),
    "objects with text and label": (
        {"question_stem": "q", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}], "answerKey": "B"},
        1,
    ),
    "a question with its choices inside": (
        {
            "question": {"stem": "q", "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]},
            "answerKey": "1",
        },
        0,
    ),
    "options by letter": ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y", "answer_idx": "B"}, 1),
    "wrong answers in a list": ({"question": "q", "correct_answer": "x", "incorrect_answers": ["y", "z"]}, 0),
    "columns of GPQA": (
        {
            "Record ID": "r",
            "Question": "q",
            "Correct Answer": "x",
            **{f"Incorrect Answer {i}": f"{i}" for i in (1, 2, 3)},
        },
        0,
    ),
    "no last choice": ({**LETTERED, "D": None, "answer": "C"}, 2),
    "letters before choices": ({"question": "q", "options": ["(A) x", "(B) y", "(C) z"], "label": "C"}, 2),
    "in a row": ({"row_idx": 0, "row": {**LIST, "answer": 1}}, 1),
}


def texts_of(record: dict[str, Any]) -> list[str]:
    """The choices of a record of the tables above, by looking for all texts in it that can be one."""
    found = json.loads(json.dumps(record), object_pairs_hook=lambda pairs: [value for _, value in pairs])
    flat: list[Any] = [found]
    while any(isinstance(value, list) for value in flat):
        flat = [value for part in flat for value in (part if isinstance(part, list) else [part])]
    return [
        text.removeprefix("(A) ").removeprefix("(B) ").removeprefix("(C) ") for text in flat if isinstance(text, str)
    ]


@pytest.mark.parametrize(("record", "right"), [*RECORDS.values(), *OBJECTS.values()], ids=[*RECORDS, *OBJECTS])
def test_objects_are_read(tmp_path: Path, record: dict[str, Any], right: int) -> None:
    others = {"note": "n", **record}
    for name, content in (
        ("set.jsonl", lines(record)),
        ("set.NDJSON", lines(others)),
        ("set.json", json.dumps([record, {**LIST, "answer": "A", "question": "p"}])),
        ("set.txt", json.dumps([record], indent=2)),
        ("set.json", json.dumps({"version": [1], "data": [record]}, indent=1)),
        ("set.json", json.dumps({"data": [record]})),
        ("set.json", json.dumps(record, indent=1)),
    ):
        found = load(tmp_path, content, name)
        item = found.items[0]
        assert found.kind == "jsonl" and (item.question.stem, item.right) == ("q", right), (name, content)
        assert set(item.question.choices) <= set(texts_of(record)) and len(item.question.choices) in (2, 3, 4)


@pytest.mark.parametrize(("record", "right"), RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"], ids=["comma", "semicolon", "tab", "bar"])
def test_tables_are_read(tmp_path: Path, record: dict[str, Any], right: int, separator: str) -> None:
    (item,) = load(tmp_path, table(record, separator=separator)).items
    (same,) = load(tmp_path, lines(record), "set.jsonl").items
    assert item.right == same.right == right and item.question.choices == same.question.choices


@pytest.mark.parametrize("separator", [" , ", "; ", " | "])
def test_spaces_around_names_and_cells_do_not_count(tmp_path: Path, separator: str) -> None:
    lines = ["question", "A", "B", "answer"], ["Why?", "so", "thus", "B"]
    (item,) = load(tmp_path, "".join(separator.join(line) + "\n" for line in lines)).items
    assert (item.question.stem, item.question.choices, item.right) == ("Why?", ("so", "thus"), 1)


@pytest.mark.parametrize("separator", [";", "\t", "|"], ids=["semicolon", "tab", "bar"])
def test_separators_are_told_by_what_the_first_line_means(tmp_path: Path, separator: str) -> None:
    cells = ["What, then, is it, if anything?", "1,5 m", "2,5 m", 'a "third"', "d", "B"]
    out = io.StringIO()
    csv.writer(out, delimiter=separator).writerow(cells)
    with_header = separator.join(["question", "A", "B", "C", "D", "answer"]) + "\n" + out.getvalue()
    for content in (out.getvalue(), with_header, "\ufeff" + with_header):
        (item,) = load(tmp_path, content).items
        assert item.question.stem == cells[0] and item.question.choices == tuple(cells[1:5]) and item.right == 1
    head = separator.join(["Record ID", "Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))])
    found = load(tmp_path, head + "\n" + separator.join(["r", "a, b", "c", "d", "e", "f"]) + "\n")
    assert found.kind == "gpqa" and found.items[0].question.choices == ("c", "d", "e", "f")


def test_a_spreadsheets_own_line_names_the_separator_and_lines_are_counted_right(tmp_path: Path) -> None:
    content = "sep=;\r\nquestion;A;B;answer\r\nq;x;y;B\r\np;x;;A\r\n"
    with pytest.raises(RequestError, match=r'line 4, column "B": the choice is empty'):
        load(tmp_path, content)
    assert load(tmp_path, content, skip=True).items[0].right == 1


def test_a_comma_file_with_semicolons_in_its_cells_stays_one(tmp_path: Path) -> None:
    (item,) = load(tmp_path, "a; b; c; d; e,f; g,h; i,B\n").items
    assert item.question.stem == "a; b; c; d; e" and item.question.choices == ("f; g", "h; i")


@pytest.mark.parametrize("name", ["passage", "Article", "context", "premise"])
def test_a_text_that_a_question_is_about_is_not_left_out_in_silence(tmp_path: Path, name: str) -> None:
    about = {**LETTERED, "answer": "B", name: "Once."}
    for content, file in ((lines(about), "set.jsonl"), (table(about), "set.csv")):
        with pytest.raises(RequestError, match=rf'"{name}": is a text that the question is about.*put it before'):
            load(tmp_path, content, file)
    for fine in ({**about, name: " "}, {**about, "question": "Once. When?"}):
        assert load(tmp_path, lines(fine), "set.jsonl").items[0].right == 1
    mixed = lines(about, {**LETTERED, "question": "p", "answer": "A", name: None})
    assert len(load(tmp_path, mixed, "set.jsonl", skip=True).items) == 1


# --- one column of choices

TEXTS = ["it's", 'a "b"', "c, d\ne", "\\frac{1}{2}", "漢", "3.0"]
TOGETHER = {
    "json": json.dumps(TEXTS),
    "python": repr(TEXTS),
    "tuple in a list": repr([*TEXTS]),
    "numpy": str(np.array(TEXTS, dtype=object)),
    "array": repr(np.array(TEXTS, dtype=object)),
    "arc in pandas": repr({"text": np.array(TEXTS, dtype=object), "label": np.array(list("ABCDEF"), dtype=object)}),
    "arc in json": json.dumps({"text": TEXTS, "label": list("ABCDEF")}),
    "by letter": repr(dict(zip("ABCDEF", TEXTS, strict=True))),
}


@pytest.mark.parametrize("cell", TOGETHER.values(), ids=TOGETHER)
def test_one_column_of_choices_is_read_as_json_python_and_numpy_print_it(tmp_path: Path, cell: str) -> None:
    for key, answer in (("answer", "5"), ("answerKey", "(F)"), ("answer", "F")):
        (item,) = load(tmp_path, table({"question": "q", "choices": cell, key: answer})).items
        assert list(item.question.choices) == TEXTS and item.right == 5


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool), min_size=2, max_size=6))
def test_what_python_and_numpy_print_for_a_list_is_read_back(texts: list[str]) -> None:
    array = np.array(texts, dtype=object)
    for cell in (
        repr(texts),
        json.dumps(texts),
        repr(array),
        str(array),
        repr(dict(zip("ABCDEF", texts, strict=False))),
    ):
        found = read_text(cell)
        assert isinstance(found, Choices) and list(found.texts) == texts, cell


@pytest.mark.parametrize("cell", ["x|y|z", "x; y; z", "A. x\nB. y\nC. z", "x\ty\tz", "x | y | z |"])
def test_one_column_of_choices_is_read_between_separators(tmp_path: Path, cell: str) -> None:
    (item,) = load(tmp_path, table({"question": "q", "choices": cell, "answer": "B"})).items
    assert item.question.choices == ABC and item.right == 1


@pytest.mark.parametrize(
    "cell",
    [
        "x, y, z",
        "x",
        "[1, 2",
        "['a' 'b'",
        "{'a'}",
        "[" * 5000,
        "array(1",
        "['a', ['b']]",
        "{'text': ['a'], 'label': []}",
    ],
)
def test_a_column_that_holds_no_list_is_refused_by_name(tmp_path: Path, cell: str) -> None:
    with pytest.raises(RequestError, match=r'line 2, column "choices"[^;]*: (is|has) '):
        load(tmp_path, table({"question": "q", "choices": cell, "answer": "A"}))


def test_a_long_cell_is_read_in_linear_time() -> None:
    most = csv.field_size_limit() // 2
    for piece in ("a", "'a' ", "\\'", "('", "'a'", "\"'", "array(", "{'a':"):
        cell = ("['" + piece * most)[:most]
        begin = time.monotonic()
        assert read_text(cell) == "is not a list that can be read", piece
        assert time.monotonic() - begin < 5, piece  # a tenth of a second; quadratic reading takes minutes


# --- numbers

NUMBERS: dict[str, tuple[str, str]] = {
    "a number where choices are numbers": (lines({**DIGITS, "answer": 2}), "may be the number of another"),
    "the same as text": (lines({**DIGITS, "answer": "2"}), "may be the number of another"),
    "the same in a table": ("q,1,2,3,4,2\n", "may be the number of another"),
    "the same from 1": ("q,3,4,5,6,4\n", "may be the number of another"),
    "the same number written otherwise": ("q,2.0,4.0,5.0,6.0,2\n", "may be the number of another"),
    "counted from 1": (table({**LETTERED, "answer": 3}, {**LETTERED, "answer": 2}), "seem to count from 1"),
    "an index from 1": (lines({**LIST, "answer_idx": 3}, {**LIST, "answer_idx": 1}), "seem to count from 1"),
    "columns from 1 with numbers from 0 and from 1": (
        table({**numbered("choice", 1), "answer": 3}, {**numbered("choice", 1), "answer": 0}),
        "cannot be told",
    ),
    "an index of columns from 1": (lines({**numbered("sol", 1), "label": 1}), "cannot be told"),
    "a number too large": (lines({**LIST, "answer": 3}), '"3" is none of the choices'),
    "a column too large": (table({**numbered("choice", 0), "answer": 3}), "they count from 0"),
    "an answer that contradicts its index": (lines({**LIST, "answer": "A", "answer_index": 1}), "another choice"),
    "a letter that contradicts its text": (lines({**LIST, "answer": "B. z"}), "letter and the text of another"),
    "two answers": (lines({**LIST, "answer": ["A", "B"]}), "names 2 choices"),
    "a label twice": (
        lines({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answerKey": "A"}),
        "a label twice",
    ),
}


@pytest.mark.parametrize(("content", "words"), NUMBERS.values(), ids=NUMBERS)
def test_an_answer_that_could_mean_two_choices_is_refused(tmp_path: Path, content: str, words: str) -> None:
    name = "set.jsonl" if content.startswith("{") else "set.csv"
    with pytest.raises(RequestError, match=words) as caught:
        load(tmp_path, content, name)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError):
        load(tmp_path, content, name, skip=True)


def test_what_numbers_mean_is_settled_by_the_whole_file(tmp_path: Path) -> None:
    ambiguous = {**DIGITS, "answer": 2}
    for other, right in (
        ({**LIST, "answer": 0}, 2),  # a number of a choice, so all are
        ({**DIGITS, "question": "p", "answer": 0}, 2),
        ({"question": "p", "choices": ["10", "20"], "answer": 20}, 1),  # a text, so all are
    ):
        found = load(tmp_path, lines(ambiguous, {**other, "question": "p"}), "set.jsonl")
        assert found.items[0].right == right, other
    found = load(tmp_path, lines(ambiguous, {**LIST, "answer": "A"}), "set.jsonl", skip=True)
    assert len(found.items) == 1 and "may be the number" in found.skipped[0], "a letter says nothing about numbers"


def test_numbers_from_1_are_not_left_out_one_by_one(tmp_path: Path) -> None:
    """Else --skip-bad would drop those that name the last choice, and read all others wrongly."""
    rows = [{**LETTERED, "question": f"q{i}", "answer": i % 3 + 1} for i in range(9)]
    with pytest.raises(RequestError, match="seem to count from 1"):
        load(tmp_path, table(*rows), skip=True)


@pytest.mark.parametrize(("answers", "rights"), [((0, 1), [0, 1]), ((1, 2), [0, 1])])
def test_numbers_of_columns_from_1_count_from_where_the_file_shows(
    tmp_path: Path, answers: tuple[int, int], rights: list[int]
) -> None:
    for key in ("answer", "label"):
        rows = [{**numbered("option", 1, ABC[:2]), "question": f"q{k}", key: k} for k in answers]
        assert [item.right for item in load(tmp_path, lines(*rows), "set.jsonl").items] == rights


# --- what was found

FOUND: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no question in the header": ("set.csv", "Frage;A;B;answer\nq;x;y;A\n", ('"question"', "Frage, A, B, answer")),
    "no answer in the header": ("set.csv", "question,choices,loesung\nq,x|y,A\n", ('"answer"', "choices, loesung")),
    "no choices in the header": ("set.csv", "question,answer\nq,A\n", ('"choices"', "question, answer")),
    "a choice column missing": ("set.csv", "question,choice0,choice2,answer\nq,x,y,0\n", ('"choice1"', "choice2")),
    "one choice column": ("set.csv", "question,choice0,answer\nq,x,0\n", ('"choices"', "choice0")),
    "two columns of one name": (
        "set.csv",
        "question,choices,Choices,answer\nq,x|y,x|y,0\n",
        ('"choices"', "duplicate"),
    ),
    "other keys": ("set.jsonl", lines({"ctx": "q", "targets": ["x"]}), ('"question"', "ctx, targets")),
    "a column-wise file": (
        "set.json",
        json.dumps({"question": {"0": "q"}, "answer": {"0": 1}}),
        ('"question"', "answer"),
    ),
    "a list of texts": ("set.json", '["q", "r"]', ("line 1", "not an object")),
    "a list cut off": ("set.json", '[{"question": "q",\n "choices": ["x"', ("line 2", "not JSON")),
    "text after the list": (
        "set.json",
        '[{"question": "q", "choices": ["x", "y"], "answer": 0}]\nx',
        ("line 2", "column 1"),
    ),
    "no comma in the list": ("set.json", '[{"question": "q"}\n {"question": "p"}]', ("line 2", "column 2")),
    "a list nested deeply": ("set.json", "[{" + '"a":[' * 100_000, ("line 1",)),
    "the second of a list": (
        "set.json",
        json.dumps([{**LIST, "answer": 0}, {**LIST}], indent=1),
        ("line 11", '"answer"'),
    ),
}


@pytest.mark.parametrize(("name", "content", "words"), FOUND.values(), ids=FOUND)
def test_a_layout_that_is_not_known_is_refused_with_what_was_found(
    tmp_path: Path, name: str, content: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        load(tmp_path, content, name)
    text = str(caught.value)
    assert all(word in text for word in words) and "\n" not in text and len(text) < 600, text


def test_a_kind_that_the_file_is_not_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mmlu.jsonl"
    path.write_text(lines({**LIST, "answer": 0}), "utf-8")
    assert main(["eval", "mmlu", "-m", "/nowhere.gguf", "--data", str(path)]) == 2
    assert "is JSON, not a table; choose the kind jsonl or auto" in capsys.readouterr().err


def test_gpqa_diamond_is_known_as_json_too(tmp_path: Path) -> None:
    rows = [
        {"Question": f"q{i}", "Correct Answer": "x", **{f"Incorrect Answer {k}": str(k) for k in (1, 2, 3)}}
        for i in range(198)
    ]
    assert load(tmp_path, lines(*rows), "gpqa_diamond.jsonl").is_diamond
    assert not load(tmp_path, lines(*rows[1:]), "gpqa_diamond.jsonl").is_diamond
