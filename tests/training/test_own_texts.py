"""The model's own texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from darwin_neg_cpp import RequestError
from darwin_neg_cpp.training import corpus
from darwin_neg_cpp.training import train as command
from training_runs import go, settings, tiny, written


def test_own_texts_without_text_differ_and_hold_no_control_tokens_as_text(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    messages: list[str] = []
    with tiny(tiny_llama) as llm:
        templated = llm.apply_chat_template
        llm.apply_chat_template = lambda asked: messages.append(asked[0]["content"]) or templated(asked)
        found = command._own_documents(llm, settings(tmp_path), [], tmp_path / "work", "model", lambda *_: None)
    assert len(found) == 40 == len({one.tokens[-40:] for one in found})
    assert {one.split for one in found} == set(corpus.SPLITS)
    assert len(messages) == 20 == len(set(messages))
    assert all(one.strip() and "<s>" not in one and "</s>" not in one for one in messages)
    # an answer is where the text is that it starts from
    of = {one.origin: one.split for one in found}
    answers = [one for one in found if "out of" in one.origin]
    assert len(answers) == 20 and all(one.split == of[one.origin.partition("out of ")[2]] for one in answers)


def test_own_texts_that_are_too_few_leave_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--self-generate"):
        go(tiny_llama, settings(tmp_path, own_texts=3))
    assert written(tmp_path) == []
