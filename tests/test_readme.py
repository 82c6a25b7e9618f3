"""The README's Python example runs as it stands, on a small model and with short answers; its commands exist."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import darwin_neg_cpp
from conftest import ROOT
from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import build_parser

# reports in docs/demo-*/ are written by the commands that they are about
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")]


def code_blocks(path: Path) -> Iterator[tuple[str, str]]:
    """Yields language and text of each fenced block."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def shell_commands(path: Path) -> Iterator[list[str]]:
    """Yields the words of every darwin-neg command in a page's shell blocks."""
    for language, text in code_blocks(path):
        for line in text.replace("\\\n", " ").splitlines() if language == "sh" else ():
            if line.startswith("darwin-neg "):
                words = shlex.split(line, comments=True)[1:]
                # what follows after -- is for llama-server
                yield words[: words.index("--")] if words[0] == "serve" and "--" in words else words


def test_the_python_example_runs(smollm2, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert "DarwinNEG(" in code and "llm.chat(" in code

    class Short(DarwinNEG):
        """The demo model under whatever name, and a few tokens of each answer."""

        def __init__(self, model, neg=None, **options):
            super().__init__(smollm2.model, n_ctx=512, n_parallel=4, **options)

        def generate(self, prompt, **options):
            return super().generate(prompt, **{**options, "max_tokens": 4})

        def stream(self, prompt, **options):
            return super().stream(prompt, **{**options, "max_tokens": 4})

        def chat(self, messages, **options):
            return super().chat(messages, **{**options, "max_tokens": 4})

    monkeypatch.setattr(darwin_neg_cpp, "DarwinNEG", Short)
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 4


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_code_in_a_page_fit_in_120_columns(path: Path) -> None:
    assert [line for _, text in code_blocks(path) for line in text.splitlines() if len(line) > 120] == []


def test_every_command_of_the_pages_can_be_parsed() -> None:
    """An option that has been renamed would be found here."""
    commands = [(path, words) for path in PAGES for words in shell_commands(path)]
    assert len(commands) > 20 and {words[0] for _, words in commands} >= {"convert", "neg", "chat", "answer", "eval"}
    parser = build_parser()
    refused = []
    for path, words in commands:
        with contextlib.redirect_stderr(None):
            try:
                parser.parse_args(words)
            except SystemExit:
                refused.append((path.name, words))
    assert refused == []
