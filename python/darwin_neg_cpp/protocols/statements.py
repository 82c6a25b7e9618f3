"""Finds the places of an answer that say which letter the answer is.

Every rule looks a bounded number of characters ahead and back, so that the time is linear in the length of the text,
whatever it repeats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .answer_rules import LANGUAGES
from .plain_text import ANY_LETTER, BOX, CLOSE, LETTER, OPEN

LOOK_AHEAD = 160  # characters after "answer" within which its letter must come
LOOK_BACK = 60  # characters before a statement in which a word may deny, suppose or introduce it

_NO_LETTER_BEFORE, _NO_LETTER_AFTER = r"(?<![A-Za-zÀ-ɏЀ-ӿ])", r"(?![A-Za-z0-9À-ɏЀ-ӿ])"


def _joined(field: str) -> str:
    """Joins a column of the table. Words of languages that put spaces between them match whole words only."""
    patterns = [(getattr(language, field), language.spaced) for language in LANGUAGES if getattr(language, field)]
    whole = "|".join(pattern for pattern, spaced in patterns if spaced)
    others = "|".join(pattern for pattern, spaced in patterns if not spaced)
    return rf"(?:{_NO_LETTER_BEFORE}(?:{whole}){_NO_LETTER_AFTER}|{others or '(?!)'})"


_BECAUSE = "|".join(language.because for language in LANGUAGES if language.because)
# the end of what is said of a letter: "is correct." and "is correct because", not "is correct?" or "is correct only if"
_STOP = (
    r"(?=\) |[)\]}\"'”’ ]{0,3}(?:[.](?![A-Za-z0-9])|[,;:!。、—–]|\n|\Z)"
    rf"| (?:{_BECAUSE}|here|for|on this|while|whereas|hence|so)(?!\w))"
)
# the end of a conclusion that is nothing but a letter: "Therefore B.", not "Therefore B increases" or "B. subtilis"
_CONCLUDED = (
    r"(?:번?(?:입니다|이다|예요|이에요)|です|である|だ|となる|となります)?"
    r"(?=\) |[)\]}\"'”’]{0,2} ?(?:\n|\Z|[.!。](?!(?-i: ?[a-z0-9]))))"
)
_CLAUSE = rf"(?:\n|[.!?;:。、…—–→✓∴] ?|(?<![A-Z{CLOSE}]), ?|[\"“‘«(「] ?)"
_NOUN = (
    r"(?:(?:the )?(?:option|choice|answer|letter|선택지|보기|选项|選項|選択肢|(?:la )?opción|(?:a )?opção"
    r"|(?:die )?antwort|(?:la )?réponse|вариант) ?)?"
)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiles a rule: "@" is a letter, a group unless it is only looked at; "~" is the end of what is said of it."""
    ahead = LETTER.replace("([A-Z])", "[A-Z]")
    pattern = pattern.replace("~", _STOP).replace("(?= @)", f"(?= (?-i:{ahead}))")
    return re.compile(pattern.replace("@", f"(?-i:{LETTER})"), re.IGNORECASE)


