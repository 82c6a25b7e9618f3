"""What tests of several verbs need of the command line."""

from __future__ import annotations

import pytest

from darwin_neg_cpp.cli.main import main


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Runs a command that is refused, and returns the one line that says why."""
    capsys.readouterr()
    assert main(list(arguments)) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("darwin-neg: error: "), said
    return said
