"""An answer without its dress: what the rules of reading see.

Models write one letter in a hundred ways: bold, boxed, in LaTeX, in brackets, after an arrow or a tick. Here the dress
is taken off once, so that the rules are about words. Runs of white space and of marks become one character, which also
keeps every rule's look-ahead short.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

# a letter that was bold, boxed, quoted or in brackets stands between these two
OPEN, CLOSE = "\ue000", "\ue001"
BOX = "\ue002"  # stands for \boxed and the like
_MARK = "\ue003"  # stands for a run of marks, until letters in marks have been found

# The end of a letter that stands for itself. The first letter of a word, a formula, a name or an abbreviation does not:
# Boron, B12, D-glucose, C=O, Aβ, C', e.g. Hangul, Kana and Han may follow at once ("C입니다"), and so may the Turkish
# "B'dir".
END = r"(?![A-Za-z0-9À-ɏͰ-Ͽ]|_[A-Za-z0-9{]|['’](?!d[iıuü]r)[A-Za-z]|[-–=+^]\w|\.[A-Za-z](?![A-Za-z]))"
_START = r"(?<![A-Za-z0-9À-ɏͰ-Ͽ_\\])"
LETTER = rf"{OPEN}?{_START}([A-Z])(?:{CLOSE}|{END})"
ANY_LETTER = rf"{OPEN}?{_START}([A-Za-z])(?:{CLOSE}|{END})"

_INLINE_TAG = r"</?(?:b|i|u|em|strong|code|span|mark|sub|sup|font|small|big|center)\b[^<>]{0,60}>"
_STYLE = (
    r"\\(?:text(?:bf|rm|it|sf|tt|sc|up|md|normal)?|math(?:bf|rm|it|sf|tt|bb|cal|frak|scr|ord)?|boldsymbol|bm|pmb|operatorname"
    r"|emph|underline|mbox|hbox|bf|rm|it|tt|sf|sl|em|bfseries|itshape|displaystyle|textstyle|large|Large|LARGE|huge|Huge"
    r"|left|right|bigl?|Bigl?|(?:text)?color\{\w{1,20}\})(?![A-Za-z])"
)
_ARROW = r"[-=]{1,3}>|[→➔➜➡⇒⇨⟶⟹↦➤►▶▸⮕👉☞]|\\(?:to|rightarrow|Rightarrow|implies|longrightarrow)(?![A-Za-z])"
_DRESS = re.compile(
    rf"(?P<style>{_INLINE_TAG}|{_STYLE}|\\[()\[\]]|[*`$]+|(?<![A-Za-z0-9_])_+|_+(?![A-Za-z0-9_{{]))"
    rf"|(?P<break></[\w-]{{1,30}}>|\\\\)|(?P<arrow>{_ARROW})"
    r"|(?P<box>\\(?:boxed|fbox|framebox|tcbox|colorbox\{\w{1,20}\}|bbox)(?![A-Za-z]))"
    r"|(?P<tick>[✅✓✔☑🗹]|\\checkmark(?![A-Za-z])|(?<![^\n])[-+] \[[xX]\])"
    r"|(?P<cross>[❌✗✘✖❎☒🚫]|(?<![^\n])[-+] \[ \])"
    r"|(?P<letter>[\U0001f150-\U0001f169\U0001f170-\U0001f189])"
    r"|(?P<space>\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~)"
    r"|(?P<emoji>[\ue000-\ue003\u200b-\u200f\u2060\ufe0e\ufe0f\ufeff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff])"
)
_REPLACED = {
    "break": "\n",
    "style": _MARK,
    "arrow": "→",
    "box": BOX,
    "tick": "✓",
    "cross": "✗",
    "space": " ",
    "emoji": "",
}
# one mark before a letter and one after it, or more of both
_OPENING, _CLOSING = r"(\[{<\"'‘“«「『【", r")\]}>\"'’”»」』】"
_DRESSED = re.compile(
    # not in "x_{B}" or "f(B)", and not "'B" of "'B's"
    r"(?<![_^\d])(?<!(?<![A-Za-z])[A-Za-z])"
    rf"(?:{_MARK} ?([A-Za-z]) ?{_MARK}"
    rf"|[{_OPENING}{_MARK}]{{1,8}}(?<!{_MARK}) ?{_MARK}? ?([A-Za-z]){_MARK}? ?[{_CLOSING}]"
    rf"(?: ?[{_CLOSING}{_MARK}]){{0,7}}(?<!['’](?=[A-Za-z])))"
)


@dataclass(frozen=True)
class PlainText:
    """text: without dress. starts: for each of its characters and for its end, the place in the text it was made of."""

    text: str
    starts: list[int]


def plain_text(text: str) -> str:
    """Takes the dress off a text. Compatibility characters (full width, circled) become ordinary ones."""
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return text


def plain_text_with_starts(text: str) -> PlainText:
    """The same, with the places that its characters come from."""
    starts = list(range(len(text) + 1))
    for pattern, replacement in _STEPS:
        text, starts = _rewritten(text, starts, pattern, replacement)
    return PlainText(text, starts)


def _composed(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match[0])


def _undressed(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    if kind == "letter":
        code = ord(match[0])
        return f"{_MARK}{chr(ord('A') + code - (0x1F170 if code >= 0x1F170 else 0x1F150))}{_MARK}"
    return _REPLACED[kind]


def _shortest_space(match: re.Match[str]) -> str:
    return "\n" if "\n" in match[0] else " "


def _between_marks(match: re.Match[str]) -> str:
    return f"{OPEN}{match[1] or match[2]}{CLOSE}"


def _to(text: str) -> Callable[[re.Match[str]], str]:
    return lambda match: text


# an accent may follow its letter, which is then part of what is composed
_STEPS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+"), _composed),
    (_DRESS, _undressed),
    (re.compile(r"\s+"), _shortest_space),
    (re.compile(f"{_MARK}{{2,}}"), _to(_MARK)),
    (_DRESSED, _between_marks),
    (re.compile(f"{_MARK}+"), _to("")),
    (re.compile(r"(?<![^\n])[>#•·+\- ]{1,12}(?=[^\s>#•·+\-])"), _to("")),
)


def _rewritten(
    text: str, starts: list[int], pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str]
) -> tuple[str, list[int]]:
    """Replaces every match and keeps count of where each character comes from."""
    parts: list[str] = []
    places: list[int] = []
    done = 0
    for match in pattern.finditer(text):
        new = replacement(match)
        if new == match[0]:
            continue
        begin, end = match.span()
        parts += (text[done:begin], new)
        places += starts[done:begin]
        places += [starts[begin + k * (end - begin) // len(new)] for k in range(len(new))]
        done = end
    return "".join((*parts, text[done:])), places + starts[done:]
