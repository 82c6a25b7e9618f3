"""Texts to train and judge a head on: read, cut into documents, and split by document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import RequestError
from ..input_file import open_input, shown_path

if TYPE_CHECKING:
    from ..llm import DarwinNEG

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT = 0.1  # of the tokens, for validation and for test each
ENOUGH_DOCUMENTS = 30
PART_CHARACTERS = 8000
# below this the figures are noise, and the head is too
LEAST_TOKENS = {"train": 2000, "validation": 200, "test": 200}


@dataclass(frozen=True)
class Document:
    """A text with its origin, its token ids, and the part of the data it belongs to."""

    origin: str
    text: str
    tokens: tuple[int, ...] = ()
    split: Split = "train"


def read(paths: Sequence[Path]) -> list[Document]:
    """A file is a document; of a .jsonl file every line is one, by its "text".

    When that gives few documents, long files are cut at blank lines, so that there is something to split.
    """
    documents = [document for path in paths for document in _read_file(path)]
    if len(documents) < ENOUGH_DOCUMENTS:
        documents = [part for document in documents for part in _parts(document)]
    return documents


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
        except ValueError:
            raise RequestError(f"{name}:{number}: is not JSON; expected one object a line") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise RequestError(f'{name}:{number}: has no "text"; expected an object with the text of a document')
        yield Document(f"{name}:{number}", entry["text"])


def _parts(document: Document) -> Iterator[Document]:
    """A long document in parts of about PART_CHARACTERS, cut at blank lines."""
    part, size, number = [], 0, 1
    for paragraph in document.text.split("\n\n"):
        part.append(paragraph)
        size += len(paragraph)
        if size >= PART_CHARACTERS:
            yield replace(document, origin=f"{document.origin}#{number}", text="\n\n".join(part))
            part, size, number = [], 0, number + 1
    if "".join(part).strip():
        yield replace(document, origin=f"{document.origin}#{number}", text="\n\n".join(part))


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
    for part in SPLITS:
        count = sum(len(one.tokens) for one in documents if one.split == part)
        if count < LEAST_TOKENS[part]:
            raise RequestError(
                f"--text: {len(documents)} documents leave {count} tokens for {part}, at least {LEAST_TOKENS[part]} are needed; "
                "give more text, or --self-generate N"
            )


def sequences(documents: Sequence[Document], length: int) -> list[tuple[int, ...]]:
    """What is run through the model: documents in pieces of up to `length` tokens. Pieces of one token are dropped."""
    pieces = (one.tokens[begin : begin + length] for one in documents for begin in range(0, len(one.tokens), length))
    return [piece for piece in pieces if len(piece) > 1]


# --- the model's own text


def openings(documents: Sequence[Document], count: int, seed: int) -> list[Document]:
    """Where the model's own texts start: a few words out of a document, of whose split the text then is."""
    rng = np.random.default_rng([seed, 2])
    sources = [one for one in documents if len(one.text.split()) >= 4]
    out = []
    for k in range(count if sources else 0):
        source = sources[rng.integers(len(sources))]
        words = source.text.split()
        begin = int(rng.integers(max(1, len(words) - 24)))
        text = " ".join(words[begin : begin + int(rng.integers(4, 24))])
        out.append(Document(f"own text {k}, out of {source.origin}", text, split=source.split))
    return out


def own_texts(
    llm: DarwinNEG, starts: Sequence[Document], *, seed: int, max_tokens: int, temperature: float
) -> list[Document]:
    """The model's continuations of openings; every second one is its answer to the opening as a message, where it has a template."""
    prompts = []
    for k, start in enumerate(starts):
        if k % 2 and llm.info["chat_template"]:
            text = llm.apply_chat_template([{"role": "user", "content": start.text}])
            prompts.append(llm.tokenize(text, add_special=False))
        else:
            prompts.append(llm.tokenize(start.text, parse_special=False))
    results = llm.generate(prompts, temperature=temperature, max_tokens=max_tokens, seed=seed)
    out = []
    for start, prompt, one in zip(starts, prompts, results, strict=True):
        tokens = (*prompt, *one.token_ids.tolist())
        out.append(replace(start, text=llm.detokenize(tokens, special=True), tokens=tokens))
    return out
