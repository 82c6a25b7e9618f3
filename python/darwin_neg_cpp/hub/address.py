"""How users name a repository of the hub: by its id, with a quantization after it, or by the address of a page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import RequestError
from ..files.shown_text import escape_line


@dataclass(frozen=True)
class Address:
    """What a user's name for a repository says: the repository, and perhaps a quantization, a file and a revision."""

    repo: str
    quant: str | None = None
    file: str | None = None
    revision: str | None = None


def read_address(
    text: str, *, quant: str | None = None, file: str | None = None, revision: str | None = None
) -> Address:
    """Reads OWNER/NAME, OWNER/NAME:QUANT, or the address of a page of the hub; joins it with what is given beside it.

    Errors: RequestError when both name something and differ.
    """
    from huggingface_hub import constants

    rest = text.strip()
    site = re.match(
        rf"(?:{re.escape(constants.ENDPOINT)}|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)|hf:/)/",
        rest,
        re.IGNORECASE,
    )
    if site is not None:
        rest = rest[site.end() :].partition("?")[0].partition("#")[0]
    rest = rest.rstrip("/")
    found = Address(rest)
    page = re.fullmatch(r"([^/:]+/[^/:]+)/(tree|blob|resolve|raw|commit)/([^/]+)(?:/(.+))?", rest)
    tag = re.fullmatch(r"([^/:]+/[^/:]+):([^/:]+)", rest)
    if site is not None and page is not None:
        path = unquote(page[4]) if page[4] and page[2] != "tree" else None
        found = Address(page[1], file=path, revision=None if page[3] == "main" else unquote(page[3]))
    elif tag is not None:
        found = Address(tag[1], quant=None if tag[2].lower() == "latest" else tag[2])
    return Address(
        found.repo,
        quant=_joined("quant", quant, found.quant, text),
        file=_joined("file", file, found.file, text),
        revision=_joined("revision", revision, found.revision, text),
    )


def check_name(address: Address, text: str) -> None:
    """Refuses what cannot be the name of a repository. text: as the user wrote it. Errors: RequestError."""
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", address.repo):
        raise RequestError(
            f"{escape_line(text.strip()) or 'an empty text'} is not the name of a model's repository; write "
            "OWNER/NAME, OWNER/NAME:QUANT, or the address of its page"
        )


def _joined(name: str, given: str | None, said: str | None, text: str) -> str | None:
    if given is None or said is None:
        return said if given is None else given
    if given.lower() != said.lower():
        raise RequestError(f"{name} is {given}, and {text} names {said}; give one of the two")
    return given
