"""What the model is asked.

The default is the form of OpenAI's simple-evals, with which figures for GPQA are commonly made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from .question import LETTERS, Ordering, Question, letters


def _choices(question: Question, ordering: Ordering, mark: str) -> str:
    return "\n".join(mark.format(LETTERS[k], question.choices[i]) for k, i in enumerate(ordering))


def simple_evals(question: Question, ordering: Ordering) -> str:
    """QUERY_TEMPLATE_MULTICHOICE of simple-evals (common.py) word for word, with one letter for each choice."""
    return (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        f"format: 'Answer: $LETTER' (without quotes) where LETTER is one of {letters(ordering)}. "
        "Think step by step before answering.\n\n"
        f"{question.stem}\n\n{_choices(question, ordering, '{}) {}')}"
    )


def direct(question: Question, ordering: Ordering) -> str:
    """Asks for an answer without reasoning, for small models and quick runs."""
    choices = _choices(question, ordering, "{}. {}")
    return f"{question.stem}\n\n{choices}\n\nReply with one line, 'Answer: ' and the letter of the right choice."


PROMPTS: dict[str, Callable[[Question, Ordering], str]] = {"simple-evals": simple_evals, "direct": direct}


def second_opinion(question: Question, pair: Ordering, extracts: Sequence[str]) -> str:
    """Asks to decide between two choices, each with an argument.

    extracts: one argument for each of the pair; "" if there is none.
    """
    parts = [
        f"{LETTERS[k]}) {question.choices[i]}\nAn argument for {LETTERS[k]}: {extract or '(none was given)'}"
        for k, (i, extract) in enumerate(zip(pair, extracts, strict=True))
    ]
    return (
        "Several attempts at the following multiple choice question ended in two different answers. Weigh the two "
        "arguments, find the mistake in one of them, and decide. Letters inside an argument may be those of another "
        "list. The last line of your response should be of the following "
        f"format: 'Answer: $LETTER' (without quotes) where LETTER is one of {letters(pair)}.\n\n{question.stem}\n\n"
        + "\n\n".join(parts)
    )


def fingerprint(name: str) -> str:
    """Hashes what is asked for a made-up question; it changes whenever the wording of a prompt does."""
    question = Question("stem", ("first", "second", "third"), "fingerprint")
    texts = [PROMPTS[name](question, (2, 0, 1)), second_opinion(question, (1, 0), ["x", ""])]
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:16]
