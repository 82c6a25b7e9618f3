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
from ..files.input_file import not_a_text, open_input, shown_path
from ..files.input_text import decode_text
from .lines import KNOWN, Message, read_object

if TYPE_CHECKING:
    from ..engine.session import Session

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.1  # of the tokens, for validation and for test each
ENOUGH_DOCUMENTS = 30
LINES_ENDINGS = (".jsonl", ".ndjson", ".jsonlines")
PART_CHARACTERS = (1000, 8000)  # of the parts that long texts are cut in, at least
# ends of paragraphs, lines, sentences and words: where a long text is cut, the first that serves
CUTS = (r"\n\n+", r"\n", r"[.!?]\s|[。！？]", r"\s")
# below this the figures are noise, and the head is too
LEAST_TOKENS = {"train": 2000, "validation": 200, "test": 200}


@dataclass(frozen=True)
class Document:
    """A text with its origin, its token ids, and the part of the data it belongs to.

    messages, tools: of a conversation, which is put into the model's chat template; its text is what the messages say.
    """

    origin: str
    text: str
    tokens: tuple[int, ...] = ()
    split: Split = "train"
    messages: tuple[Message, ...] | None = None
    tools: tuple[Message, ...] | None = None


def read(paths: Sequence[Path], least_part: int = PART_CHARACTERS[0]) -> list[Document]:
    """Reads each file as a document; of JSON lines (and a .json file with a list of them) each object.

    A duplicate text counts once. When that gives few documents, texts are cut into parts, so that there is something to
    split. least_part: characters.
    """
    documents = distinct([document for path in paths for document in _read_file(path)])
    if len(documents) < ENOUGH_DOCUMENTS:
        size = sum(len(document.text) for document in documents) // ENOUGH_DOCUMENTS
        size = min(max(size, least_part), PART_CHARACTERS[1])
        documents = distinct([part for document in documents for part in _parts(document, size)])
    return documents