_MARKER = _compiled(rf"{_joined('answer')}(?: (?:to|for) (?:the|this|that) (?:\w{{1,20}} ){{0,2}}question)?")
# What may stand between the marker and the letter: marks, brackets, and words that announce the answer.
_GAP = rf"(?:[\s\"'“”‘’«»()\[\]{{}}<>「」『』【】:=\-–—.,|→✓#•{BOX}]|{_joined('between')})"
_BETWEEN = _compiled(rf"{_GAP}{{0,16}}")
_ANY = re.compile(ANY_LETTER)
# "answer B" alone may be in the middle of any sentence; one of these says that B is the answer
_SAYS = re.compile(rf"[:=(\[{{<>\-–—|\n→✓•】{BOX}{OPEN}]|(?<=\bans)\.|{_joined('says')}", re.IGNORECASE)
# "the best answer among these is B", "the only answer that conserves momentum is B"
_FAR = _compiled(
    r",? (?:here|among|of|to|for|in|that|which|i|we|you|from|based|given|out)\b"
    r"(?: (?!(?:not|never|wrong|incorrect|if|whether|people|students|many|some|others|most people|\w{1,10}n['’]t)\b)"
    rf"[\w'’,-]{{1,20}}){{0,8}}?,? (?:is|must be|would be|should be|has to be|will be)\b{_GAP}{{0,8}}@"
)
# "is not A but C", "不是A，而是C"
_NOT_BUT = _compiled(
    rf"{_GAP}{{0,12}}{_joined('negated')}{_GAP}{{0,8}}@[)\]}}\"'”’]{{0,2}}[,;.]? ?{_joined('instead')}{_GAP}{{0,8}}@"
)
# marks that may as well belong to a letter mentioned in passing: "Answer (A) ignores friction"
_FORMATTING = re.compile(r"[\s(\[{<\"'‘“]*(?:(?:option|choice|letter)[\s(\[{<\"'‘“]*)?", re.IGNORECASE)
_IN_PASSING = re.compile(r"[\"'’”)\]}]{0,4} (?!because\b|since\b)[a-z]")
_SUPPOSED = _compiled(rf"{_joined('supposed')} ?\Z")
# "the answer is B?"
_ASKED = re.compile(r"[\"'’”)\]}]{0,4} ?(?:\?|번?(?:일까|인가|인지|일지|일 수도)|吗|嗎|呢|でしょうか|ですか|だろうか)")
_REJECTED = _compiled(rf"[\"'’”)\]}}]{{0,4}}(?: ?✗|{'|'.join(one.rejected for one in LANGUAGES if one.rejected)})")
# after what is rejected: "가 아니라 C", "ではなく C"
_INSTEAD = _compiled(r"[라고]?[,、]? ?(?:く[,、 ]{0,2})?@")
# words after "A", "I" and small letters that leave them letters, where others make them words or variables
_AFTER_CAPITAL = re.compile(rf" (?:{_BECAUSE})(?!\w)")
_AFTER_SMALL = re.compile(r" (?:and|or|because|since|is)\b")

_LEAD = _joined("leads") + r"(?:[,、:]? ?)"
_LEADS = _compiled(rf"(?:{_LEAD}){{1,3}}[\"(]?\Z")
_CLAUSE_ENDS = _compiled(rf"{_CLAUSE}\Z")
_RIGHT = _compiled(
    "@(?:"
    + "|".join(f"{' ' if language.spaced else ' ?'}(?:{language.right})" for language in LANGUAGES if language.right)
    + ")"
)
# a question may be about statements A to D, each of which may be true
_WEAK = _compiled(
    r"\b(?:statement|true|aussage|wahr|affirmation|vraie?|afirmación|verdader[ao]|afirmação|verdadeir[ao]|утверждение)\b|설명"
)
_SENTENCES = [_compiled(sentence) for language in LANGUAGES for sentence in language.sentences]
_THEREFORE = _compiled(
    rf"(?:∴|{_joined('therefore')})[,、:]? ?(?:we (?:get|have|obtain) |it(?:['’]s| is| must be) |(?:the )?answer )?"
    rf"{_NOUN}@{_CONCLUDED}"
)

_OTHER = _compiled(
    rf"[ \"'’”)\]}}]{{0,4}}(?:[,/&;|]|{_joined('alternative')})[ \"'‘“(\[{{]{{0,4}}"
    rf"(?:(?:option|choice) )?[(\[{{]{{0,2}}{ANY_LETTER}"
)
_NEXT = re.compile(rf" {LETTER}(?= {LETTER}|[ .,]{{0,3}}$)", re.MULTILINE)
_NEW_CLAUSE = re.compile(r" (?:is|was|has|does|cannot|would)\b")


@dataclass(frozen=True)
class Statement:
    """A place that says which letter the answer is.

    begin, end: of the words that say it. whole: they say it after the letter ("B is correct"), so that no "or C" can
        follow.
    """

    begin: int
    letter: str
    end: int
    whole: bool = False


