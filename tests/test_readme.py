"""The Python examples of README and docs run as they stand, on a small model; their commands exist."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
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


# tests/serve/test_docs.py, tests/remote/test_remote.py and tests/eval/test_real.py run the examples of these
ON_SERVERS = {"serve.md", "evaluation.md"}
WITH_PYTHON = [
    path
    for path in (ROOT / "docs").glob("*.md")
    if path.name not in ON_SERVERS and "python" in {language for language, _ in code_blocks(path)}
]


@pytest.fixture
def short(smollm2, monkeypatch):
    """DarwinNEG, as the demo model under whatever name, and with a few tokens of each answer."""

    class Short(DarwinNEG):
        def __init__(self, model, neg=None, **options):
            super().__init__(smollm2.model, **{**options, "n_ctx": 2048, "n_parallel": 4})

        def generate(self, prompt, **options):
            return super().generate(prompt, **{**options, "max_tokens": 4})

        def stream(self, prompt, **options):
            return super().stream(prompt, **{**options, "max_tokens": 4})

        def chat(self, messages, **options):
            return super().chat(messages, **{**options, "max_tokens": 4})

        def answer(self, question, mode=3, **options):
            return super().answer(question, mode, **{**options, "max_tokens": 4})

    monkeypatch.setattr(darwin_neg_cpp, "DarwinNEG", Short)


def test_the_python_example_runs(short, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert "DarwinNEG(" in code and "llm.chat(" in code
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 4


@pytest.mark.parametrize("path", WITH_PYTHON, ids=lambda path: path.name)
def test_the_python_examples_of_a_page_run_one_after_another(path, request, tmp_path, monkeypatch, capsys):
    blocks = [text for language, text in code_blocks(path) if language == "python"]
    if "demo_model." not in blocks[0]:  # a model that the reader has
        request.getfixturevalue("short")
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for text in blocks:
        exec(compile(text, path.name, "exec"), names)
        assert capsys.readouterr().out.strip() or "print(" not in text


@pytest.mark.parametrize("name", ["first-answer.md", "uncertainty.md"])
def test_the_commands_with_the_demo_model_run(name, tmp_path):
    commands = [words for words in shell_commands(ROOT / "docs" / name) if "--demo" in words]
    assert len(commands) >= 2
    for words in commands:
        command = [sys.executable, "-m", "darwin_neg_cpp", *words]
        out = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=tmp_path, check=False
        )
        assert out.returncode == 0 and out.stdout + out.stderr, (words, out.stderr)
        assert "-o" not in words or (tmp_path / words[words.index("-o") + 1]).stat().st_size > 1000


def test_every_make_command_of_the_pages_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        (path.name, name)
        for path in PAGES
        for name in re.findall(r"\bmake ([a-z-]+)\b(?=`|  |\n)", path.read_text("utf-8"))
    }
    assert len(named) > 20 and {(path, name) for path, name in named if name not in targets} == set()


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
