"""The model's own texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from darwin_neg_cpp import DarwinNEG, RequestError
from darwin_neg_cpp.files.progress import no_progress
from darwin_neg_cpp.training import corpus
from darwin_neg_cpp.training.own_texts import Opening, Writing, generate, write_own_texts
from training_runs import PLAIN_TEMPLATE, go, settings, tiny, written


def test_own_texts_without_text_differ_and_hold_no_control_tokens_as_text(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    messages: list[str] = []
    with tiny(tiny_llama) as llm:
        templated = llm.session.chat_tokens
        llm.session.chat_tokens = lambda asked: messages.append(asked[0]["content"]) or templated(asked)
        found = write_own_texts(llm.session, [], Writing(40, 60, 0.8, 0, "model"), tmp_path / "work", no_progress)
    assert len(found) == 40 == len({document.tokens[-40:] for document in found})
    assert {document.split for document in found} == set(corpus.SPLITS)
    assert len(messages) == 20 == len(set(messages))
    assert all(message.strip() and "<s>" not in message and "</s>" not in message for message in messages)
    # an answer is where the text is that it starts from
    of = {document.origin: document.split for document in found}
    answers = [document for document in found if "out of" in document.origin]
    assert len(answers) == 20 and all(
        document.split == of[document.origin.partition("out of ")[2]] for document in answers
    )


def test_the_models_own_texts_begin_with_its_start_token(tiny_llama: Path) -> None:
    starts = [Opening("a", "hi", answer) for answer in (False, True)] + [Opening("b", "", answer=False)]
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=4, chat_template=PLAIN_TEMPLATE) as llm:
        bos, text = llm.info["bos"], llm.tokenize("hi", add_special=False)
        written = generate(llm.session, starts, seed=1, max_tokens=2, temperature=0.8)
    assert [tokens[: 1 + len(text)] for tokens in written[:2]] == [(bos, *text)] * 2
    assert written[2][0] == bos


def test_own_texts_that_are_too_few_leave_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="own_texts"):
        go(tiny_llama, settings(tmp_path, own_texts=3))
    assert written(tmp_path) == []