def distinct(documents: Sequence[Document]) -> list[Document]:
    """Keeps the first of each text, spaces aside: a head would be tested on a text that it was trained on."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(" ".join(document.text.split()), document)
    return list(first.values())


def _read_file(path: Path) -> Iterator[Document]:
    name = shown_path(path)
    with open_input(str(path), RequestError) as file:
        data = file.read()
    if what := not_a_text(data, pages=path.suffix.lower() not in LINES_ENDINGS):
        raise RequestError(f"{name}: {what}")
    text = decode_text(data, f"{name}:", RequestError, remedy="convert it or leave it out")
    if "\0" in text:
        raise RequestError(f"{name}: is a binary file, not text; leave it out")
    if path.suffix.lower() in LINES_ENDINGS:
        yield from _read_lines(name, text)
    elif path.suffix.lower() == ".json" and (entries := _find_list(text)) is not None:
        for number, entry in enumerate(entries, start=1):
            yield from _read_entry(f"{name}: object {number}", f"{name}:{number}", entry)
    elif text.strip():
        yield Document(name, text)
    else:
        raise RequestError(f"{name}: holds no text; leave it out")


def _read_lines(name: str, text: str) -> Iterator[Document]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the latter for thousands of brackets
            raise RequestError(f"{name}:{number}: is not JSON; expected one object per line") from None
        yield from _read_entry(f"{name}:{number}", f"{name}:{number}", entry)


def _read_entry(where: str, origin: str, entry: object) -> Iterator[Document]:
    """The document of an object, none if it holds no words. where: for errors."""
    found = read_object(entry)
    if isinstance(found, str):
        raise RequestError(f"{where}: {found}")
    if found.text.strip():
        yield Document(origin, found.text, messages=found.messages, tools=found.tools)


def _find_list(text: str) -> list[object] | None:
    """The objects of a JSON file that is a list of training data; None for any other, which is a text."""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list) or not any(isinstance(entry, dict) and entry.keys() & KNOWN for entry in entries):
        return None
    return entries


def _parts(document: Document, size: int) -> Iterator[Document]:
    if document.messages is not None:  # a part of a conversation is none
        yield document
        return
    pieces = [piece.strip("\n") for piece in _cut(document.text, size, CUTS) if piece.strip()]
    if len(pieces) < 2:
        yield document
        return
    for number, piece in enumerate(pieces, start=1):
        yield replace(document, origin=f"{document.origin}#{number}", text=piece)


def _cut(text: str, size: int, cuts: Sequence[str]) -> Iterator[str]:
    """Cuts into pieces of `size` characters or somewhat more, after what cuts[0] matches; a piece that is far too long
    is cut by the patterns that follow."""
    ends = [match.end() for match in re.finditer(cuts[0], text)] if cuts else list(range(size, len(text), size))
    begin = 0
    for end in [*ends, len(text)]:
        if end - begin < size and end < len(text):
            continue
        piece, begin = text[begin:end], end
        if cuts and len(piece) > 2 * size:
            yield from _cut(piece, size, cuts[1:])
        else:
            yield piece


def tokenize(session: Session, documents: Sequence[Document]) -> list[Document]:
    """Adds token ids and leaves out documents of one token.

    Control tokens written out in a text are text; a conversation has those of the model's chat template. Errors:
    RequestError that names the document.
    """
    out = [replace(document, tokens=tuple(_token_ids(session, document))) for document in documents]
    return [document for document in out if len(document.tokens) > 1]


def _token_ids(session: Session, document: Document) -> list[int]:
    if document.messages is not None and not session.info["chat_template"]:
        raise RequestError(
            f"{document.origin}: is a conversation, and the model has no chat template; give its text, or choose a "
            "model that has one"
        )
    try:
        if document.messages is None:
            return session.tokenize(document.text, parse_special=False)
        return session.chat_tokens(document.messages, add_generation_prompt=False, tools=document.tools)
    except RequestError as error:
        raise RequestError(f"{document.origin}: {error}") from None


def limit(documents: Sequence[Document], max_tokens: int, seed: int) -> list[Document]:
    """Takes documents in an order drawn from `seed`, as many as hold `max_tokens`; the last one is cut."""
    out = []
    left = max_tokens
    for i in np.random.default_rng(seed).permutation(len(documents)):
        if left <= 1:
            break
        out.append(replace(documents[i], tokens=documents[i].tokens[:left]))
        left -= len(out[-1].tokens)
    return out


def split(documents: Sequence[Document], seed: int) -> list[Document]:
    """Puts each document into train, validation or test, drawn from `seed`: HELD_OUT of the tokens for each of the last
    two."""
    total = sum(len(document.tokens) for document in documents)
    held: dict[Split, int] = {"test": 0, "validation": 0}
    out = []
    for i in np.random.default_rng([seed, 1]).permutation(len(documents)):
        part: Split = next((name for name in held if held[name] < HELD_OUT * total), "train")
        if part in held:
            held[part] += len(documents[i].tokens)
        out.append(replace(documents[i], split=part))
    return out


def check_size(documents: Sequence[Document]) -> None:
    """Refuses documents that leave too few tokens in one of the parts of the data."""
    total = sum(len(document.tokens) for document in documents)
    for part in SPLITS:
        count = sum(len(document.tokens) for document in documents if document.split == part)
        if count < LEAST_TOKENS[part]:
            raise RequestError(
                f"text holds too little: {total} tokens in {len(documents)} documents leave {count} for {part}, at "
                f"least {LEAST_TOKENS[part]} are needed; give more text ({4 * sum(LEAST_TOKENS.values())} tokens are "
                "enough) or a larger own_texts"
            )


def cut_sequences(session: Session, documents: Sequence[Document], length: int) -> list[tuple[int, ...]]:
    """Cuts documents into pieces of up to `length` tokens, which are run through the model. Pieces of one token are
    dropped.

    A model that begins every text with a start token sees it before later pieces too, since it was trained so.
    """
    return [piece for _, piece in cut_numbered(session, documents, length)]


def cut_numbered(session: Session, documents: Sequence[Document], length: int) -> list[tuple[int, tuple[int, ...]]]:
    """The same, each piece after the number of its document."""
    start = tuple(token for token in session.tokenize("", parse_special=False)[:1] if token == session.info["bos"])
    return [
        (number, piece)
        for number, document in enumerate(documents)
        for piece in _pieces(document.tokens, length, start)
        if len(piece) > 1
    ]


def _pieces(tokens: tuple[int, ...], length: int, start: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield tokens[:length]  # it begins as the model or its chat template wants it
    room = max(1, length - len(start))
    for begin in range(length, len(tokens), room):
        yield (*start, *tokens[begin : begin + room])
