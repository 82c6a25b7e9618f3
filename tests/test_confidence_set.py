"""The questions of benchmarks/confidence.py: their answers, computed another way."""

from __future__ import annotations

import calendar
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp.eval import data

SCRIPT = ROOT / "benchmarks" / "confidence.py"
MONTHS = list(calendar.month_name)


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("confidence_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def made() -> list[dict[str, Any]]:
    return load_script().questions(0, 30)


def day_number(text: str) -> int:
    """Days since 1 January 1900, counted month by month."""
    day, month, year = text.split()
    before = sum(365 + calendar.isleap(y) for y in range(1900, int(year)))
    return before + sum(calendar.monthrange(int(year), m)[1] for m in range(1, MONTHS.index(month))) + int(day)


def test_additions_and_dates_are_right_and_only_the_first_choice_is(made: list[dict[str, Any]]) -> None:
    for question in made:
        right, *wrong = question["choices"]
        assert question["answer"] == 0 and len(set(question["choices"])) == 4
        if question["subject"].startswith("addition"):
            a, b = map(int, re.findall(r"\d+", question["question"]))
            assert len(str(a)) == len(str(b)) == int(question["subject"].split()[1])
            assert int(right) == a + b and all(int(text) > 0 for text in wrong)
        elif question["subject"] == "days between dates":
            first, last = re.findall(r"\d+ [A-Z][a-z]+ \d{4}", question["question"])
            assert day_number(last) - day_number(first) == int(right)


def test_all_kinds_are_there_and_in_every_beginning_of_the_set(made: list[dict[str, Any]]) -> None:
    kinds = Counter(question["subject"] for question in made)
    assert set(kinds.values()) == {30, 72} and len(kinds) == 7
    assert {question["subject"] for question in made[:60]} == set(kinds)
    assert made == load_script().questions(0, 30) != load_script().questions(1, 30)
    assert len({question["id"] for question in made}) == len(made)
    words = load_script().WORDS
    assert len({word for row in words for word in row}) == 4 * len(words)


def test_the_file_is_a_question_set_of_eval(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--set", str(path), "--each", "2"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("84 questions: ")
    items = data.load(path).items
    written = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [item.question.choices[item.right] for item in items] == [one["choices"][0] for one in written]
