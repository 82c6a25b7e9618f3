"""Every script in examples/ runs as it stands on the demo model, is short, and shows what it promises."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PATTERNS = {
    "entropies.py": r"(?s)\d\.\d\d nats \* #+\n.*gate active at \d+\.\d% of tokens, mean entropy \d+\.\d\d",
    "stream_chat.py": r"(?s)> Why is the sky blue\?.*\n\w.{20,}\n\n> And at sunset\?\n.{10,}",
    "samples.py": r"(?s)^ +\d+ of 16  italy\n.*agreement: [01]\.\d\d\n",
    "ask_in_mode_3.py": r"(?s)Venus +\d+ votes\n.*Earth +\d+ votes\nanswer: \w.*\d+ of \d+ inferences, \d+ tokens\n",
    "score_text.py": r"(?s)perplexity \d+\.\d\d, .*mean error \d\.\d\d nats\n.*(  '.*' +\d+\.\d\d nats, where .*\n){5}",
    "train_and_attach.py": r"(?s)train: done\n.*R² on text that was kept apart: -?\d.*entropies in nats: \d",
}


def run_script(name: str, *args: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *args]
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    return out.stdout


def test_every_script_has_a_case() -> None:
    assert [path.name for path in SCRIPTS] == sorted(PATTERNS)
    listed = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "examples" / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(PATTERNS)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_short_and_says_what_it_does(path: Path) -> None:
    text = path.read_text("utf-8")
    tree = ast.parse(text)
    assert 20 <= len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in (ast.get_docstring(tree) or "")
    assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", [name for name in PATTERNS if name != "train_and_attach.py"])
def test_the_script_runs_on_the_demo_model(name: str) -> None:
    shown = run_script(name)
    assert re.search(PATTERNS[name], shown), shown


@pytest.mark.slow
def test_the_script_trains_a_head_for_the_demo_model(tmp_path: Path) -> None:
    for i, path in enumerate(sorted(ROOT.glob("docs/*.md"))[:12]):  # enough, however many pages there will be
        (tmp_path / f"text-{i}.txt").write_text(path.read_text("utf-8")[:2000], "utf-8")
    texts = map(str, sorted(tmp_path.glob("*.txt")))
    shown = run_script("train_and_attach.py", str(tmp_path), *texts)
    assert re.search(PATTERNS["train_and_attach.py"], shown), shown
    assert (tmp_path / "head.gguf").exists() and (tmp_path / "model-with-head.gguf").exists()
