"""Reads the letter that an answer gives.

The last place of the visible text that states an answer counts; a fallback is used when there is none, and counted
separately.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

How = Literal["answer", "fallback", "none"]

THINK_BEGIN, THINK_END = "<think>", "</think>"
LONGEST_LETTER_LINE = 60  # characters of a line that is nothing but a letter and its formatting
SHORTEST_ARGUMENT = 20  # characters before "the answer is B" in one line that are worth showing
LOOK_BACK = 60  # characters before a statement in which a word may deny or suppose it

# The end of a letter that stands for itself. The first letter of a word, a formula, a name or an abbreviation does not:
# Boron, B12, D-glucose, C=O, Aβ, C', e.g. Hangul, Kana and Han may follow at once ("C입니다").
_END = r"(?![A-Za-z0-9À-ɏͰ-Ͽ]|_[A-Za-z0-9{]|['’][A-Za-z]|[-–=+^]\w|\.[A-Za-z](?![A-Za-z]))"

_MARKER = re.compile(
    r"(?<![A-Za-z])(?:answer|ans|(?:correct|right|best)\s+(?:option|choice|letter)"
    r"|정답|(?<!오)답|答案|答え|正解|respuesta|antwort|réponse)"
    r"(?:\s+(?:to|for)\s+(?:the|this|that)\s+(?:\w+\s+){0,2}question)?",
    re.IGNORECASE,
)
# What may stand between the marker and the letter: marks, brackets, LaTeX, and words that announce the answer. At no
# place can two alternatives match, and none matches a marker, so that the longest run of marks or markers takes linear
# time.
_WORDS = (
    r"(?:is|be|to|should|would|must|will|was|the|es|la|est|ist|therefore|thus|then|clearly|most|likely"
    r"|option|choice|letter|correct[aeo]?)"
    r"(?![A-Za-z0-9])"
)
_TEX = r"\\(?:boxed|text|textbf|textrm|mathrm|mathbf|mathsf|bf|rm|[(\[,;: ])"
_BETWEEN = re.compile(
    rf"(?:[\s*_`~\"'‘’“”$()\[\]{{}}<>«»「」:：=\-–—.,#|]|{_TEX}|{_WORDS}|은|는|이|가|為|为|是|は)*", re.IGNORECASE
)
_LETTER = re.compile(rf"([A-Za-z]){_END}")
# "B is the correct answer", where B begins a clause: "vitamin C is the right choice" is about a vitamin
_REVERSED = re.compile(
    rf"(?:^|[.!?:;,][ \t]+|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter|so|[Tt]hus|[Hh]ence|[Tt]herefore|that)[ \t]+)"
    rf"[*_`(\[\"'‘“]*([A-Z]){_END}"
    r"[*_`)\]\"'’”]*[ \t]+(?:is|must be|would be)[ \t]+(?:(?:therefore|thus|clearly|indeed)[ \t]+)?the[ \t]+"
    r"(?:most[ \t]+likely[ \t]+)?(?:correct|right|best|final)[ \t]+(?:answer|option|choice|one)\b",
    re.MULTILINE,
)
# "answer B" alone may be in the middle of any sentence; one of these says that B is the answer
_SAYS = re.compile(r"[:：=(\[{$*<>\-–—|\n]|\\|\b(?:is|be|was|es|est|ist)\b|은|는|이|가|為|为|是|は", re.IGNORECASE)
# marks that may as well belong to a letter mentioned in passing: "Answer (A) ignores friction"
_FORMATTING = re.compile(r"[\s(\[{$*<_`\"'‘“]*(?:(?:option|choice|letter)[\s(\[{$*<_`\"'‘“]*)?", re.IGNORECASE)
_IN_PASSING = re.compile(r"[*_`\"'’”)\]}$]*[ \t]+(?!because\b|since\b)[a-z]")
# "the wrong answer is A", "if the answer is A", "could the answer be A"
_SUPPOSED = re.compile(
    r"\b(?:wrong|incorrect|false|not|(?:if|whether|could|can|might|suppose|supposing|assuming|unless)(?:[ \t]+that)?)"
    r"[ \t]+(?:(?:the|an?|your|my|this|that)[ \t]+)?(?:(?:only|correct|right|best|final|true|option|choice)[ \t]+)*\Z",
    re.IGNORECASE,
)
# "B", that is "is wrong", "가 아니라 C", "ではなく C"
_REJECTED = re.compile(
    r"[ \t*_`\"'’”)\]}$]*(?:"
    r"[ \t]+(?:is|was|seems|looks|would[ \t]+be)[ \t]+(?:(?:also|clearly|obviously|definitely|therefore|simply)[ \t]+)?"
    r"(?:incorrect|wrong|false|untrue|impossible|excluded|eliminated|ruled[ \t]+out|not)\b"
    r"|[ \t]+(?:isn['’]t|wasn['’]t|cannot[ \t]+be|can['’]t[ \t]+be)\b"
    r"|번?[ \t]*[이가은는]?[ \t]*아[니닙닌]|[ \t]*(?:では|じゃ)(?:な|あり))",
    re.IGNORECASE,
)
_INSTEAD = re.compile(rf"[라고]?[,、]?[ \t]*(?:く[、 \t]*)?[*_`(\[\"'‘“]*([A-Za-z]){_END}")
# words after "A", "I" and small letters that leave them letters, where others make them words or variables
_AFTER_CAPITAL = re.compile(r"[ \t]+(?:and|or|because|since|as|which|with|is|but|not)\b")
_AFTER_SMALL = re.compile(r"[ \t]+(?:and|or|because|since|is)\b")

_CLOSERS = r"[ \t*_`\"'’”)\]}$]*"
_OTHER = re.compile(
    rf"{_CLOSERS}(?:[,/&;|]|\bor\b(?:[ \t]+[a-z]{{2,10}}(?=[ \t]))?|\band\b|또는|이나|혹은|或|oder\b)"
    rf"[ \t*_`\"'‘“(\[{{$]*(?:(?:option|choice)[ \t]+)?[*_`(\[{{$]*([A-Za-z]){_END}",
    re.IGNORECASE,
)
_NEXT = re.compile(rf"[ \t]+([A-Z]){_END}(?=[ \t]+[A-Z](?![A-Za-z])|[ \t.,]*$)", re.MULTILINE)
_NEW_CLAUSE = re.compile(r"[ \t]+(?:is|was|has|does|cannot|would)\b")

_BOXED = re.compile(
    r"\\boxed\s*\{\s*(?:\\(?:text|textbf|textrm|mathrm|mathbf|mathsf)\s*\{)?\s*\(?\s*([A-Za-z])\s*[}).:]"
)
_ALONE = re.compile(
    r"^[\s*_`>#\"'‘“(\[{$<]*(?:(?:option|choice|letter|answer)\s+)?[*_`(\[{$\"'‘“]*([A-Za-z])[\s*_`\"'’”)\]}$.:>]*$",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"\b(?:[Oo]ption|[Cc]hoice)\s+[*_`(\[\"'‘“$]*([A-Z]){_END}")
_DENIED = re.compile(r"\b(?:not|cannot|never|incorrect|wrong|false|except|neither|nor|\w+n['’]t)\b", re.IGNORECASE)
_WRONG = re.compile(r"\b(?:incorrect|wrong|false)\b", re.IGNORECASE)
_LISTED = re.compile(r"^[\s*_`>#]*\(?([A-Z])[*_`]*[).:][\s*_`]")
_NOT_BOXED = re.compile(r"\b(?:not|isn['’]t|than)[ \t]*[$\\(\[]*\Z", re.IGNORECASE)
_OR_BOXED = re.compile(r"[ \t)\]}$\\.,]*(?:[,/&]|\bor\b|\band\b|또는|或)[ \t$\\(\[]*", re.IGNORECASE)
# after the letter of an answer that was cut off: a mark that closes it, or a whole word that leads to no other letter
_CONTINUES = re.compile(r"[*_`\"'’”$]*[.)\]}:\n]|.*?(?:\n|\b(?!(?:and|oder|und)\b)\w{3,}\W)", re.DOTALL)
_TAG = re.compile(r"<(b|i|u|em|strong|code|span|mark)\b[^<>]{0,40}>(.{0,200}?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Extracted:
    """letter: upper case, "" when there is none. how: by which rule it was read."""

    letter: str
    how: How


@dataclass(frozen=True)
class _Statement:
    """A place that says which letter the answer is. begin: of the word that marks it. end: after the letter."""

    begin: int
    letter: str
    end: int


def visible(text: str) -> str:
    """Returns the answer without its reasoning.

    Text before an end of reasoning that has no beginning is reasoning too: the prompt opened it. After a beginning that
    has no end, everything is reasoning, and none of it is an answer.
    """
    shown = ""
    while (begin := text.find(THINK_BEGIN)) >= 0 and (end := text.find(THINK_END, begin)) >= 0:
        shown += text[:begin]
        text = text[end + len(THINK_END) :]
    shown += text
    _, _, shown = shown.rpartition(THINK_END)
    return shown.partition(THINK_BEGIN)[0]


def extract(text: str, letters: str, *, truncated: bool = False) -> Extracted:
    """Reads the letter that a generated text answers with.

    text: as generated, reasoning included. letters: those that were offered. truncated: it was cut off by max_tokens or
    by the end of the context.

    1. The last place of the visible answer that says "answer: X", however formatted, whose X was offered. When it names
       several ("A or B"), there is no letter. Places that deny ("the wrong answer is A", "answer (A) is incorrect") or
       suppose ("if the answer is A") do not count.
    2. The fallback, only where no place says "answer: X": the last boxed letter; else the letter on lines that hold
       nothing but a letter, when they agree; else the one "option X" of a last line that denies nothing; else a last
       line like "B) text" of an answer that has no other such line. Denied letters do not count.

    In an answer that was cut off, a letter counts only if a full stop, a bracket, the end of a line or a whole word
    follows it ("Answer: B" may have become "Boron" or "B or C"), and there is no fallback.
    """
    shown = unicodedata.normalize("NFKC", visible(text))
    shown = _TAG.sub(r"\2", shown)
    statements = _statements(shown)
    offered = [statement for statement in statements if statement.letter in letters]
    if offered:
        last = offered[-1]
        if _names_another(shown[last.end :], letters) or (truncated and not _CONTINUES.match(shown, last.end)):
            return Extracted("", "none")
        return Extracted(last.letter, "answer")
    if statements or truncated:
        return Extracted("", "none")  # it answers with a letter that was not offered, or its last line is missing
    letter = _fallback(shown, letters)
    return Extracted(letter, "fallback" if letter else "none")


def reasoning_extract(text: str, characters: int) -> str:
    """Returns the last sentences of an answer's argument, at most `characters` characters.

    The statement of the letter is left out, because the letter means another choice under another ordering. The
    argument is taken from the lines before the statement; else from its own line; else from the text after it; else
    from the end of the hidden reasoning. Brackets and names are kept, white space becomes single spaces.
    """
    shown = visible(text)
    hidden = text.rpartition(THINK_END)[0].replace(THINK_BEGIN, " ").replace(THINK_END, " ")
    parts = (" ".join(part.split()) for part in (*_arguments(shown), hidden))
    argument = next((part for part in parts if part), "")
    if len(argument) <= characters:
        return argument
    if characters < 3:
        return ""
    tail = argument[len(argument) - characters :]
    # from the beginning of a sentence if there is one in the first half, else of a word
    sentence = re.search(r"[.!?。]\s+(?=\S)", tail)
    if sentence and sentence.end() <= len(tail) // 2:
        return tail[sentence.end() :]
    tail = tail[2:]
    return "… " + tail[tail.find(" ", 0, len(tail) // 2) + 1 :]


def _statements(text: str) -> list[_Statement]:
    """Finds the places that say which letter the answer is, in their order."""
    statements = []
    for reversed_ in _REVERSED.finditer(text):
        if not _is_supposed(text, reversed_.start(1)):
            statements.append(_Statement(reversed_.start(1), reversed_[1], reversed_.end()))
    for marker in _MARKER.finditer(text):
        letter = _letter_after(text, marker.end())
        if letter and not _is_supposed(text, marker.start()):
            statements.append(_Statement(marker.start(), letter[1].upper(), letter.end()))
    return sorted(statements, key=lambda statement: statement.begin)


def _letter_after(text: str, begin: int) -> re.Match[str] | None:
    """Finds the letter that a marker ending at `begin` speaks of."""
    between = _BETWEEN.match(text, begin)
    letter = between and _LETTER.match(text, between.end())
    if not letter or not _SAYS.search(text, begin, letter.start()) or not _is_letter(letter[1], text, letter.end()):
        return None
    marks = _FORMATTING.fullmatch(text, begin, letter.start())
    if marks and "\n" not in marks[0] and _IN_PASSING.match(text, letter.end()):
        return None
    if rejected := _REJECTED.match(text, letter.end()):
        return _INSTEAD.match(text, rejected.end())
    return letter


def _is_supposed(text: str, begin: int) -> bool:
    """Whether the words before `begin` deny or suppose what follows."""
    return _SUPPOSED.search(text, max(0, begin - LOOK_BACK), begin) is not None


def _is_letter(letter: str, text: str, end: int) -> bool:
    """Whether it is neither the article of "the answer is a large number", nor the pronoun of "answer: I think", nor a
    variable in small letters.
    """
    rest = text[end : end + 20]
    if letter.islower():
        return re.match(r"[ \t]+\w", rest) is None or _AFTER_SMALL.match(rest) is not None
    return letter not in "AI" or re.match(r"[ \t]+[a-z]", rest) is None or _AFTER_CAPITAL.match(rest) is not None


def _names_another(rest: str, letters: str) -> bool:
    """Whether another letter follows as an alternative."""
    other = _OTHER.match(rest) or _NEXT.match(rest)
    if other is None or other[1].upper() not in letters:
        return False
    # "B, a strong acid" and "B, A is wrong" continue as sentences
    return _is_letter(other[1], rest, other.end(1)) and _NEW_CLAUSE.match(rest, other.end(1)) is None


def _fallback(shown: str, letters: str) -> str:
    """Reads the letter of a text that states no answer; "" when there is none."""
    boxed = [
        box
        for box in _BOXED.finditer(shown)
        if box[1].upper() in letters and not _NOT_BOXED.search(shown, max(0, box.start() - LOOK_BACK), box.start())
    ]
    if boxed:
        several = len(boxed) > 1 and _OR_BOXED.fullmatch(shown, boxed[-2].end(), boxed[-1].start())
        return "" if several and boxed[-2][1].upper() != boxed[-1][1].upper() else boxed[-1][1].upper()
    lines = [line for line in shown.splitlines() if line.strip()]
    alone = {letter for line in lines if (letter := _letter_alone(line)) and letter in letters}
    if alone or not lines:
        return alone.pop() if len(alone) == 1 else ""
    named = {letter for letter in _NAMED.findall(lines[-1]) if letter in letters}
    if named:
        return named.pop() if len(named) == 1 and not _DENIED.search(lines[-1]) else ""
    # the text of a choice may deny something itself
    last = _LISTED.match(lines[-1]) if not _WRONG.search(lines[-1]) else None
    listed = [line for line in lines if _LISTED.match(line)]
    return str(last[1]) if last and last[1] in letters and len(listed) == 1 else ""


def _letter_alone(line: str) -> str:
    """Returns the letter, in upper case, of a line that holds nothing else; or ""."""
    match = _ALONE.match(line) if len(line) <= LONGEST_LETTER_LINE else None
    return match[1].upper() if match else ""


def _arguments(shown: str) -> Iterator[str]:
    """Yields the parts of an answer that may argue for it, the best first."""
    statements = _statements(shown)
    boxed = list(_BOXED.finditer(shown))
    if statements:
        begin, end = statements[-1].begin, statements[-1].end
    elif boxed:
        begin, end = boxed[-1].start(), boxed[-1].end()
    else:
        yield "\n".join(line for line in shown.splitlines() if not _letter_alone(line))
        return
    line = shown.rfind("\n", 0, begin) + 1
    yield shown[:line]
    in_line = shown[line:begin].strip()
    yield in_line if len(in_line) >= SHORTEST_ARGUMENT else ""
    yield shown[end:].lstrip(" \t\n*_`)]}$.:,;-")
