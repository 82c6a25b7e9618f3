"""The letter and the reasoning that are read from an answer."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answer_shapes import BEGIN, END, FURTHER, HELD_OUT, SHAPES, TRUNCATED, WRITTEN_FIRST, tables
from conftest import ROOT
from darwin_neg_cpp.protocols.extract import extract, reasoning_extract, visible


@pytest.mark.parametrize(
    ("text", "offered", "letter", "how"), [row[1:] for row in SHAPES], ids=[row[0] for row in SHAPES]
)
def test_the_letter_is_the_one_that_a_reader_takes(text: str, offered: str, letter: str, how: str) -> None:
    found = extract(text, offered)
    assert (found.letter, found.how) == (letter, how)


@pytest.mark.parametrize(
    ("text", "offered", "letter", "how"), [row[1:] for row in TRUNCATED], ids=[row[0] for row in TRUNCATED]
)
def test_of_an_answer_cut_off_only_what_is_certain_is_taken(text: str, offered: str, letter: str, how: str) -> None:
    found = extract(text, offered, truncated=True)
    assert (found.letter, found.how) == (letter, how)


@pytest.mark.parametrize(("text", "letter"), [row[2:4] for row in (*WRITTEN_FIRST, *HELD_OUT, *FURTHER)])
def test_the_letter_is_read_in_every_language(text: str, letter: str) -> None:
    assert extract(text, "ABCD").letter == letter


@pytest.mark.parametrize(
    "arrow", [*"→➔➜➡⇒⇨⟶⟹↦➤►▶▸⮕👉☞", "->", "=>", "-->", "==>", "\\to", "\\rightarrow", "\\Rightarrow", "\\implies"]
)
def test_an_arrow_of_any_kind_leads_to_the_letter(arrow: str) -> None:
    for text in (f"Answer {arrow} B", f"A slips.\n**Answer** ${arrow}$ B"):
        found = extract(text, "ABCD")
        assert (found.letter, found.how) == ("B", "answer"), text


def test_the_table_of_shapes_is_large_and_has_every_outcome() -> None:
    assert len(SHAPES) >= 80
    assert len({row[1:3] for row in SHAPES}) == len(SHAPES) == len({row[0] for row in SHAPES})
    assert {row[4] for row in SHAPES} == {"answer", "fallback", "none"}
    others = [row[2] for row in (*WRITTEN_FIRST, *HELD_OUT, *FURTHER)]
    assert len(set(others)) == len(others)
    assert 3 * len(WRITTEN_FIRST) >= len(SHAPES) + len(TRUNCATED) + len(others)


def test_the_tables_of_the_docs_are_those_of_the_shapes() -> None:
    page = (ROOT / "docs" / "protocols.md").read_text("utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == tables(), "run python tests/answer_shapes.py"


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"ABCDZaI .,\n*_$(){}[]\\/:=-<>'`|#정답은답",
                "Answer",
                "answer is ",
                "\\boxed{",
                "or ",
                "<think>",
                "</think>",
                "Option ",
            ]
        )
    )
)
def test_any_text_gives_an_offered_letter_or_none(parts: list[str]) -> None:
    text = "".join(parts)
    for truncated in (False, True):
        found = extract(text, "ABCD", truncated=truncated)
        assert found.letter in ("", *"ABCD")
        assert (found.letter == "") == (found.how == "none")
        assert not (truncated and found.how == "fallback")
    for characters in (0, 1, 5, 20):
        assert len(reasoning_extract(text, characters)) <= characters


# what a model that repeats itself may repeat: words of every rule, what they may be dressed in, and what begins a match
UNITS = (
    *(
        "answer ",
        "Answer: ",
        "answer is ",
        "the answer is not ",
        "correct option ",
        "the option that ",
        "best answer of ",
    ),
    *(
        "A ",
        "A, ",
        "A. ",
        "B\n",
        "A: B\n",
        "B) x\n",
        "Answer: A or ",
        "\\boxed{",
        "\\boxed{A} or ",
        "\\textbf{",
        "{\\bf ",
    ),
    *("B is correct. ", "if B is correct, ", "I choose C ", "so ", "therefore B ", "if the answer is A, ", "that is "),
    *(
        "*",
        " ",
        "\n",
        "(",
        "((A))",
        '"',
        "_",
        "[",
        "$",
        "> ",
        "- [ ] ",
        "→",
        "✅ ",
        "🅱",
        "é",
        "e\u0301",
        "<think>",
        "<b>",
    ),
    *(
        "정답은 ",
        "A가 정답",
        "따라서 ",
        "故选",
        "所以C是",
        "正解は",
        "la opción ",
        "ist nicht ",
        "réponse ",
        "вариант ",
    ),
)


def _seconds(text: str) -> float:
    begin = time.process_time()
    extract(text, "ABCD")
    reasoning_extract(text, 600)
    return time.process_time() - begin


def _repeated(unit: str, length: int) -> str:
    return unit * (length // len(unit))


def _assert_time_is_linear(unit: str, length: int, times: int) -> None:
    # twice what is linear; quadratic time would be `times` / 2 times that. The best of several counts:
    # others use the machine
    short = min(_seconds(_repeated(unit, length)) for _ in range(2))
    assert any(_seconds(_repeated(unit, length * times)) < 2 * times * short + 0.02 for _ in range(3)), short


@pytest.mark.parametrize("unit", UNITS)
def test_the_time_is_linear_whatever_a_model_repeats(unit: str) -> None:
    _assert_time_is_linear(unit, 3_000, 5)


@pytest.mark.parametrize("seed", range(12))
def test_the_time_is_linear_in_what_alternates(seed: int) -> None:
    _assert_time_is_linear("".join(random.Random(seed).sample(UNITS, 2)), 3_000, 5)


@pytest.mark.parametrize("unit", ["\\boxed{A} or ", "answer is "])
def test_100_kb_take_what_is_linear(unit: str) -> None:
    _assert_time_is_linear(unit, 5_000, 20)


@pytest.mark.parametrize(
    ("begin", "end"), [("\\boxed{", "A"), ("Answer: B", "is"), ("Answer: A,", "B"), ("correct", "option")]
)
@pytest.mark.parametrize("run", [" ", "*", "(", "\n", "$ "])
def test_a_long_run_inside_a_statement_takes_linear_time(begin: str, end: str, run: str) -> None:
    assert any(_seconds(begin + run * 10_000 + end) < 2 for _ in range(3))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Water boils at 100 degrees.\n\nAnswer: B", "Water boils at 100 degrees."),
        (
            "It is 2-[(4-methylphenyl)amino]propanoic acid,\n  [Fe(CN)6]4-.\nAnswer: A",
            "It is 2-[(4-methylphenyl)amino]propanoic acid, [Fe(CN)6]4-.",
        ),
        ("Answer: B\n\nWater boils at 100 degrees.", "Water boils at 100 degrees."),
        ("Water boils at 100 degrees, so the answer is B.", "Water boils at 100 degrees, so the"),
        ("Water boils.\n\n$\\boxed{B}$", "Water boils."),
        ("Water boils.\n\n**B**", "Water boils."),
        ("<think>Hidden thought.</think>Water boils.\nAnswer: B", "Water boils."),
        ("<think>Hidden thought.</think>\n\nAnswer: B", "Hidden thought."),
        ("Hidden thought.</think>\n\nAnswer: B", "Hidden thought."),
        ("Answer: A\nNo, wait.\nAnswer: B", "Answer: A No, wait."),
        ("Answer: B", ""),
        ("", ""),
    ],
)
def test_an_extract_is_the_reasoning_without_the_letter(text: str, want: str) -> None:
    assert reasoning_extract(text, 600) == want


def test_an_extract_keeps_to_its_length_and_begins_with_a_sentence_or_a_word() -> None:
    text = "First sentence here. Second sentence there. Third sentence at the end.\nAnswer: A"
    assert reasoning_extract(text, 40) == "Third sentence at the end."
    assert reasoning_extract(text, 30) == "Third sentence at the end."
    assert reasoning_extract(text, 20) == "… at the end."
    assert reasoning_extract("한" * 100 + "\n정답: A", 20) == "… " + "한" * 18
    assert reasoning_extract(text, 0) == ""


def test_reasoning_is_not_visible() -> None:
    assert visible("<think>a</think>b<think>c</think>d") == "bd"
    assert visible("a</think>b") == "b"
    assert visible("b<think>a") == "b"
