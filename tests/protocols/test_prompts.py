"""What the model is asked, word for word."""

from __future__ import annotations

import pytest

from darwin_neg_cpp.protocols import Question, prompts
from scripted_candidates import shown


def test_the_fingerprint_of_a_prompt_changes_with_its_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    # pinned: figures made with other words are not comparable, so a change here is one of the protocol
    assert {name: prompts.fingerprint(name) for name in prompts.PROMPTS} == {
        "simple-evals": "e52abe7edf40cb1b",
        "direct": "82435def9a0e5988",
    }
    before = prompts.fingerprint("direct")
    words = prompts.direct
    monkeypatch.setitem(prompts.PROMPTS, "direct", lambda q, o: words(q, o) + ".")
    assert prompts.fingerprint("direct") != before
    monkeypatch.undo()
    again = prompts.second_opinion
    monkeypatch.setattr(prompts, "second_opinion", lambda q, p, e: again(q, p, e) + ".")
    assert prompts.fingerprint("direct") != before


def test_the_default_prompt_is_that_of_simple_evals() -> None:
    asked = Question("Which planet is nearest to the sun?", ("Venus", "Mercury", "Mars", "Earth"))
    assert prompts.simple_evals(asked, (0, 1, 2, 3)) == (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        "\n\nWhich planet is nearest to the sun?\n\n"
        "A) Venus\nB) Mercury\nC) Mars\nD) Earth"
    )


def test_braces_and_percent_signs_in_a_question_are_left_alone() -> None:
    asked = Question("What is {0} %s {x}?", ("{1}", "%d", "$x$", "\\{"))
    for form in prompts.PROMPTS.values():
        text = form(asked, (0, 1, 2, 3))
        assert "What is {0} %s {x}?" in text and shown(text) == list(asked.choices)
