"""Stretches of text at which the model was unsure: by hand, against a plain reading of bytes, and from real answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from darwin_neg_cpp import ChatReply, DarwinNEG, Generation, NegTrace, RequestError, UncertainSpan
from darwin_neg_cpp.spans import find_origins, find_spans, token_offsets
from tiny_gguf import write_tiny_llama


def generation(tokens: Sequence[tuple[str, float]], *, threshold: float | None = 1.0, neg: bool = True) -> Generation:
    """tokens: text and entropy; a text that ends in … ends inside a character."""
    pieces = tuple(text.removesuffix("…") for text, _ in tokens)
    entropy = np.array([value for _, value in tokens], np.float32)
    return Generation(
        "".join(pieces),
        np.arange(len(tokens), dtype=np.int32),
        "stop",
        NegTrace(entropy, entropy > 1, threshold) if neg else None,
        true_entropy=entropy + np.float32(1),
        pieces=pieces,
        ends_inside=np.array([text.endswith("…") for text, _ in tokens], np.bool_),
    )


def told(spans: Sequence[UncertainSpan]) -> list[tuple[int, int, str, int, int]]:
    return [(span.start, span.end, span.text, span.first_token, span.end_token) for span in spans]


CASES: dict[str, tuple[list[tuple[str, float]], list[tuple[int, int, str, int, int]]]] = {
    "nothing": ([], []),
    "an end token alone": ([("", 5)], []),
    "all sure": ([("a", 0), ("b", 1)], []),
    "one stretch": ([("The ", 0), ("cat", 2), (" sat", 3), (".", 0), ("", 4)], [(4, 11, "cat sat", 1, 3)]),
    "at both ends": ([("a", 2), ("b", 0), ("c", 2)], [(0, 1, "a", 0, 1), (2, 3, "c", 2, 3)]),
    "a control token between": ([("a", 2), ("", 0), ("b", 2)], [(0, 2, "ab", 0, 3)]),
    "an unsure control token": ([("a", 0), ("", 9), ("b", 0)], []),
    "NaN": ([("a", float("nan")), ("b", 2)], [(1, 2, "b", 1, 2)]),
    "the first byte is unsure": ([("a", 0), ("…", 2), ("…", 0), ("안", 0), ("b", 0)], [(1, 2, "안", 1, 2)]),
    "the last byte is unsure": ([("a", 0), ("…", 0), ("안", 2), ("b", 0)], [(1, 2, "안", 2, 3)]),
    "first and last": ([("…", 2), ("…", 0), ("안", 3), ("b", 0)], [(0, 1, "안", 0, 3)]),
    "a space and half a quote": ([(" …", 2), ("“", 0), ("x", 0)], [(0, 2, " “", 0, 1)]),
    "the quote's other half": ([(" …", 0), ("“x", 2), ("y", 0)], [(1, 3, "“x", 1, 2)]),
    "halves of two characters": ([("…", 0), ("é…", 2), ("ü", 0), ("z", 0)], [(0, 2, "éü", 1, 2)]),
    "two stretches meet in one character": ([("a…", 2), ("…", 0), ("é", 0), ("b", 2)], [(0, 3, "aéb", 0, 4)]),
    "a character that never came": ([("a", 0), ("b…", 2)], [(1, 2, "b", 1, 2)]),
}


@pytest.mark.parametrize(("tokens", "expected"), CASES.values(), ids=list(CASES))
def test_stretches_by_hand(tokens: list[tuple[str, float]], expected: list[tuple[int, int, str, int, int]]) -> None:
    out = generation(tokens)
    spans = out.uncertain_spans()
    assert told(spans) == expected
    for span in spans:
        values = [value for _, value in tokens[span.first_token : span.end_token]]
        assert span.mean_entropy == pytest.approx(np.mean(values)) and span.max_entropy == max(values)
        assert out.text[span.start : span.end] == span.text
        assert span.as_dict()["text"] == span.text


def test_the_threshold_is_the_models_or_the_callers_and_compares_in_float32() -> None:
    out = generation([("a", 0.1), ("b", 1.5), ("c", 3)])
    assert [span.text for span in out.uncertain_spans()] == ["bc"]
    assert [span.text for span in out.uncertain_spans(2)] == ["c"]
    assert [span.text for span in out.uncertain_spans(0)] == ["abc"]
    assert out.uncertain_spans(float("inf")) == []
    assert [span.text for span in out.uncertain_spans(0.1)] == ["bc"]  # as float32, 0.1 is not above 0.1
    assert [span.text for span in out.uncertain_spans(2, true_entropy=True)] == ["bc"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"neg": False}, {}, "has no NEG head"),
        ({"neg": False}, {"true_entropy": True}, "threshold is None"),
        ({"threshold": None}, {}, "threshold is None"),
        ({}, {"threshold": -1}, "threshold must be"),
        ({}, {"threshold": float("nan")}, "threshold must be a finite number"),
        ({}, {"threshold": "1"}, "threshold must be a number"),
    ],
)
def test_what_cannot_be_told_is_refused(change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        generation([("a", 2)], **change).uncertain_spans(**options)


def test_true_entropy_that_was_not_asked_for_is_named() -> None:
    out = Generation("a", np.zeros(1, np.int32), "stop", None, pieces=("a",))
    with pytest.raises(RequestError, match="pass true_entropy=True to the request"):
        out.uncertain_spans(1, true_entropy=True)


def bytes_of_characters(text: str) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(len(character.encode()) for character in text))
    return list(zip([0, *ends][:-1], ends, strict=True))


def test_any_cut_of_any_text_marks_the_characters_whose_bytes_an_unsure_token_wrote() -> None:
    random = np.random.default_rng(5)
    for _ in range(2000):
        text = "".join(random.choice(list("ab é안😀“ ")) for _ in range(random.integers(0, 12)))
        data = text.encode()
        cuts = sorted(random.integers(0, len(data) + 1, size=random.integers(0, 12)))
        bounds = list(itertools.pairwise([0, *cuts, len(data)]))
        entropy = random.choice([0, 2], size=len(bounds)).astype(np.float32)
        characters = bytes_of_characters(text)
        # a piece is what its token completes
        pieces = ["".join(c for c, (_, end) in zip(text, characters, strict=True) if a < end <= b) for a, b in bounds]
        inside = [any(begin < b < end for begin, end in characters) and b > a for a, b in bounds]
        unsure = [
            any(e > 1 and max(a, begin) < min(b, end) for (a, b), e in zip(bounds, entropy, strict=True))
            for begin, end in characters
        ]
        marked = [False] * len(text)
        last = -1
        for span in find_spans(text, token_offsets(pieces, inside), entropy, 1.0):
            assert span.start > last  # stretches that touch are one
            last = span.end
            marked[span.start : span.end] = [True] * (span.end - span.start)
        assert marked == unsure, (text, bounds)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    file = write_tiny_llama(tmp_path_factory.mktemp("spans") / "tiny.gguf")
    with DarwinNEG(file, n_ctx=256, n_parallel=2, n_threads=1, chat_template=template) as model:
        yield model


@pytest.mark.parametrize("stop", [None, "😀", ", é"])
def test_characters_of_several_tokens_and_stop_strings_in_a_real_answer(byte_model: DarwinNEG, stop: Any) -> None:
    text = "안녕😀, é!"
    options: dict[str, Any] = {"grammar": f'root ::= "{text}"', "temperature": 0.0, "max_tokens": 40, "stop": stop}
    out = byte_model.generate("a", true_entropy=True, **options)
    assert out.text == (text if stop is None else text.partition(stop)[0])
    # the tokens of this model are bytes
    expected = [[k] * len(character.encode()) for k, character in enumerate(out.text)]
    owners = [k for ks in expected for k in ks]
    assert [tuple(pair) for pair in out.offsets[: len(owners)]] == [(k, k + 1) for k in owners]
    assert all(begin == end for begin, end in out.offsets[len(owners) :])
    (span,) = out.uncertain_spans(0.0, true_entropy=True)
    assert (span.start, span.text, span.first_token, span.end_token) == (0, out.text, 0, len(owners))
    assert out.uncertain_spans(99.0, true_entropy=True) == []
    with byte_model.stream("a", true_entropy=True, **options) as chunks:
        inside = np.concatenate([chunk.ends_inside for chunk in chunks])
    assert out.ends_inside is not None and inside.tolist() == out.ends_inside.tolist()


def test_an_empty_answer_has_none(byte_model: DarwinNEG) -> None:
    out = byte_model.generate("a", max_tokens=0, true_entropy=True)
    assert out.true_entropy is not None and out.offsets.shape == (0, 2)
    assert out.uncertain_spans(0, true_entropy=True) == []


def reply(tokens: Sequence[tuple[str, float]], reasoning: str, text: str) -> ChatReply:
    return ChatReply(text, reasoning, generation(tokens))


def test_a_chat_answer_counts_in_its_visible_text_and_apart_in_its_reasoning() -> None:
    tokens = [("<think>", 0), ("42 or", 2), (" 7", 0), ("</think>", 3), ("\n\n", 0), ("42", 2), (" é…", 2), ("!", 0)]
    tokens[6:] = [(" …", 2), ("é!", 0), ("", 5)]
    out = reply(tokens, "42 or 7", "42 é!")
    assert told(out.uncertain_spans()) == [(0, 4, "42 é", 5, 7)]
    assert told(out.uncertain_spans(part="reasoning")) == [(0, 5, "42 or", 1, 2)]
    assert [span.text for span in out.generation.uncertain_spans()] == ["42 or", "</think>", "42 é"]
    with pytest.raises(RequestError, match="part must be 'text' or 'reasoning'"):
        out.uncertain_spans(part="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "reasoning", "text", "expected"),
    [
        ([("<think>hm", 2), ("</think>", 2)], "hm", "", []),  # nothing visible
        ([("hm", 0), ("</think>", 0), ("hm", 2)], "hm", "hm", [(0, 2, "hm", 2, 3)]),  # the same words in both
        ([("think", 2), ("</think>", 0), ("think", 0)], "think", "think", []),
        # a call between two parts of the text: they are not one stretch
        ([("a ", 2), ("<call>", 2), ("b", 2)], "", "a b", [(0, 2, "a ", 0, 1), (2, 3, "b", 2, 3)]),
        ([("  yes", 2), ("  ", 0)], "", "yes", [(0, 3, "yes", 0, 1)]),
        ([("x", 2)], "", "y", []),  # what no token has written
    ],
)
def test_chat_answers_of_other_shapes(tokens: Any, reasoning: str, text: str, expected: Any) -> None:
    assert told(reply(tokens, reasoning, text).uncertain_spans()) == expected


def test_the_origin_of_a_part_is_the_last_place_it_fits() -> None:
    assert find_origins("ab", "ab ab") == [3, 4]
    assert find_origins("ab", "ab abc") == [0, 1]
    assert find_origins("ab", "ab abc", 1) == [3, 4]
    assert find_origins("", "abc") == []


def test_the_engine_tells_the_models_threshold(llm: DarwinNEG) -> None:
    out = llm.generate("one TWO THREE four", neg=None)
    assert out.neg is not None and out.neg.threshold == 1.0
    assert told(out.uncertain_spans()) == [(4, 14, "TWO THREE ", 1, 3)]
    answer = llm.chat([{"role": "user", "content": "thinker"}])
    assert answer.uncertain_spans() == []
    streamed = [chunk.neg for chunk in llm.stream("one TWO")]
    assert all(neg is not None and neg.threshold == 1.0 for neg in streamed)
