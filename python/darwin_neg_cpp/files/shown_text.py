"""Text from outside (a model's output, names, files) made safe to show: nothing in it is hidden, obeyed, or turns the
direction of other text.

One table says which characters are unseen; each function escapes them in the way of the place where text is shown.
"""

from __future__ import annotations

import json
import unicodedata
from html import escape

# control, format (direction marks, zero-width and tag characters), half of a surrogate pair, line and paragraph
# separator
UNSEEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Default_Ignorable_Code_Point of other categories, which fonts draw as nothing: joiner, fillers, variation selectors,
# and what is reserved for more of them
UNSEEN_LETTERS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x3164, 0xFFA0} | {
    *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)
}  # fmt: skip
# Prepended_Concatenation_Mark: of the category "format", but signs of Arabic, Syriac and Kaithi that are drawn
SEEN_FORMATS = {*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}
# unseen themselves, but they shape the character before them: in Persian, in Indic scripts, in emoji
JOINERS = {"\u200c", "\u200d", "\ufe0e", "\ufe0f"}
JOINERS_TOGETHER = 2  # an emoji's variation selector and the joiner to the next one


def is_unseen(character: str) -> bool:
    """Whether a character leaves no mark of its own, or turns the direction of others."""
    code = ord(character)
    if code in SEEN_FORMATS:
        return False
    return unicodedata.category(character) in UNSEEN_CATEGORIES or code in UNSEEN_LETTERS


def escape_terminal(text: str, *, after: str = "") -> str:
    """Escapes running text for a terminal: unseen characters become `\\x1b`, except newline, tab, and joiners after a
    character that they shape.

    after: what was shown before, of which the last three characters count.
    """
    out = []
    joiners = JOINERS_TOGETHER
    for character in after[-3:] + text:
        if character in JOINERS and joiners < JOINERS_TOGETHER:
            joiners += 1
            out.append(character)
        elif is_unseen(character):
            joiners = JOINERS_TOGETHER
            out.append(character if character in "\n\t" else _code(character))
        else:
            joiners = JOINERS_TOGETHER if character.isspace() else 0
            out.append(character)
    return "".join(out[len(after[-3:]) :])


def escape_line(text: str) -> str:
    """Escapes text inside one line, such as a file name in an error: what is unseen, breaks the line, or is a space
    other than U+0020."""
    return "".join(c if c.isprintable() and not is_unseen(c) else _code(c) for c in text)


def escape_html(text: str) -> str:
    """Escapes text for a page, as content or in a quoted attribute; unseen characters are named, `[U+202E]`."""
    return escape("".join(f"[{code_point(c)}]" if is_unseen(c) else c for c in text))


def escape_markdown(text: str) -> str:
    """Escapes a line of plain text for Markdown: nothing in it is markup or HTML, or ends a table's cell."""
    out = escape_line(text)
    for mark, instead in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;")):
        out = out.replace(mark, instead)
    return "".join(f"\\{c}" if c in "*_[`|" else c for c in out)


def escape_json(document: str) -> str:
    """Escapes the unseen characters of a JSON document in JSON's own way; other text stays readable."""
    return "".join(json.dumps(c)[1:-1] if is_unseen(c) and c != "\n" else c for c in document)


def replace_surrogates(text: str) -> str:
    """Makes text that UTF-8 can hold: halves of surrogate pairs become "?"."""
    return text.encode("utf-8", "replace").decode()


def code_point(character: str) -> str:
    """In Unicode's notation, `U+202E`."""
    return f"U+{ord(character):04X}"


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()
