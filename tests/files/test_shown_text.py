"""Text that is safe to show: against the browser's own Unicode tables, and as properties of any text."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darwin_neg_cpp.files.input_file import shown, shown_path
from darwin_neg_cpp.files.shown_text import (
    JOINERS,
    SEEN_FORMATS,
    escape_html,
    escape_json,
    escape_line,
    escape_markdown,
    escape_terminal,
    is_unseen,
    replace_surrogates,
)

# an escape sequence, C1, direction override and isolate, Arabic letter mark, zero-width space, byte order mark, tag
# letter, filler, soft hyphen, line separator, half of a pair, a variation selector of the supplement, one unassigned
UNSEEN = "\x1b\x00\x7f\x85\x9b\u202e\u2066\u061c\u200b\ufeff\U000e0041\u3164\u00ad\u2028\ud800\U000e0100\U000e0fff"
LANGUAGES = "a\tb\nсло́во 日本　語 🙂 ❤️ 1️⃣ 👩‍❤️‍👨 می‌خواهم क्‍ष قال ۝ l’été\u202f! fi\u0301n"

anything = st.text(
    st.one_of(st.characters(), st.sampled_from([*UNSEEN, *JOINERS, *map(chr, SEEN_FORMATS), *"\n\t<>&\"'`|*_[\\"]))
)


def test_unseen_characters_are_those_of_the_browsers_unicode_tables(browser: Any) -> None:
    tab = browser.new_page()
    pattern = r"/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{DI}]/u"
    ask = f"[...Array(0x110000).keys()].filter((code) => {pattern}.test(String.fromCodePoint(code)))"
    expected = set(tab.evaluate(ask)) - SEEN_FORMATS
    tab.close()
    got = {code for code in range(sys.maxunicode + 1) if is_unseen(chr(code))}
    # characters that one of the two does not know yet
    new = {code for code in got ^ expected if unicodedata.category(chr(code)) == "Cn"}
    assert len(expected) > 6000 and got ^ expected == new and len(new) < 50


@pytest.mark.parametrize("character", UNSEEN, ids=lambda c: f"{ord(c):04X}")
def test_no_way_of_showing_text_lets_an_unseen_character_through(character: str) -> None:
    text = f"a{character}b"
    for escaped in (escape_terminal(text), escape_line(text), escape_html(text), escape_markdown(text)):
        assert character not in escaped and f"{ord(character):x}" in escaped.lower()
        assert escaped[0] == "a" and escaped[-1] == "b"
    assert shown(text) == shown_path(text) == escape_line(text)


@given(anything)
def test_a_terminal_gets_no_unseen_character_but_a_joiner_after_what_it_shapes(text: str) -> None:
    escaped = escape_terminal(text)
    without_joiners = re.sub(f"([^\\s{''.join(JOINERS)}])[{''.join(JOINERS)}]{{1,2}}", r"\1", escaped)
    assert not [c for c in without_joiners if is_unseen(c) and c not in "\n\t"]
    assert escape_terminal(escaped) == escaped


@given(anything, st.integers(0, 20))
def test_text_in_pieces_is_escaped_as_the_whole_is(text: str, cut: int) -> None:
    assert escape_terminal(text[:cut]) + escape_terminal(text[cut:], after=text[:cut]) == escape_terminal(text)


def test_letters_of_all_languages_and_emoji_stay_as_they_are() -> None:
    assert escape_terminal(LANGUAGES) == LANGUAGES
    assert escape_terminal("\x1b\x00\x7f\x85\u202e\u2066") == r"\x1b\x00\x7f\x85\u202e\u2066"
    assert escape_terminal("\u200d\ufe0f a\u200c\u200d\ufe0f") == r"\u200d\ufe0f a" + "\u200c\u200d" + r"\ufe0f"


@given(anything)
def test_a_line_is_one_line_and_says_which_spaces_are_in_a_name(text: str) -> None:
    escaped = escape_line(text)
    assert escaped.isprintable() and not any(map(is_unseen, escaped)) and len(escaped.splitlines()) <= 1
    assert escape_line("l’été\u202f!\u00a0\u3000") == r"l’été\u202f!\xa0\u3000"


@given(anything)
def test_on_a_page_it_is_text_and_nothing_else(text: str) -> None:
    found: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append(f"{tag} {[value for _, value in attrs]}")

        def handle_data(self, data: str) -> None:
            found.append(data)

    parser = Parser()
    parser.feed(f'<p title="{escape_html(text)}">{escape_html(text)}</p>')
    parser.close()
    named = "".join(f"[U+{ord(c):04X}]" if is_unseen(c) else c for c in text)
    assert found[0] == f"p {[named]}" and "".join(found[1:]) == named


@given(anything)
def test_in_markdown_every_mark_is_escaped(text: str) -> None:
    escaped = escape_markdown(text)
    assert not any(map(is_unseen, escaped)) and "<" not in escaped
    without_escapes = re.sub(r"\\.", "", escaped)
    assert not set(without_escapes) & set("\\*_[`|") and re.sub("&(amp|lt);", "", escaped).count("&") == 0


@given(anything)
def test_json_says_the_same_and_hides_nothing(text: str) -> None:
    document = escape_json(json.dumps({"text": text, "texts": [text]}, ensure_ascii=False, indent=1))
    assert json.loads(document) == {"text": text, "texts": [text]}
    assert not any(is_unseen(c) for c in document if c != "\n")


@given(anything)
def test_only_halves_of_pairs_cannot_be_stored(text: str) -> None:
    assert replace_surrogates(text).encode().decode() == re.sub("[\ud800-\udfff]", "?", text)
