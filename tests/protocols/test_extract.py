"""The letter and the reasoning that are read from an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answer_shapes import HELD_OUT, SHAPES, TRUNCATED, WRITTEN_FIRST
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


@pytest.mark.parametrize(("text", "letter"), [row[2:4] for row in WRITTEN_FIRST])
def test_the_shapes_written_before_the_rules_are_read_too(text: str, letter: str) -> None:
    assert extract(text, "ABCD").letter == letter


def test_the_table_says_what_was_read_of_the_held_out_shapes() -> None:
    assert [extract(text, "ABCD").letter for _, _, text, _, _ in HELD_OUT] == [row[4] for row in HELD_OUT]
    assert sum(row[3] == row[4] for row in HELD_OUT) == 42


def test_the_table_of_shapes_is_large_and_has_every_outcome() -> None:
    assert len(SHAPES) >= 80
    assert len({row[1:3] for row in SHAPES}) == len(SHAPES) == len({row[0] for row in SHAPES})
    assert {row[4] for row in SHAPES} == {"answer", "fallback", "none"}


@settings(max_examples=2000, deadline=None)
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


@pytest.mark.parametrize(
    "unit",
    ["answer ", "Answer: ", "*", " ", "<think>", "<b>", "\\boxed{", "Answer: A or ", "\\boxed{A} or ", "A, ", "B\n"],
)
def test_a_model_that_repeats_itself_is_read_in_no_time(unit: str) -> None:
    import time

    text = unit * (100_000 // len(unit))
    begin = time.process_time()
    extract(text, "ABCD")
    reasoning_extract(text, 600)
    assert time.process_time() - begin < 2


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
