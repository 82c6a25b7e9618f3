"""Texts to train and judge a head on: read, cut into documents, and split by document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import RequestError
from ..files.input_file import open_input, shown_path

if TYPE_CHECKING:
    from ..llm import DarwinNEG

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.1  # of the tokens, for validation and for test each
ENOUGH_DOCUMENTS = 30
PART_CHARACTERS = (1000, 8000)  # of the parts that long texts are cut in, at least
# ends of paragraphs, lines, sentences and words: where a long text is cut, the first that serves
CUTS = (r"\n\n+", r"\n", r"[.!?]\s|[。！？]", r"\s")
# below this the figures are noise, and the head is too
LEAST_TOKENS = {"train": 2000, "validation": 200, "test": 200}


@dataclass(frozen=True)
class Document:
    """A text with its origin, its token ids, and the part of the data it belongs to."""

    origin: str
    text: str
    tokens: tuple[int, ...] = ()
    split: Split = "train"


@dataclass(frozen=True)
class Opening:
    """What one of the model's own texts starts with; nothing for its start token alone. answer: it is a message that the model answers."""

    origin: str
    text: str
    answer: bool
    split: Split = "train"


def read(paths: Sequence[Path], least_part: int = PART_CHARACTERS[0]) -> list[Document]:
    """A file is a document; of a .jsonl file every line is one, by its "text". A text that is there twice counts once.

    When that gives few documents, they are cut in parts, so that there is something to split. least_part: characters.
    """
    documents = distinct([document for path in paths for document in _read_file(path)])
    if len(documents) < ENOUGH_DOCUMENTS:
        size = sum(len(one.text) for one in documents) // ENOUGH_DOCUMENTS
        size = min(max(size, least_part), PART_CHARACTERS[1])
        documents = distinct([part for document in documents for part in _parts(document, size)])
    return documents


def distinct(documents: Sequence[Document]) -> list[Document]:
    """The first of each text, spaces aside: a text in two parts of the data would be tested by what it was trained on."""
    first: dict[str, Document] = {}
    for one in documents:
        first.setdefault(" ".join(one.text.split()), one)
    return list(first.values())


