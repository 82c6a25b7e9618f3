"""benchmarks/open_answers.py: the questions and their answers, AUROC within kinds, and the reports that docs show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from darwin_neg_cpp.confidence.selection import auroc

sys.path.insert(0, str(ROOT / "benchmarks"))  # as for a script that is run there
import open_answers
import open_questions

REPORTS = sorted((ROOT / "docs/confidence").glob("open-*"))


def test_no_question_is_asked_twice_or_shown_with_its_answer() -> None:
    made = open_questions.questions(0, 60)
    asked = [one["question"] for one in made]
    assert len(set(asked)) == len(asked) and not set(asked) & {question for question, _ in open_questions.ANSWERED}
    assert made == open_questions.questions(0, 60) != open_questions.questions(1, 60)
    for one in made:
        if one["kind"].startswith("addition"):
            assert int(one["right"]) == sum(map(int, re.findall(r"\d+", one["question"])))
    prompt = open_questions.prompt(asked[0])
    assert prompt.endswith(f"Question: {asked[0]}\nAnswer:") and prompt.count("Answer: ") == 5


@pytest.mark.parametrize(
    ("text", "right", "expected"),
    [
        (" 12", "12", True),
        ("paris.", "Paris", True),
        (" Addis  Ababa ", "Addis Ababa", True),
        ("Reykjavík", "Reykjavik", True),
        ("112", "12", False),
        ("12 days", "12", False),
        ("", "12", False),
    ],
)
def test_an_answer_is_right_where_its_line_is_the_known_one(text: str, right: str, expected: bool) -> None:
    assert open_questions.is_right(text, right) is expected


def within_by_pairs(column: Any, wrong: Any, kind: Any) -> float:
    won = [
        (column[i] > column[j]) + (column[i] == column[j]) / 2
        for i in np.flatnonzero(wrong)
        for j in np.flatnonzero(~wrong)
        if kind[i] == kind[j]
    ]
    return float(np.mean(won))


def test_auroc_within_kinds_is_that_of_pairs_of_one_kind() -> None:
    rng = np.random.default_rng(5)
    kind = rng.choice(["a", "b", "c", "all wrong"], 200)
    wrong = (rng.random(200) < 0.4) | (kind == "all wrong")
    columns = [rng.integers(0, 12, 200) + 3.0 * wrong, rng.integers(0, 12, 200) * 1.0]
    expected = [within_by_pairs(column, wrong, kind) for column in columns]
    assert open_answers.within(columns[:1], wrong, kind).value == pytest.approx(expected[0], abs=1e-12)
    difference = open_answers.within(columns, wrong, kind)
    assert difference.value == pytest.approx(expected[0] - expected[1], abs=1e-12)
    assert 0 < difference.interval[0] < difference.value < difference.interval[1]


def test_a_signal_that_knows_the_kind_alone_is_chance_within_kinds() -> None:
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(20):
        kind = np.repeat(["easy", "hard"], 100)
        wrong = rng.random(200) < np.where(kind == "hard", 0.8, 0.2)
        column = rng.random(200) + 5 * (kind == "hard")
        assert auroc(column, wrong) > 0.6
        low, high = open_answers.within([column], wrong, kind).interval
        held += low <= 0.5 <= high
    assert held >= 16, "95 % of 20 are 19"


@pytest.mark.parametrize("folder", REPORTS, ids=lambda path: path.name)
def test_the_reports_in_docs_are_those_of_their_answers(folder: Path) -> None:
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
    kept = json.loads((folder / "report.json").read_text("utf-8"))
    known = {one["question"]: one for one in open_questions.questions(0, open_questions.EACH)}
    assert set(known) == {one["question"] for one in answers}
    for one in answers:
        assert one["is_right"] is open_questions.is_right(one["text"], known[one["question"]]["right"])
    made = open_answers.summarize(answers, {name: kept[name] for name in ("model", "head", "command")})
    assert open_answers.render(made) == (folder / "report.md").read_text("utf-8")
    assert made["signals"]["mean"]["auroc"]["value"] == pytest.approx(kept["signals"]["mean"]["auroc"]["value"])


def test_the_figures_of_the_documentation_are_those_of_the_reports() -> None:
    demo, gemma = (json.loads((folder / "report.json").read_text("utf-8")) for folder in REPORTS)
    text = (ROOT / "docs/confidence.md").read_text("utf-8")
    figures = ("auroc", "auroc_within_kinds")
    for name, title in open_answers.SIGNALS.items():
        cells = [
            open_answers.with_interval(one["signals"][name][figure]) for one in (demo, gemma) for figure in figures
        ]
        assert f"| {title} | {' | '.join(cells)} |" in text
        for one in (demo, gemma):
            low, high = one["signals"][name]["auroc_within_kinds"]["interval"]
            # "not told apart from chance" of what is predicted, and of the number of tokens; "are" of the others
            assert (low <= 0.5 <= high) is (name in ("mean", "max", "first", "tokens")), name
    for report in (demo, gemma):
        assert str(report["answers"]) in text and str(report["answers"] - report["wrong"]) in text
    section = text[text.index("### Short answers") : text.index("### Choices between letters")]
    stated = re.findall(r"([+-][\d.]+) ?[(,] ?([+-][\d.]+) to ([+-][\d.]+)\)", section)
    known = [
        tuple(re.findall(r"[+-][\d.]+", open_answers.with_interval(pair[figure], "+.3f")))
        for report in (demo, gemma)
        for pair in report["differences"]
        for figure in figures
    ]
    assert len(stated) == 5 and set(stated) <= set(known)


def test_the_script_runs_and_reports_again(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/open_answers.py"), "--out", str(tmp_path / "out")]
    first = subprocess.run([*command, "--each", "1"], capture_output=True, text=True, timeout=600, check=True)
    again = subprocess.run([*command, "--report-only"], capture_output=True, text=True, timeout=600, check=True)
    assert first.stdout == again.stdout and "| capitals |" in first.stdout
    assert "python benchmarks/open_answers.py --seed 0 --each 1" in first.stdout
