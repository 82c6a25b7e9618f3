"""Question files: what is read from good ones, the errors about bad ones, and that a position gives nothing away."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from darwin_neg_cpp import RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.eval import data
from darwin_neg_cpp.protocols import question
from hostile_questions import FINE, GOOD, HEAD, JSON, KINDS, MMLU, Kind

QUESTIONS = ROOT / "examples" / "questions.csv"


def write(folder: Path, content: str | bytes, name: str = "set.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- good files


def test_gpqa_is_read_with_quotes_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    cells = ["r1", 'A "quoted" word,\nand a line\r\nmore', "1,000", " b\n", '"', "d"]
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    path = write(tmp_path, b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode() + out.getvalue().encode() + b"\r\n")
    for kind in ("gpqa", "auto"):
        found = data.load(path, kind)  # type: ignore[arg-type]
        assert found.kind == "gpqa" and found.file == "set.csv" and not found.is_diamond
        (item,) = found.items
        assert item.question.stem == cells[1] and item.question.choices == ("1,000", "b", '"', "d")
        assert (item.question.id, item.right, item.domain) == ("r1", 0, "")


def test_gpqa_columns_may_stand_anywhere_among_others(tmp_path: Path) -> None:
    text = (
        "Canary,Incorrect Answer 3,Incorrect Answer 2,Subdomain,Question,Incorrect Answer 1,Correct Answer,Canary,"
        "High-level domain\n"
    )
    (item,) = data.load(write(tmp_path, text + "x,d,c,Optics,Why?,b,a,y,Physics\n")).items
    assert item.question.choices == ("a", "b", "c", "d") and item.domain == "Physics"
    (item,) = data.load(write(tmp_path, text.replace("High-level domain", "Z") + "x,d,c,Optics,Why?,b,a,y,P\n")).items
    assert item.domain == "Optics"


def test_questions_without_an_id_get_one_from_their_text(tmp_path: Path) -> None:
    head = HEAD.replace("Record ID,", "")
    both = data.load(write(tmp_path, head + "q,a,b,c,d\np,a,b,c,d\n")).items
    other = data.load(write(tmp_path, head + "p,a,b,c,d\n")).items
    assert both[1].question.id == other[0].question.id != both[0].question.id, "whatever its place in the file"


@pytest.mark.parametrize("head", ["", MMLU, "id,subject,answer,D,C,B,A,question\n", "Question,a,b,c,d,Answer\n"])
def test_mmlu_is_read_with_and_without_header(tmp_path: Path, head: str) -> None:
    line = "m1,maths,D,4,5,3,6,Two plus two?\n" if head.startswith("id") else "Two plus two?,6,3,5,4,D\n"
    (item,) = data.load(write(tmp_path, head + line)).items
    assert item.question.stem == "Two plus two?" and item.question.choices == ("6", "3", "5", "4") and item.right == 3
    assert item.domain == ("maths" if head.startswith("id") else "")
    assert item.question.id == "m1" if head.startswith("id") else item.question.id.startswith("q-")


@pytest.mark.parametrize(("answer", "right"), [("B", 1), ("b", 1), ("2", 2), ("C", 2), ("the third", 2), (" A ", 0)])
def test_an_mmlu_answer_is_a_letter_a_text_or_a_number(tmp_path: Path, answer: str, right: int) -> None:
    (item,) = data.load(write(tmp_path, MMLU + f"q,C,two,the third,A,{answer}\n"), "mmlu").items
    assert item.right == right, "a letter is a letter, even where choices are letters too"


@pytest.mark.parametrize(("n", "answer"), [(2, "B"), (5, "E"), (26, "Z")])
def test_any_number_of_choices_is_read(tmp_path: Path, n: int, answer: str) -> None:
    cells = ["q", *(f"c{i}" for i in range(n)), answer]
    (item,) = data.load(write(tmp_path, ",".join(cells) + "\n"), "mmlu").items
    assert len(item.question.choices) == n and item.right == n - 1


@pytest.mark.parametrize("answer", [1, "B", "b", "3"])
def test_json_lines_are_read(tmp_path: Path, answer: object) -> None:
    entry = {
        "question": "Two plus\u2028two is not?",
        "choices": ["4", "3"],
        "answer": answer,
        "id": 12,
        "subject": "maths",
    }
    text = "\n" + json.dumps(entry, ensure_ascii=False) + "\r\n\n" + JSON
    for name, kind in (("set.jsonl", "auto"), ("set.txt", "auto"), ("set.txt", "jsonl")):
        found = data.load(write(tmp_path, text, name), kind)  # type: ignore[arg-type]
        assert found.items[0].question.id == "12" and len(found.items) == 2
        assert found.items[0].right == 1 and found.items[0].domain == "maths"
        assert found.items[0].question.stem == entry["question"]


def test_diamond_is_known_by_name_and_size(tmp_path: Path) -> None:
    rows = "".join(f"r{i},q{i},a,b,c,d\n" for i in range(198))
    assert data.load(write(tmp_path, HEAD + rows, "gpqa_diamond.csv")).is_diamond
    assert not data.load(write(tmp_path, HEAD + rows, "mine.csv")).is_diamond
    assert not data.load(write(tmp_path, HEAD + rows + "r,q,a,b,c,d\n", "gpqa_diamond.csv")).is_diamond


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_what_csv_writes_is_read_back_or_refused_in_one_line(cells: list[list[str]]) -> None:
    import tempfile

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD.strip().split(","))
    writer.writerows(cells)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), out.getvalue())
        try:
            found = data.load(path, "gpqa")
        except RequestError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
            return
    for row, item in zip(cells, found.items, strict=True):
        stem, *choices = (cell.strip() for cell in row[1:])
        # of equal wrong choices one is kept
        assert item.question.stem == stem and item.question.choices == tuple(dict.fromkeys(choices))


# --- equal choices


@pytest.mark.parametrize(
    ("form", "content", "choices", "right", "columns"),
    [
        ("gpqa", HEAD + "r1,q,a,b,b ,d\n", ("a", "b", "d"), 0, ('"Incorrect Answer 2"', '"Incorrect Answer 1"')),
        ("gpqa", HEAD + "r1,q,a,b,b,b\n", ("a", "b"), 0, ('"Incorrect Answer 2"', '"Incorrect Answer 3"')),
        ("mmlu", MMLU + "q,x,x,y,z,C\n", ("x", "y", "z"), 1, ('"B"', '"A"')),
        ("mmlu", "q,z,y,x,y,x,A\n", ("z", "y", "x"), 0, ('"D"', '"B"', '"E"', '"C"')),
        ("jsonl", '{"question": "q", "choices": ["x", "x ", "y"], "answer": 2}', ("x", "y"), 1, ('"choices" (2)',)),
        ("jsonl", '{"question": "q", "choices": ["x", "y", "x"], "answer": "y"}', ("x", "y"), 1, ('"choices" (3)',)),
    ],
)
def test_equal_wrong_choices_are_asked_as_one_and_reported(
    tmp_path: Path, form: data.Kind, content: str, choices: tuple[str, ...], right: int, columns: tuple[str, ...]
) -> None:
    found = data.load(write(tmp_path, content), form)
    (item,), (note,) = found.items, found.merged
    assert item.question.choices == choices and item.right == right
    assert all(column in note for column in columns) and f"asked with {len(choices)} choices" in note
    assert found.skipped == () and note.startswith("line ")


def diamond(folder: Path, *changed: str) -> Path:
    """A file with the name, the columns and the size of GPQA Diamond; `changed` are its last rows."""
    rows = [f"r{i},q{i},a,b,c,d\n" for i in range(198 - len(changed))]
    return write(folder, HEAD + "".join([*rows, *changed]), "gpqa_diamond.csv")


def test_all_198_questions_count_where_two_have_equal_wrong_choices(tmp_path: Path) -> None:
    found = data.load(diamond(tmp_path, "x1,q,a,b,b,d\n", "x2,q,a,b,c,c\n"))
    assert found.is_diamond and len(found.items) == 198 and len(found.merged) == 2 and not found.skipped
    assert [len(item.question.choices) for item in found.items[-3:]] == [4, 3, 3]
    fewer = data.load(diamond(tmp_path, "x1,q,a,a,b,d\n", "x2,q,a,b,c,c\n"), skip=True)
    assert fewer.is_diamond and len(fewer.items) == 197 and len(fewer.skipped) == len(fewer.merged) == 1


def test_what_a_report_lists_holds_no_text_of_the_questions(tmp_path: Path) -> None:
    rows = ["r1,SECRET,SECRET a,SECRET b,SECRET b,d", "r2,SECRET,,b,c,d", "r2,SECRET,a,SECRET,c", "r1,SECRET 2,a,b,c,d"]
    found = data.load(write(tmp_path, HEAD + "\n".join(rows)), skip=True)
    assert len(found.merged) == 1 and len(found.left_out) == 3
    found = data.load(write(tmp_path, MMLU + FINE + "q,a,b,c,d,SECRET\n"), skip=True)
    (line,) = found.left_out
    assert "SECRET" in found.skipped[0] and line == 'line 3, column "answer": is none of the choices'
    assert "SECRET" not in str(found.merged)


def test_rows_of_nothing_but_commas_are_blank(tmp_path: Path) -> None:
    assert len(data.load(write(tmp_path, HEAD + GOOD + ",,,,,\n\n,,,,,\n")).items) == 1


# --- bad files


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bad_file_is_refused_with_line_and_column(tmp_path: Path, kind: Kind) -> None:
    path = write(tmp_path, kind.content)
    with pytest.raises(RequestError) as caught:
        data.load(path, kind.form)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 600
    if kind.line is not None:
        assert f"line {kind.line}" in text, text
    for word in kind.words:
        assert word in text, text


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.form != "auto"], ids=lambda kind: kind.name)
def test_bad_records_can_be_left_out_but_a_broken_file_cannot(tmp_path: Path, kind: Kind) -> None:
    good = {"gpqa": "", "mmlu": FINE.replace("Two", "Five"), "jsonl": JSON.replace("Two", "Five")}[kind.form]
    head = str(kind.content).partition("\n")[0]
    content = kind.content.decode("latin-1") if isinstance(kind.content, bytes) else kind.content
    if kind.form == "gpqa" and kind.bad_row:
        good = "r99,q99,a,b,c,d\n"[0 if "Record ID" in head else 4 :]
    if head.startswith("id,"):
        good = "99," + good
    path = write(tmp_path, content + good if isinstance(kind.content, str) else kind.content)
    if not kind.bad_row:
        if kind.name != "only a header":
            with pytest.raises(RequestError):
                data.load(path, kind.form, skip=True)  # type: ignore[arg-type]
        return
    found = data.load(path, kind.form, skip=True)  # type: ignore[arg-type]
    assert len(found.skipped) == 1 and f"line {kind.line}" in found.skipped[0] and found.items
    assert len(found.left_out) == 1 and f"line {kind.line}" in found.left_out[0]
    with pytest.raises(RequestError, match=r", or leave such questions out with skip=True$"):
        data.load(path, kind.form)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["missing.csv", "", "a\0b"])
def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError):
        data.load(str(tmp_path / name))


def test_the_command_refuses_every_bad_file_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in KINDS:
        path = write(tmp_path, kind.content)
        assert main(["eval", kind.form, "-m", "/nowhere.gguf", "--data", str(path)]) == 2, kind.name
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith("darwin-neg: error: "), kind.name
    assert len(list(tmp_path.iterdir())) == 1


# --- the question set of this project


def test_the_question_set_is_whole() -> None:
    found = data.load(QUESTIONS)
    assert found.kind == "gpqa" and not found.is_diamond and len(found.items) == 72
    assert Counter(item.domain for item in found.items).most_common() == [
        (domain, 12) for domain in dict.fromkeys(item.domain for item in found.items)
    ]
    assert len({item.domain for item in found.items}) == 6
    assert len({item.question.stem for item in found.items}) == 72
    assert all(len(item.question.choices) == 4 and item.right == 0 for item in found.items)
    assert all(item.question.id.startswith("dn-") for item in found.items)
    with QUESTIONS.open(encoding="utf-8", newline="") as file:
        assert all(row["Explanation"].strip() and row["Subdomain"].strip() for row in csv.DictReader(file))


def test_the_right_answer_is_not_given_away_by_its_length() -> None:
    items = data.load(QUESTIONS).items
    longest = sum(len(item.question.choices[0]) > max(map(len, item.question.choices[1:])) for item in items)
    shortest = sum(len(item.question.choices[0]) < min(map(len, item.question.choices[1:])) for item in items)
    # either would be chance, a quarter, if lengths gave nothing away
    assert longest < 72 * 0.4 and shortest < 72 * 0.4


def test_the_right_answer_stands_at_every_letter_about_as_often() -> None:
    items = data.load(QUESTIONS).items
    for seed in range(5):
        places = Counter(question.orderings(item.question, 1, seed)[0].index(item.right) for item in items)
        # 18 each is expected; the chi-square with 3 degrees of freedom is above 16.27 once in a thousand
        assert sum((places[i] - 18) ** 2 / 18 for i in range(4)) < 16.27, places


def test_a_file_with_good_parts_is_good(tmp_path: Path) -> None:
    """What the table of bad files is made from."""
    for form, content in (("gpqa", HEAD + GOOD), ("mmlu", MMLU + FINE), ("mmlu", FINE), ("jsonl", JSON)):
        assert len(data.load(write(tmp_path, content), form).items) == 1  # type: ignore[arg-type]
