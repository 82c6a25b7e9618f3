"""Ray is an extra: imported with its option alone, and what is wrong with a cluster is one line at once."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import darwin_neg_cpp
from command_line import refusal
from conftest import ROOT

PACKAGE = ROOT / "python" / "darwin_neg_cpp"
QUESTIONS = ROOT / "examples" / "questions.csv"
VERBS = ("batch", "eval", "train-head")


@pytest.fixture
def words(tiny_llama: Path, tmp_path: Path) -> dict[str, list[str]]:
    """A command of each verb that can use a cluster."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a", "max_tokens": 2}\n', "utf-8")
    given = {
        "batch": ["batch", str(prompts), "-n", "2"],
        "eval": ["eval", "--data", str(QUESTIONS), "--modes", "0", "--limit", "1", "-n", "2"],
        "train-head": ["train-head", "--text", str(ROOT / "LICENSE")],
    }
    return {verb: [*args, "-m", str(tiny_llama), "-o", str(tmp_path / "out")] for verb, args in given.items()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "--ray 127.0.0.1:1 cannot be reached"),
        ("here", '--ray must be HOST:PORT or "auto", got here'),
        ("127.0.0.1:x", "--ray 127.0.0.1:x cannot be reached"),
    ],
)
def test_an_address_where_no_cluster_is_is_one_line_at_once(
    words: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    address: str,
    said: str,
) -> None:
    assert refusal(capsys, *words[verb], "--ray", address).startswith(f"darwin-neg: error: {said}")
    assert not list(tmp_path.glob("out*"))


def test_a_cluster_and_servers_cannot_both_answer(
    words: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, *words["eval"], "--ray", "auto", "--server", "http://127.0.0.1:1")
    assert said == ("darwin-neg: error: --ray and --server both say where the model runs; leave one of them out\n")


@pytest.mark.parametrize("verb", VERBS)
def test_without_ray_the_option_says_how_to_install_it_and_all_else_works(
    words: dict[str, list[str]], tmp_path: Path, verb: str
) -> None:
    """Here it cannot be imported at all."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('not here')\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(darwin_neg_cpp.__file__).parents[1])])
    command = [sys.executable, "-m", "darwin_neg_cpp", *words[verb]]
    environment = {**os.environ, "PYTHONPATH": paths}
    refused = subprocess.run([*command, "--ray", "auto"], env=environment, check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr == "darwin-neg: error: Ray is not installed; run `pip install 'darwin-neg-cpp[ray]'`\n"
    assert not list(tmp_path.glob("out*"))
    if verb != "train-head":  # which trains for longer than this is worth: see the next test
        subprocess.run(command, env=environment, check=True, capture_output=True)


def test_one_function_of_one_file_imports_ray() -> None:
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        inside = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "ray" for name in names):
                assert id(node) in inside, f"{path}: at the top of the file"
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers == {"cluster/connect.py"}
