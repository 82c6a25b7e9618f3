"""The README's Python example runs as it stands, on a small model and with short answers."""

from __future__ import annotations

import re

import darwin_neg_cpp
from conftest import ROOT
from darwin_neg_cpp import DarwinNEG


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
