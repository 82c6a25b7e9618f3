"""`darwin-neg answer`: what it prints, and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from darwin_neg_cpp.cli.answer import candidate_line, closing_line
from darwin_neg_cpp.cli.main import main
from scripted_candidates import Scripted, answered, voters


def test_the_lines_of_the_command_say_what_happened() -> None:
    out = answered(Scripted(voters("1122" * 4, "1111")), early_stop=False)
    assert closing_line(out).startswith("[mode 3, votes: B 12 C 8; 20 of 20 inferences finished, 0 saved; 200 tokens, ")
    first, last = candidate_line(out.candidates[0]), candidate_line(out.candidates[-1])
    assert first.startswith("candidate 0, choices as ") and "greedy" in first and "votes B" in first
    assert last.startswith("second opinion 19, choices as CB, temperature 0.7, seed ") and "votes B" in last
    tie = answered(Scripted(voters("2-12")), 2, early_stop=False)
    assert "1 could not be read" in closing_line(tie)


GOOD = ["--choice", "a", "--choice", "b", "-m", "/no/such.gguf"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "no model given"),
        (["-m", "x.gguf"], "no question given; write QUESTION"),
        (["stem", "-m", "x.gguf"], "has 0 choices; give 2 to 26"),
        (["stem", "--choice", "a", "-m", "x.gguf"], "has 1 choices"),
        (["stem", "--choice", "a", "--choice", "a", "-m", "x.gguf"], "the same choice twice"),
        (["", *GOOD], "has no text"),
        (["stem", *GOOD], "/no/such.gguf: no such file"),
        (["stem", *GOOD, "--question", "x.json"], "QUESTION and --question are both given"),
        (["--question", "/no/such.json", "-m", "x.gguf"], "/no/such.json: cannot be read"),
        (["stem", *GOOD, "--mode", "4"], "invalid choice: 4"),
        (["stem", *GOOD, "--mode", "car"], "invalid choice: 'car'"),
        (["stem", *GOOD, "--abstain-above", "-1"], "--abstain-above must be at least 0"),
        (["stem", *GOOD, "--abstain-signal", "x"], "invalid choice: 'x'"),
        (["stem", *GOOD, "--auto-first-threshold", "nan"], "--auto-first-threshold must be a finite number"),
        (["stem", *GOOD, "--mode", "auto", "--auto-first-threshold", "inf"], "/no/such.gguf: no such file"),
        (["stem", *GOOD, "--temperature", "0"], "temperature must be a number above 0"),
        (["stem", *GOOD, "--orderings", "0"], "orderings must be"),
        (["stem", *GOOD, "--samples", "x"], "invalid int value"),
        (["stem", *GOOD, "--prompt", "other"], "invalid choice: 'other'"),
        (["stem", *GOOD, "--demo"], "--demo brings its own model"),
    ],
)
def test_bad_usage_of_answer_is_one_line_and_exit_code_2(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["answer", *args])
    except SystemExit as leaving:  # argparse leaves this way
        code = int(str(leaving.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err and re.fullmatch(r"darwin-neg: error: [^\n]+\n", err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no question"),
        ("3", "must be an object like"),
        ('{"stem": "x"}', "has no 'choices'"),
        ('{"choices": ["a", "b"]}', "has no 'stem'"),
        ('{"stem": "x", "choices": ["a", "b"], "answer": 1}', "has an unknown key 'answer'"),
        ('{"stem": "x", "choices": "ab"}', "choices must be a list of texts"),
        ('{"stem": "x", "choices": ["a"]}', "has 1 choices"),
        (
            '[{"stem": "x", "choices": ["a", "b"]}, {"stem": "", "choices": ["a", "b"]}]',
            "question 2: question: has no text",
        ),
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_bad_question_file_is_one_line_that_names_it(
    tmp_path: Any, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["answer", "--question", str(path), "-m", "x.gguf"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "bad.json" in err and message in err and re.fullmatch(r"darwin-neg: error: [^\n]+\n", err)
