r"""Escapes in texts of the command line: \n is a newline, as in llama.cpp's tools."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import RequestError
from darwin_neg_cpp.cli.escapes import MEANT, unescape
from darwin_neg_cpp.cli.main import main


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"\n", "\n"),
        (r"a\tb\r\n", "a\tb\r\n"),
        (r"\"x\'", "\"x'"),
        (r"C:\\new", r"C:\new"),
        (r"\\n", r"\n"),
        (r"\x41\x0a", "A\n"),
        (r"\xe2\x80\xa6", "…"),
        (r"ä\n", "ä\n"),
        (r"\d+ \frac \x4 \xg1 \u0041 \0", r"\d+ \frac \x4 \xg1 \u0041 \0"),
        ("end\\", "end\\"),
        ("", ""),
    ],
)
def test_an_escape_is_what_it_is_to_llama_cpp_and_any_other_backslash_stays(given: str, meant: str) -> None:
    assert unescape("--stop", given) == meant


def test_the_letters_are_those_of_llama_cpp(llama_tree: Path) -> None:
    source = (llama_tree / "common" / "common.cpp").read_text("utf-8")
    body = source.split("void string_process_escapes(")[1].split("\n}\n")[0]
    cases = dict(re.findall(r"case '(\\?.)': +input\[output_idx\+\+\] = '(\\?.)';", body))
    plain = {"\\n": "\n", "\\r": "\r", "\\t": "\t", "\\'": "'", '\\"': '"', "\\\\": "\\"}
    theirs = {plain.get(letter, letter): plain[meant] for letter, meant in cases.items()}
    assert {letter.decode(): meant.decode() for letter, meant in MEANT.items()} == theirs


@pytest.mark.parametrize("text", [r"\xff", r"\xe2\x80", r"ä\x80"])
def test_bytes_that_are_no_text_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"^--stop: its .* escapes are not UTF-8; .*escape=False"):
        unescape("--stop", text)


@pytest.fixture
def model(fake: type[fake_core.Engine], file: Path) -> str:
    return str(file)


def last(name: str) -> Any:
    return fake_core.calls(name)[-1]


def test_stop_prompt_and_dry_breakers_take_escapes(model: str) -> None:
    args = ["generate", "-m", model, r"a\nb", "--stop", r"\n", "--stop", r"x\ty", "--dry-sequence-breaker", r"\n"]
    assert main(args) == 0
    assert (last("submit")["stop"], last("submit")["dry_sequence_breakers"]) == ([b"\n", b"x\ty"], [b"\n"])
    assert main([*args, "--no-escape"]) == 0
    assert (last("submit")["stop"], last("submit")["dry_sequence_breakers"]) == ([rb"\n", rb"x\ty"], [rb"\n"])
    assert main(["generate", "-m", model, "--chat", r"a\nb"]) == 0
    assert last("template")["messages"][0]["content"] == "a\nb"
    assert main(["generate", "-m", model, "--chat", r"a\nb", "--no-escape"]) == 0
    assert last("template")["messages"][0]["content"] == r"a\nb"


def test_a_file_and_a_pipe_say_what_they_say(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(r"a\nb", "utf-8")
    assert main(["generate", "-m", model, "--chat", "-f", str(path)]) == 0
    assert last("template")["messages"][0]["content"] == r"a\nb"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rb"a\nb")))
    assert main(["generate", "-m", model, "--chat"]) == 0
    assert last("template")["messages"][0]["content"] == r"a\nb"


def test_chat_takes_escapes_in_the_system_message_but_not_in_messages(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\\nb\n"))
    assert main(["chat", "-m", model, "--system", r"Be\nbrief", "-q", "--stop", r"\n\n"]) == 0
    assert last("template")["messages"] == [
        {"role": "system", "content": "Be\nbrief"},
        {"role": "user", "content": r"a\nb"},
    ]
    assert last("submit")["stop"] == [b"\n\n"]


def test_a_bad_escape_is_an_error_that_names_the_flag(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["x", "--stop", r"\xff"], ["x", "--dry-sequence-breaker", r"\xff"], [r"\xff"]):
        assert main(["generate", "-m", model, *args]) == 2
        err = capsys.readouterr().err
        assert (args[-2] if len(args) > 1 else "PROMPT") in err and "or pass --no-escape" in err