def _read_file(path: Path) -> Iterator[Document]:
    name = shown_path(path)
    with open_input(str(path), RequestError) as file:
        data = file.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name}: is not UTF-8 text (byte {error.start}); convert it or leave it out") from None
    if "\0" in text:
        raise RequestError(f"{name}: is a binary file, not text; leave it out")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if path.suffix != ".jsonl":
        if not text.strip():
            raise RequestError(f"{name}: holds no text; leave it out")
        yield Document(name, text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the latter for thousands of brackets
            raise RequestError(f"{name}:{number}: is not JSON; expected one object a line") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise RequestError(f'{name}:{number}: has no "text"; expected an object with the text of a document')
        if entry["text"].strip():
            yield Document(f"{name}:{number}", entry["text"])


def _parts(document: Document, size: int) -> Iterator[Document]:
    pieces = [piece.strip("\n") for piece in _cut(document.text, size, CUTS) if piece.strip()]
    if len(pieces) < 2:
        yield document
        return
    for number, piece in enumerate(pieces, start=1):
        yield replace(document, origin=f"{document.origin}#{number}", text=piece)


def _cut(text: str, size: int, cuts: Sequence[str]) -> Iterator[str]:
    """In pieces of `size` characters or somewhat more, behind what cuts[0] finds; one that is far too long by the cuts that follow."""
    ends = [found.end() for found in re.finditer(cuts[0], text)] if cuts else list(range(size, len(text), size))
    begin = 0
    for end in [*ends, len(text)]:
        if end - begin < size and end < len(text):
            continue
        piece, begin = text[begin:end], end
        if cuts and len(piece) > 2 * size:
            yield from _cut(piece, size, cuts[1:])
        else:
            yield piece


def tokenized(llm: DarwinNEG, documents: Sequence[Document]) -> list[Document]:
    """With token ids; control tokens written out in the text are text."""
    out = [replace(one, tokens=tuple(llm.tokenize(one.text, parse_special=False))) for one in documents]
    return [one for one in out if len(one.tokens) > 1]


def limited(documents: Sequence[Document], max_tokens: int, seed: int) -> list[Document]:
    """Documents in an order drawn from `seed`, as many as hold `max_tokens`; the last one is cut."""
    out = []
    left = max_tokens
    for i in np.random.default_rng(seed).permutation(len(documents)):
        if left <= 1:
            break
        one = documents[i]
        out.append(replace(one, tokens=one.tokens[:left]))
        left -= len(out[-1].tokens)
    return out


def split(documents: Sequence[Document], seed: int) -> list[Document]:
    """Each document wholly in train, validation or test, drawn from `seed`: HELD_OUT of the tokens for the last two each."""
    total = sum(len(one.tokens) for one in documents)
    held: dict[Split, int] = {"test": 0, "validation": 0}
    out = []
    for i in np.random.default_rng([seed, 1]).permutation(len(documents)):
        one = documents[i]
        part: Split = next((name for name in held if held[name] < HELD_OUT * total), "train")
        if part in held:
            held[part] += len(one.tokens)
        out.append(replace(one, split=part))
    return out


def check_size(documents: Sequence[Document]) -> None:
    """Documents that leave enough tokens in each part of the data."""
    for part in SPLITS:
        count = sum(len(one.tokens) for one in documents if one.split == part)
        if count < LEAST_TOKENS[part]:
            total = sum(len(one.tokens) for one in documents)
            raise RequestError(
                f"--text: {total} tokens in {len(documents)} documents leave {count} for {part}, at least {LEAST_TOKENS[part]} are needed; "
                f"give more text, {4 * sum(LEAST_TOKENS.values())} tokens are enough, or a larger --self-generate N"
            )


def sequences(documents: Sequence[Document], length: int) -> list[tuple[int, ...]]:
    """What is run through the model: documents in pieces of up to `length` tokens. Pieces of one token are dropped."""
    pieces = (one.tokens[begin : begin + length] for one in documents for begin in range(0, len(one.tokens), length))
    return [piece for piece in pieces if len(piece) > 1]


# --- the model's own text


OPENING_CHARACTERS = (20, 120)
REDRAWS = 20  # for an opening that is there already
WORD_CHARACTERS = 24  # how far the end of a word is looked for; not every language writes spaces


def openings(documents: Sequence[Document], count: int, seed: int) -> list[Opening]:
    """Where the model's own texts start: some characters out of a document, of whose split the text then is. Every second one is answered."""
    rng = np.random.default_rng([seed, 2])
    out: list[Opening] = []
    seen: set[str] = set()
    for k in range(count):
        for _ in range(REDRAWS):
            source = documents[int(rng.integers(len(documents)))]
            text = _opening(" ".join(source.text.split()), rng)
            if text not in seen:
                break
        seen.add(text)
        out.append(Opening(f"own text {k}, out of {source.origin}", text, k % 2 == 1, source.split))
    return out


def _opening(text: str, rng: np.random.Generator) -> str:
    begin = int(rng.integers(max(1, len(text) - OPENING_CHARACTERS[1])))
    if begin:
        begin = max(begin, 1 + text.find(" ", begin, begin + WORD_CHARACTERS))
    end = begin + int(rng.integers(*OPENING_CHARACTERS))
    space = text.find(" ", end, end + WORD_CHARACTERS)
    return text[begin : end if space < 0 else space]


def group_seed(seed: int, first: int) -> int:
    """Of the texts that are generated together, the first of which has this number."""
    return int(np.random.SeedSequence([seed, 3, first]).generate_state(1, np.uint32)[0])


def own_texts(
    llm: DarwinNEG, starts: Sequence[Opening], *, seed: int, max_tokens: int, temperature: float
) -> list[tuple[int, ...]]:
    """Token ids of the model's continuations of openings, and of its answers to those that are messages, where it has a template."""
    prompts = [_prompt(llm, start) for start in starts]
    # With one seed, the same prompt gives the same text; the samples of one prompt are drawn each for itself. One call
    # in any case: texts that begin in the same step are the same ones in every run.
    if len(starts) > 1 and all(one == prompts[0] for one in prompts):
        samples = llm.generate(prompts[0], n=len(starts), temperature=temperature, max_tokens=max_tokens, seed=seed)
        results = samples if isinstance(samples, list) else [samples]
    else:
        results = llm.generate(prompts, temperature=temperature, max_tokens=max_tokens, seed=seed)
    return [(*prompt, *one.token_ids.tolist()) for prompt, one in zip(prompts, results, strict=True)]


def _prompt(llm: DarwinNEG, start: Opening) -> list[int]:
    if not start.text:
        return [llm.info["bos"] if llm.info["bos"] >= 0 else llm.info["eos"]]
    if start.answer and llm.info["chat_template"]:
        return llm.chat_tokens([{"role": "user", "content": start.text}])
    return llm.tokenize(start.text, parse_special=False)
