"""Reads the letter that an answer gives.

The last place of the visible text that states an answer counts; a fallback is used when there is none, and counted
separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .plain_text import ANY_LETTER, BOX, CLOSE, LETTER, OPEN, PlainText, plain_text, plain_text_with_starts
from .statements import LOOK_BACK, names_another, statements

How = Literal["answer", "fallback", "none"]

THINK_BEGIN, THINK_END = "<think>", "</think>"
LONGEST_LETTER_LINE = 60  # characters of a line that is nothing but a letter and its formatting
SHORTEST_ARGUMENT = 20  # characters before "the answer is B" in one line that are worth showing

_NAMES = (
    r"option|choice|letter|answer|선택지|보기|选项|選項|選択肢|opción|opção|alternativa|letra|antwort|réponse|вариант"
)
_NAMES_ALONE = rf"{_NAMES}|정답|답|答案|答え|正解|respuesta|resposta|lösung|ответ|risposta"
_BOXED = re.compile(
    rf"{BOX}[ {{(\[]{{0,6}}(?:(?i:{_NAMES}) )?(?:(?={OPEN}){ANY_LETTER}|{ANY_LETTER}(?= ?[)}}.:\]]))",
)
_ALONE = re.compile(
    rf"[ >#\"'“‘(\[{{<→✓:=∴-]{{0,12}}(?:(?:{_NAMES_ALONE})[\]】]? )?"
    rf"[ (\[{{\"'“‘]{{0,4}}{ANY_LETTER}[ \"'”’)\]}}.:>✓!。]{{0,12}}",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"\b(?:[Oo]ption|[Cc]hoice) [(\[\"'‘“]{{0,3}}{LETTER}")
_DENIED = re.compile(
    r"\b(?:not|cannot|never|incorrect|wrong|false|except|neither|nor|\w{1,12}n['’]t|nicht|falsch\w{0,2}|fausse?|mauvaise?"
    r"|fals[ao]|errad[ao]|incorrec?t[ao]|no|não|non|не|неверн\w{2,3}|неправил\w{2,6})\b|오답|틀[린렸]|잘못|아[니닙닌]|않"
    r"|不|错|錯|誤|間違|ない|ません"
    # "check whether option B"
    r"|\b(?:if|whether)\b(?=[^\n]{0,30}\b(?:option|choice)\b)|\?",
    re.IGNORECASE,
)
_WRONG = re.compile(r"\b(?:incorrect|wrong|false)\b", re.IGNORECASE)
_LISTED = re.compile(rf"(?:{OPEN}([A-Z]){CLOSE}[).:]? (?!(?:is|are|was|has|have|and|or|in|of)\b)|\(?([A-Z])[).:] )")
_TICKED = re.compile(rf"✓ ?(?:(?i:{_NAMES}) )?{LETTER}|{LETTER}[).:]? (?:.*[^ ] ?)?✓ ?\Z")
# "A: B" is short for "Answer: B", or a choice whose text is a letter
_QUESTION = re.compile(r"(?:Q|Question)\d{0,3} ?:", re.IGNORECASE)
_SHORT_ANSWER = re.compile(rf"{OPEN}?A{CLOSE}? ?: ?(?:(?:option|choice) )?{LETTER}(?=[).:]|\Z)", re.IGNORECASE)
_LETTER_OF_LETTER = re.compile(rf"{OPEN}?[A-Z]{CLOSE}? ?: ?{LETTER}")
_LAST_WORD = re.compile(rf"(?:[:→]|[:→] ?(?i:{_NAMES})) ?{LETTER}[)\]}}\"'”’.!。 ]{{0,4}}\Z")
_LONE = re.compile(LETTER)
_ANY = re.compile(ANY_LETTER)
_NOT_BOXED = re.compile(r"\b(?:not|isn['’]t|than)[ (\[]{0,3}\Z", re.IGNORECASE)
_OR_BOXED = re.compile(r"[ )\]}.,]{0,8}(?:[,/&]|\bor\b|\band\b|또는|或)[ (\[]{0,4}", re.IGNORECASE)
# after the letter of an answer that was cut off: a mark that closes it, or a whole word that leads to no other letter
_CONTINUES = re.compile(
    r"[\"'’”]{0,4}(?:번?[가-힣]{1,6}|です|である)?[.。)\]}:\n]|.*?(?:\n|\b(?!(?:and|oder|und)\b)\w{3,}\W)", re.DOTALL
)


@dataclass(frozen=True)
class Extracted:
    """letter: upper case, "" when there is none. how: by which rule it was read."""

    letter: str
    how: How


def visible(text: str) -> str:
    """Returns the answer without its reasoning.

    Text before an end of reasoning that has no beginning is reasoning too: the prompt opened it. After a beginning that
    has no end, everything is reasoning, and none of it is an answer.
    """
    return "".join(text[begin:end] for begin, end in _visible_spans(text))


def _visible_spans(text: str) -> list[tuple[int, int]]:
    """Where the visible parts of a text begin and end."""
    spans: list[tuple[int, int]] = []
    done = 0
    while (begin := text.find(THINK_BEGIN, done)) >= 0 and (end := text.find(THINK_END, begin)) >= 0:
        spans.append((done, begin))
        done = end + len(THINK_END)
    spans.append((done, len(text)))
    for i, (begin, end) in reversed(list(enumerate(spans))):
        if (last := text.rfind(THINK_END, begin, end)) >= 0:
            spans[: i + 1] = [(last + len(THINK_END), end)]
            break
    for i, (begin, end) in enumerate(spans):
        if (first := text.find(THINK_BEGIN, begin, end)) >= 0:
            return [*spans[:i], (begin, first)]
    return spans


def extract(text: str, letters: str, *, truncated: bool = False) -> Extracted:
    """Reads the letter that a generated text answers with.

    text: as generated, reasoning included. letters: those that were offered. truncated: it was cut off by max_tokens or
    by the end of the context.

    1. The last place of the visible answer that says "answer: X", "X is correct", "I choose X" or "therefore X", in
       whatever dress, whose X was offered. When it names several ("A or B"), there is no letter. Places that deny ("the
       wrong answer is A", "answer (A) is incorrect"), suppose ("if the answer is A") or quote do not count.
    2. The fallback, only where no place says so: the last boxed letter; else the letter on lines that hold nothing but
       a letter, when they agree; else the letter of the one line with a tick; else the one "option X" of a last line
       that denies nothing; else a last line like "B) text" of an answer that has no other such line, or one that ends
       with ": X". Denied letters do not count.

    In an answer that was cut off, a letter counts only if a full stop, a bracket, the end of a line or a whole word
    follows it ("Answer: B" may have become "Boron" or "B or C"), and there is no fallback.
    """
    shown = plain_text(visible(text))
    stated = False
    for statement in statements(shown):
        stated = True
        if statement.letter not in letters:
            continue
        unsure = truncated and shown[statement.end - 1] != CLOSE and not _CONTINUES.match(shown, statement.end)
        if unsure or (not statement.whole and names_another(shown, statement.end, letters)):
            return Extracted("", "none")
        return Extracted(statement.letter, "answer")
    if stated or truncated:
        return Extracted("", "none")  # it answers with a letter that was not offered, or its last line is missing
    letter = _fallback(shown, letters)
    return Extracted(letter, "fallback" if letter else "none")


def find_letter(text: str, letters: str, *, truncated: bool = False) -> int | None:
    """Returns the place in a generated text of the letter that `extract` reads from it; None when there is none."""
    letter = extract(text, letters, truncated=truncated).letter
    if not letter:
        return None
    spans = _visible_spans(text)
    plain = plain_text_with_starts("".join(text[begin:end] for begin, end in spans))
    said = next((one for one in statements(plain.text) if one.letter == letter), None)
    begin, end = (said.begin, said.end + 1) if said else (0, len(plain.text))
    found = [match for match in _ANY.finditer(plain.text, begin, end) if match[1].upper() == letter]
    if not found:
        return None
    # what says "B is correct" says it after the letter
    match = found[0] if said and said.whole else found[-1]
    return _place_in(spans, _nearest(text, spans, plain.starts[match.start(1)], letter))


def _nearest(text: str, spans: list[tuple[int, int]], place: int, letter: str) -> int:
    """The letter's own place near the one that the plain text gives, where marks around it were taken off."""
    shown = "".join(text[begin:end] for begin, end in spans)
    near = range(max(0, place - 4), min(len(shown), place + 5))
    return min((k for k in near if shown[k].upper() == letter), key=lambda k: abs(k - place), default=place)


def _place_in(spans: list[tuple[int, int]], place: int) -> int | None:
    """Turns a place in the visible text into one in the whole text."""
    for begin, end in spans:
        if place < end - begin:
            return begin + place
        place -= end - begin
    return None


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


def _fallback(shown: str, letters: str) -> str:
    """Reads the letter of a text that states no answer; "" when there is none."""
    if BOX in shown and (boxed := [(box, name) for box, name in _boxed(shown) if name in letters]):
        several = len(boxed) > 1 and _OR_BOXED.fullmatch(shown, boxed[-2][0].end(), boxed[-1][0].start())
        return "" if several and boxed[-2][1] != boxed[-1][1] else boxed[-1][1]
    lines = [line for line in shown.split("\n") if line.strip()]
    alone = {letter for line in lines if (letter := _letter_alone(line)) and letter in letters}
    if alone or not lines:
        return _the_only(alone)
    ticked = {tick[1] or tick[2] for line in lines if "✓" in line and (tick := _TICKED.match(line))}
    if ticked:
        return _the_only(ticked, letters)
    return _of_last_line(lines, letters)


def _of_last_line(lines: list[str], letters: str) -> str:
    last = lines[-1]
    if named := {letter for letter in _NAMED.findall(last) if letter in letters}:
        return "" if _DENIED.search(last) else _the_only(named)
    if short := _SHORT_ANSWER.match(last):
        alone = sum(_LETTER_OF_LETTER.match(line) is not None for line in lines) == 1
        return _the_only({short[1]}, letters) if alone else ""
    # the text of a choice may deny something itself
    listed = _LISTED.match(last)
    if listed and not _WRONG.search(last):
        asked = last.startswith("A:") and any(_QUESTION.match(line) for line in lines)
        if asked or _LETTER_OF_LETTER.match(last) or sum(_LISTED.match(line) is not None for line in lines) > 1:
            return ""
        return _the_only({listed[1] or listed[2]}, letters)
    ending = _LAST_WORD.search(last, max(0, len(last) - LONGEST_LETTER_LINE))
    if ending and not _DENIED.search(last) and len(_LONE.findall(last)) == 1:
        return _the_only({ending[1]}, letters)
    return ""


def _the_only(found: set[str], letters: str | None = None) -> str:
    """The one letter of a set, if it was offered."""
    return next(iter(found)) if len(found) == 1 and (letters is None or found <= set(letters)) else ""


def _boxed(shown: str) -> Iterator[tuple[re.Match[str], str]]:
    """Yields the boxed letters that are not denied."""
    for box in _BOXED.finditer(shown):
        if not _NOT_BOXED.search(shown, max(0, box.start() - LOOK_BACK), box.start()):
            yield box, (box[1] or box[2]).upper()


def _letter_alone(line: str) -> str:
    """Returns the letter, in upper case, of a line that holds nothing else; or ""."""
    match = _ALONE.fullmatch(line) if len(line) <= LONGEST_LETTER_LINE else None
    return match[1].upper() if match else ""


def _arguments(shown: str) -> Iterator[str]:
    """Yields the parts of an answer that may argue for it, the best first."""
    plain = plain_text_with_starts(shown)
    statement = next(statements(plain.text), None)
    boxed = list(_BOXED.finditer(plain.text)) if statement is None else []
    if statement is not None:
        begin, end = plain.starts[statement.begin], plain.starts[statement.end]
    elif boxed:
        begin, end = plain.starts[boxed[-1].start()], plain.starts[boxed[-1].end()]
    else:
        yield _without_letter_lines(shown, plain)
        return
    line = shown.rfind("\n", 0, begin) + 1
    yield shown[:line]
    in_line = shown[line:begin].strip()
    yield in_line if len(in_line) >= SHORTEST_ARGUMENT else ""
    yield shown[end:].lstrip(" \t\n*_`)]}$.:,;-")


def _without_letter_lines(shown: str, plain: PlainText) -> str:
    """Returns a text without the lines that hold nothing but a letter."""
    kept: list[str] = []
    begin = 0
    for line in plain.text.split("\n"):
        end = begin + len(line)
        if not _letter_alone(line):
            kept.append(shown[plain.starts[begin] : plain.starts[end]])
        begin = end + 1
    return "\n".join(kept)
