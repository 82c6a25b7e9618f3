"""Bad question files, one row a kind: the form, the content, and where and what the error must say."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
GOOD = "r1,Two plus two?,4,3,5,6\n"
MMLU = "question,A,B,C,D,answer\n"
FINE = "Two plus two?,4,3,5,6,A\n"
JSON = '{"question": "Two plus two?", "choices": ["4", "3"], "answer": "A"}\n'


@dataclass(frozen=True)
class Kind:
    """A bad file and the error that it must give.

    line: the line that the error must name. words: what else it must contain, the column's name where there is one.
    bad_row: whether --skip-bad lets the rest of the file through.
    """

    name: str
    form: str
    content: str | bytes
    line: int | None
    words: tuple[str, ...]
    bad_row: bool = False


KINDS = [
    # --- any form
    Kind("empty file", "auto", b"", None, ("is empty",)),
    Kind("only a header", "gpqa", HEAD, None, ("holds no questions",)),
    Kind(
        "latin-1", "gpqa", HEAD.encode() + "r1,Caf\xe9?,a,b,c,d\n".encode("latin-1"), 2, ("column 7 (bytes)", "UTF-8")
    ),
    Kind("utf-16", "gpqa", (HEAD + GOOD).encode("utf-16"), 1, ("column 1 (bytes)", "UTF-8")),
    Kind("parquet", "auto", b"PAR1\x15\x04\x15", None, ("Parquet", "CSV")),
    Kind("zip or spreadsheet", "auto", b"PK\x03\x04\x14\0", None, ("spreadsheet",)),
    Kind("gzip", "jsonl", b"\x1f\x8b\x08\0", None, ("gzip", "unpack")),
    Kind("a web page", "gpqa", "\n<!DOCTYPE html>\n<html>question,A,B,answer", None, ("web page",)),
    Kind("a pointer", "gpqa", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None, ("Git LFS",)),
    Kind("zero byte", "gpqa", HEAD + "r1,Two\0?,a,b,c,d\n", 2, ("column 7", "zero byte")),
    # --- quotes and columns
    Kind("quote never closed", "gpqa", HEAD + GOOD + 'r2,"open,a,b,c,d\nr3,x,a,b,c,d\n', 3, ("never closed",)),
    Kind(
        "quote never closed, far down",
        "gpqa",
        HEAD + 'r2,q,"a\nb\nc",b,c,"d\n',
        2,
        ("never closed",),
    ),
    Kind("text after a quote", "gpqa", HEAD + 'r1,"a "quoted" word",a,b,c,d\n', 2, ("twice",)),
    Kind("bare carriage return", "gpqa", HEAD + "r1,q\rx,a,b,c,d\n", 2, ("not CSV",)),
    Kind("cell too large", "gpqa", HEAD + GOOD + f"r2,{'x' * 140_000},a,b,c,d\n", 3, ("131072",)),
    Kind(
        "too few columns",
        "gpqa",
        HEAD + GOOD + "r2,q,a,b,c\n",
        3,
        ('"Incorrect Answer 3"', "5 columns", "header 6"),
        True,
    ),
    Kind("too many columns", "gpqa", HEAD + "r1,q,1,000,b,c,d\n", 2, ("column 7", "one too many", "quotes"), True),
    Kind(
        "column missing",
        "gpqa",
        HEAD.replace("Incorrect Answer 2", "Other") + GOOD,
        1,
        ('"Incorrect Answer 2"', "missing"),
    ),
    Kind("column twice", "gpqa", HEAD.replace("Record ID", "Question") + GOOD, 1, ('"Question"', "duplicate")),
    Kind(
        "lines after a cell of several",
        "gpqa",
        HEAD + 'r1,"one\ntwo\n",a,b,c,d\nr2,q,a,,c,d\n',
        5,
        ('"Incorrect Answer 1"', "empty"),
        True,
    ),
    # --- GPQA
    Kind("empty choice", "gpqa", HEAD + GOOD + "r2,q,a,  ,c,d\n", 3, ('"Incorrect Answer 1"', "empty"), True),
    Kind("empty question", "gpqa", HEAD + "r1,,a,b,c,d\n", 2, ('"Question"', "empty"), True),
    Kind("empty right answer", "gpqa", HEAD + "r1,q,,b,c,d\n", 2, ('"Correct Answer"', "empty"), True),
    Kind(
        "right answer also wrong",
        "gpqa",
        HEAD + "r1,q,a,b,c,a\n",
        2,
        ('"Incorrect Answer 3"', '"Correct Answer"'),
        True,
    ),
    Kind("duplicate id", "gpqa", HEAD + GOOD + "r1,another,a,b,c,d\n", 3, ('"Record ID"', '"r1"', "line 2"), True),
    Kind("same question, no ids", "gpqa", HEAD[10:] + GOOD[3:] * 2, 3, ('"Question"', "line 2"), True),
    Kind(
        "right answer and two wrong ones are the same",
        "gpqa",
        HEAD + "r1,q,a,a,c,a\n",
        2,
        ('"Incorrect Answer 1"', '"Correct Answer"', "only one"),
        True,
    ),
    # --- MMLU
    Kind("answer no letter of a choice", "mmlu", MMLU + "q,a,b,c,d,E\n", 2, ('"answer"', '"E"', "up to D"), True),
    Kind("answer empty", "mmlu", MMLU + "q,a,b,c,d,\n", 2, ('"answer"', "empty"), True),
    Kind("answer out of range", "mmlu", MMLU + "q,a,b,c,d,4\n", 2, ('"answer"', '"4"'), True),
    Kind("mmlu choice empty", "mmlu", MMLU + FINE + "q,a,b,,d,A\n", 3, ('"C"', "empty"), True),
    Kind("mmlu same choice", "mmlu", MMLU + "q,12,-4,4,12,A\n", 2, ('"D"', '"A"'), True),
    Kind("mmlu row twice", "mmlu", MMLU + FINE * 2, 3, ('"question"', "same question", "line 2"), True),
    Kind("mmlu row twice with two answers", "mmlu", MMLU + FINE + FINE.replace("A", "B"), 3, ("another answer",), True),
    Kind("mmlu id twice", "mmlu", "id," + MMLU + f"7,{FINE}7,q,a,b,c,d,A\n", 3, ('"id"', '"7"', "line 2"), True),
    Kind("mmlu row short", "mmlu", MMLU + "q,a,b\n" + FINE, 2, ("is missing", "3 columns", "header 6"), True),
    Kind("mmlu row long", "mmlu", MMLU + "q,1,000,b,c,d,A\n" + FINE, 2, ("column 7", "one too many"), True),
    Kind("mmlu without answers", "mmlu", "question,A,B,C,D\nq,a,b,c,d\n", 1, ('"answer"', "missing")),
    Kind("mmlu without a letter", "mmlu", "question,A,C,D,answer\nq,a,b,c,A\n", 1, ('"B"', "missing")),
    Kind("mmlu question twice", "mmlu", "question,question,A,B,answer\nq,p,a,b,A\n", 1, ('"question"', "duplicate")),
    Kind("mmlu choice column twice", "mmlu", "question,A,B,B,answer\nq,a,b,c,A\n", 1, ('"b"', "duplicate")),
    Kind("neither header nor choices", "mmlu", "q,a\n", 1, ("2 columns", "no header")),
    Kind("no header, a column less", "mmlu", FINE + "q,a,b,c,A\n", 2, ('"answer"', "5 columns", "first line 6"), True),
    # --- JSON lines
    Kind("no JSON", "jsonl", JSON + '{"question": "q", \n', 2, ("column 19", "not JSON")),
    Kind("a list", "jsonl", "[1]\n", 1, ("not an object",)),
    Kind("nested deeply", "jsonl", '{"a":' * 100_000 + "\n", 1, ()),
    Kind(
        "a number of many digits",
        "jsonl",
        '{"question": "q", "choices": ["a", "b"], "answer": ' + "9" * 9000 + "}\n",
        1,
        (),
    ),
    Kind("no question", "jsonl", '{"choices": ["a", "b"], "answer": 0}\n', 1, ('"question"', "missing"), True),
    Kind(
        "question a number",
        "jsonl",
        '{"question": 1, "choices": ["a", "b"], "answer": 0}\n',
        1,
        ('"question"', "text"),
        True,
    ),
    Kind("no choices", "jsonl", '{"question": "q", "answer": 0}\n', 1, ('"choices"', "missing"), True),
    Kind(
        "choices a text", "jsonl", '{"question": "q", "choices": "ab", "answer": 0}\n', 1, ('"choices"', "list"), True
    ),
    Kind(
        "a choice a number",
        "jsonl",
        '{"question": "q", "choices": [1, 2], "answer": 0}\n',
        1,
        ('"choices"', "texts"),
        True,
    ),
    Kind("no choice at all", "jsonl", '{"question": "q", "choices": [], "answer": 0}\n', 1, ('"answer"',), True),
    Kind(
        "one choice", "jsonl", '{"question": "q", "choices": ["a"], "answer": 0}\n', 1, ('"choices"', "1 choices"), True
    ),
    Kind(
        "27 choices",
        "jsonl",
        f'{{"question": "q", "choices": {[str(i) for i in range(27)]}, "answer": 0}}\n'.replace("'", '"'),
        1,
        ('"choices"', "27"),
        True,
    ),
    Kind(
        "27 choices and none is right",
        "jsonl",
        f'{{"question": "q", "choices": {[str(i) for i in range(27)]}, "answer": "none"}}\n'.replace("'", '"'),
        1,
        ('"answer"', '"none"', "up to Z"),
        True,
    ),
    Kind("no answer", "jsonl", '{"question": "q", "choices": ["a", "b"]}\n', 1, ('"answer"', "missing"), True),
    Kind(
        "answer true",
        "jsonl",
        '{"question": "q", "choices": ["a", "b"], "answer": true}\n',
        1,
        ('"answer"', "number"),
        True,
    ),
    Kind("answer -1", "jsonl", '{"question": "q", "choices": ["a", "b"], "answer": -1}\n', 1, ('"answer"', "-1"), True),
    Kind(
        "answer no choice",
        "jsonl",
        '{"question": "q", "choices": ["a", "b"], "answer": "c"}\n',
        1,
        ('"answer"', '"c"'),
        True,
    ),
    Kind(
        "answer of two meanings",
        "jsonl",
        '{"question": "q", "choices": ["B", "A"], "answer": "A"}\n',
        1,
        ('"answer"', "number"),
        True,
    ),
    Kind(
        "lone surrogate",
        "jsonl",
        '{"question": "q\\ud800", "choices": ["a", "b"], "answer": 0}\n',
        1,
        ('"question"', "surrogate"),
        True,
    ),
    Kind(
        "lone surrogate in the id",
        "jsonl",
        '{"question": "q", "choices": ["a", "b"], "answer": 0, "id": "\\ud800"}\n',
        1,
        ('"id"', "surrogate"),
        True,
    ),
    Kind(
        "lone surrogate in the domain",
        "jsonl",
        '{"question": "q", "choices": ["a", "b"], "answer": 0, "domain": "\\ud800"}\n',
        1,
        ('"domain"', "surrogate"),
        True,
    ),
    Kind(
        "json duplicate id",
        "jsonl",
        JSON.replace("{", '{"id": 7, ', 1) + '{"id": "7", "question": "q", "choices": ["a", "b"], "answer": 0}\n',
        2,
        ('"id"', '"7"', "line 1"),
        True,
    ),
    Kind("json line twice", "jsonl", JSON * 2, 2, ('"question"', "same question", "line 1"), True),
]
