"""Texts that the model writes itself: a head is used on those, and they are not quite the texts that people write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import DarwinNegError
from ..files.output_file import replacing
from ..files.progress import Progress
from ..sampling import BUILT_IN, Neg, SamplingParams, fill_in
from .corpus import Document, Split, distinct, split

if TYPE_CHECKING:
    from ..engine.session import Session
    from ..results import Generation

FILES = ("own-texts.jsonl", "own-answers.jsonl")
AT_ONCE = 32
OPENING_CHARACTERS = (20, 120)
REDRAWS = 20  # for an opening that has been drawn before
WORD_CHARACTERS = 24  # how far the end of a word is looked for; not every language writes spaces


@dataclass(frozen=True)
class Opening:
    """What one of the model's own texts starts with; empty for its start token alone. answer: whether it is a message
    that the model answers, rather than a text that it continues."""

    origin: str
    text: str
    answer: bool
    split: Split = "train"


@dataclass(frozen=True)
class Writing:
    """How the model writes. count: texts. tokens: of each at most. model: SHA-256 of the model's file."""

    count: int
    tokens: int
    temperature: float
    seed: int
    model: str


class Writer(Protocol):
    """Where else the model runs than in this process: a remote.engine.RemoteEngine."""

    def write(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, samples: Sequence[int] | None = None
    ) -> list[tuple[int, ...]]:
        """Token ids of a continuation of each prompt, each drawn as sample `samples[i]` of a request."""
        ...


def write_own_texts(
    session: Session,
    documents: Sequence[Document],
    writing: Writing,
    folder: Path,
    progress: Progress,
    writer: Writer | None = None,
) -> list[Document]:
    """The model's own texts, each once. What an interrupted run has written into `folder` is not generated again.

    writer: generates them instead of the session, which tokenizes.

    Each text is in the part of the data of the document that it starts from. Without documents, half of the texts start
    from nothing, and the others answer pieces of those. progress: texts done and in total.
    """
    texts, answers = (folder / name for name in FILES)
    source = _Source(session, writer)
    if documents:
        starts = draw_openings(documents, writing.count, writing.seed)
        return distinct(_write(source, starts, writing, texts, 0, progress))
    free = [Opening(f"own text {k}", "", answer=False) for k in range(writing.count - writing.count // 2)]
    own = split(distinct(_write(source, free, writing, texts, 0, progress)), writing.seed)
    written = [document for document in own if document.text.strip()]
    if not written:
        return own
    starts = draw_openings(written, writing.count // 2, writing.seed)
    starts = [replace(opening, answer=True) for opening in starts]
    return distinct([*own, *_write(source, starts, writing, answers, len(free), progress)])


def draw_openings(documents: Sequence[Document], count: int, seed: int) -> list[Opening]:
    """Where the model's own texts start: some characters out of a document. Every second one is to be answered."""
    rng = np.random.default_rng([seed, 2])
    out: list[Opening] = []
    drawn: set[str] = set()
    for k in range(count):
        for _ in range(REDRAWS):
            source = documents[int(rng.integers(len(documents)))]
            text = _draw_opening(" ".join(source.text.split()), rng)
            if text not in drawn:
                break
        drawn.add(text)
        out.append(Opening(f"own text {k}, out of {source.origin}", text, k % 2 == 1, source.split))
    return out


@dataclass(frozen=True)
class _Source:
    session: Session
    writer: Writer | None


def generate(
    session: Session,
    starts: Sequence[Opening],
    *,
    seed: int,
    max_tokens: int,
    temperature: float,
    writer: Writer | None = None,
) -> list[tuple[int, ...]]:
    """Token ids of the model's continuations of openings, and of its answers to those that are messages, where it has
    a template. writer: see write_own_texts."""
    prompts = [_prompt(session, start) for start in starts]
    # the texts are what this package says they are, whatever the model file has for conversations
    params = fill_in(SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed), BUILT_IN)
    # With one seed, the same prompt gives the same text; the samples of one prompt are drawn each for itself. One call
    # in any case: texts that begin in the same step are the same ones in every run.
    same = len(starts) > 1 and all(prompt == prompts[0] for prompt in prompts)
    if writer is not None:
        # as the session would: with the gate where the file has a head
        params = replace(params, neg=Neg(enabled=session.neg is not None))
        answers = writer.write(prompts, params, samples=range(len(starts)) if same else None)
    elif same:
        (samples,) = session.run(prompts[:1], replace(params, n=len(starts)))
        answers = [_token_ids(sample) for sample in (samples if isinstance(samples, list) else [samples])]
    else:
        answers = [_token_ids(result) for result in session.run(prompts, params)]
    return [(*prompt, *answer) for prompt, answer in zip(prompts, answers, strict=True)]


def _token_ids(result: Generation | list[Generation]) -> tuple[int, ...]:
    assert not isinstance(result, list)  # n is 1
    if result.error is not None:  # half a text is nothing to learn from
        raise DarwinNegError(result.error)
    return tuple(int(token) for token in result.token_ids)


def _draw_opening(text: str, rng: np.random.Generator) -> str:
    begin = int(rng.integers(max(1, len(text) - OPENING_CHARACTERS[1])))
    if begin:
        begin = max(begin, 1 + text.find(" ", begin, begin + WORD_CHARACTERS))
    end = begin + int(rng.integers(*OPENING_CHARACTERS))
    space = text.find(" ", end, end + WORD_CHARACTERS)
    return text[begin : end if space < 0 else space]


def _prompt(session: Session, start: Opening) -> list[int]:
    if not start.text:
        return [session.info["bos"] if session.info["bos"] >= 0 else session.info["eos"]]
    if start.answer and session.info["chat_template"]:
        return session.chat_tokens([{"role": "user", "content": start.text}])
    return session.tokenize(start.text, parse_special=False)


def _write(
    source: _Source, starts: Sequence[Opening], writing: Writing, path: Path, before: int, progress: Progress
) -> list[Document]:
    """Texts from these openings, kept in `path`. before: number of texts in other files."""
    session = source.session
    # a head may act on what is sampled
    parts = [writing.model, session.neg, writing.tokens, writing.temperature, writing.seed, before, starts]
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    tokens = _read_saved(path, key)[: len(starts)]
    while len(tokens) < len(starts):
        tokens += generate(
            session,
            starts[len(tokens) : len(tokens) + AT_ONCE],
            seed=_group_seed(writing.seed, before + len(tokens)),
            max_tokens=writing.tokens,
            temperature=writing.temperature,
            writer=source.writer,
        )
        with replacing(path) as (file, _):
            file.write("\n".join(json.dumps(line) for line in [key, *tokens]).encode())
        progress(before + len(tokens), writing.count)
    return [
        Document(start.origin, session.detokenize(ids), ids, start.split)
        for start, ids in zip(starts, tokens, strict=True)
        if len(ids) > 1
    ]


def _group_seed(seed: int, first: int) -> int:
    """The seed of texts that are generated together, the first of which has this number."""
    return int(np.random.SeedSequence([seed, 3, first]).generate_state(1, np.uint32)[0])


def _read_saved(path: Path, key: str) -> list[tuple[int, ...]]:
    try:
        first, *lines = path.read_text("utf-8").split("\n")
        return [tuple(json.loads(line)) for line in lines] if json.loads(first) == key else []
    except (OSError, ValueError, TypeError):  # damaged: it only saves time
        return []