def statements(text: str) -> Iterator[Statement]:
    """Yields the places of a plain text that say which letter the answer is: the last one first, the weak ones last."""
    if not _ANY.search(text):
        return
    found: list[tuple[int, Statement]] = []  # with the place of the letter
    for right in _RIGHT.finditer(text):
        found.append((right.start(1), Statement(right.start(), right[1], right.end(), whole=True)))
    for rule in (*_SENTENCES, _THEREFORE):
        for said in rule.finditer(text):
            found.append((said.start(1), Statement(said.start(), said[1], said.end(1))))
    for marker in _MARKER.finditer(text):
        if letter := _letter_after(text, marker.end()):
            found.append((letter[0], Statement(marker.start(), *letter[1:])))
    weak: list[Statement] = []
    for _, statement in sorted(found, key=lambda one: one[0], reverse=True):
        begin = _clause_begin(text, statement.begin) if statement.whole else statement.begin
        if begin is None or _before(_SUPPOSED, text, begin):
            continue
        if statement.whole and _WEAK.search(text, begin, statement.end):
            weak.append(statement)
        else:
            yield statement
    if len({statement.letter for statement in weak}) == 1:
        yield weak[0]


def names_another(text: str, end: int, letters: str) -> bool:
    """Whether another letter follows the one that ends at `end` as an alternative."""
    other = _OTHER.match(text, end) or _NEXT.match(text, end)
    if other is None or other[1].upper() not in letters:
        return False
    # "B, a strong acid" and "B, A is wrong" continue as sentences
    return _is_letter(other[1], text, other.end(1)) and _NEW_CLAUSE.match(text, other.end(1)) is None


def _before(pattern: re.Pattern[str], text: str, end: int) -> re.Match[str] | None:
    """Finds a pattern that ends at `end`; it begins at a word, which spares most of the places where it might."""
    for begin in range(max(0, end - LOOK_BACK), end):
        if (begin == 0 or not text[begin - 1].isalpha() or text[begin] > "\u1100") and (
            match := pattern.match(text, begin, end)
        ):
            return match
    return None


def _clause_begin(text: str, letter: int) -> int | None:
    """Where the clause of a letter begins; None where the letter is part of a name: "vitamin C is correct"."""
    if letter == 0 or _CLAUSE_ENDS.match(text, letter - 1, letter) or _CLAUSE_ENDS.match(text, letter - 2, letter):
        return letter
    before = _before(_LEADS, text, letter)
    return before.start() if before else None


def _letter_after(text: str, begin: int) -> tuple[int, str, int] | None:
    """Finds the letter that a marker ending at `begin` speaks of: its place, its name, and where it ends."""
    ahead = _ANY.search(text, begin, begin + LOOK_AHEAD)
    if ahead is None or ahead.end() == begin + LOOK_AHEAD:
        return None
    if said := _NOT_BUT.match(text, begin):
        return said.start(2), said[2], said.end()
    if said := _FAR.match(text, begin):
        return None if _REJECTED.match(text, said.end()) else (said.start(1), said[1], said.end())
    between = _BETWEEN.match(text, begin)
    letter = between and _ANY.match(text, between.end())
    if not between or not letter or not _is_letter(letter[1], text, letter.end()):
        return None
    if not _SAYS.search(text, begin, letter.start() + text.startswith(OPEN, letter.start())):
        return None
    if _FORMATTING.fullmatch(text, begin, letter.start()) and _IN_PASSING.match(text, letter.end()):
        return None
    if ":" not in between[0] and _ASKED.match(text, letter.end()):
        return None
    if rejected := _REJECTED.match(text, letter.end()):
        letter = _INSTEAD.match(text, rejected.end())
    return (letter.start(1), letter[1].upper(), letter.end()) if letter else None


def _is_letter(letter: str, text: str, end: int) -> bool:
    """Whether it is neither the article of "the answer is a large number", nor the pronoun of "answer: I think", nor a
    variable in small letters.
    """
    if CLOSE in text[end - 1 : end + 1]:
        return True
    rest = text[end : end + 20]
    if letter.islower():
        return re.match(r" \w", rest) is None or _AFTER_SMALL.match(rest) is not None
    return letter not in "AI" or re.match(r" [a-z]", rest) is None or _AFTER_CAPITAL.match(rest) is not None
