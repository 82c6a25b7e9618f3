"""What mkdocs and mkdocstrings are told about this project's pages and docstrings; mkdocs.yml names it.

The docstrings are plain text, in which `name: what it is.` describes a parameter or field, several to a line where they
are short. On the site these are lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import griffe

NAME = r"\w+\*?(?: \([^()]*\))?"  # with a note on it, or standing for all names that begin so: yarn_*
FIELD = re.compile(rf"(?:^|(?<=[.;] ))(?P<names>{NAME}(?:, {NAME})*): ", re.MULTILINE)


def on_page_markdown(markdown: str, *, config: Any, **_: object) -> str:
    """Lets links to a report lead to its page, where it is there as one: the two would have one address on the site."""

    def link(match: re.Match[str]) -> str:
        page = f"{match[1]}.html"
        return f"]({page})" if (Path(config.docs_dir) / page).is_file() else match[0]

    return re.sub(r"\]\(([\w/-]+/report)\.md\)", link, markdown)


class Docstrings(griffe.Extension):
    """Makes Markdown of the docstrings, and shows the defaults of fields instead of the functions that make them."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, _names(obj))
        if isinstance(obj, griffe.Function):
            for parameter in obj.parameters:
                parameter.default = _default(parameter.default)


def as_markdown(text: str, names: Iterable[str]) -> str:
    """Markdown of a docstring, with the descriptions of `names` as lists."""
    known = set(names)
    blocks: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        # what is indented continues the line before
        lines = re.sub(r"\n +", " ", paragraph.strip())
        # a full stop at the end of a line ends a description too; errors are those of the whole
        for part in re.split(r"(?<=\.)(?:\n| (?=Errors: ))", lines):
            before, *fields = _fields(part, known)
            blocks += [escaped(before)] * bool(before)
            items = "\n".join(f"- {name}: {escaped(what)}" for name, what in fields)
            if items and blocks and blocks[-1].startswith("- "):
                blocks[-1] += "\n" + items
            elif items:
                blocks.append(items)
    return "\n\n".join(blocks)


def _fields(text: str, known: set[str]) -> Iterator[Any]:
    """What comes before the first description, then pairs of the names as Markdown and of what is said of them."""
    found = [match for match in FIELD.finditer(text) if _are_known(match["names"], known)]
    begins = [match.start() for match in found] + [len(text)]
    yield text[: begins[0]].strip()
    for match, end in zip(found, begins[1:], strict=True):
        written = re.sub(r"(\w+\*?)(?= \(|, |$)(?![^()]*\))", r"`\1`", match["names"])
        yield written, text[match.end() : end].strip().removesuffix(";")


def _are_known(written: str, known: set[str]) -> bool:
    names = re.sub(r" \([^()]*\)", "", written).split(", ")
    return all(name in known or (name[-1] == "*" and any(one.startswith(name[:-1]) for one in known)) for name in names)


def escaped(text: str) -> str:
    """Plain text as Markdown, but for what stands in backticks; pages of the documentation become links."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"[*_]", r"\\\g<0>", parts[i]).replace("<", "&lt;")
        parts[i] = re.sub(r"docs/([\w-]+)\.md", r"[\g<0>](\1.md)", parts[i])
    return "".join(parts)


def _names(obj: griffe.Object) -> list[str]:
    """The parameters and fields that a docstring may describe."""
    if isinstance(obj, griffe.Function):
        return [parameter.name.lstrip("*") for parameter in obj.parameters]
    if not isinstance(obj, griffe.Class):
        return []
    names = [name for name, member in obj.members.items() if not member.is_alias and member.is_attribute]
    init = obj.members.get("__init__")
    return names + (_names(init) if isinstance(init, griffe.Function) else [])


def _default(written: Any) -> Any:
    """A default as callers see it. Functions make those of sampling.py, None where a model file may set them."""
    function = str(written.function) if isinstance(written, griffe.ExprCall) else ""
    if function.startswith("_modelled"):
        return "None"
    return written.arguments[0] if function in ("_integer", "_number") else written
