"""_core.pyi says what the compiled module really offers: mypy checks our Python against it, and would believe anything."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from darwin_neg_cpp import _core

# pybind11's own: its classes have a metaclass, and one that Python may not make takes any arguments to say so
ALLOWED = r"""
darwin_neg_cpp\._core\.(ChatPrompt|Engine|Inbox|ModelParams|NegAction|Notify|QuantizeProgress|RequestParams|Requests)
darwin_neg_cpp\._core\.(ChatPrompt|Inbox|Requests|ModelParams|RequestParams)\.__init__
darwin_neg_cpp\._core\.(NegAction|Notify)\..*
"""


@pytest.mark.slow
def test_names_and_kinds_are_those_of_the_module(tmp_path: Path) -> None:
    (tmp_path / "allowed.txt").write_text(ALLOWED)
    # the module's stub alone: with all that the package imports it takes minutes
    config = {"follow_imports": "skip", "mypy_path": ROOT / "python", "cache_dir": tmp_path / "cache"}
    (tmp_path / "mypy.ini").write_text("[mypy]\n" + "".join(f"{key} = {value}\n" for key, value in config.items()))
    command = [sys.executable, "-m", "mypy.stubtest", "darwin_neg_cpp._core", "--concise"]
    command += ["--mypy-config-file", str(tmp_path / "mypy.ini"), "--allowlist", str(tmp_path / "allowed.txt")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def parameters(function: ast.FunctionDef) -> list[tuple[str, bool, bool]]:
    """(name, keyword only, may be left out) of each parameter but `self`."""
    given = function.args
    plain = given.posonlyargs + given.args
    optional = len(plain) - len(given.defaults)
    rows = [(arg.arg, False, i >= optional) for i, arg in enumerate(plain)]
    rows += [
        (arg.arg, True, default is not None) for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return [row for row in rows if row[0] != "self"]


def signatures(tree: ast.Module | ast.ClassDef, where: Any) -> list[Any]:
    """(stub, compiled object) of each function, those of classes included; pybind11 writes signatures into docstrings only."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            found.append(pytest.param(node, getattr(where, node.name), id=f"{where.__name__}.{node.name}"))
        elif isinstance(node, ast.ClassDef) and hasattr(where, node.name):
            found += signatures(node, getattr(where, node.name))
    return found


STUB = ast.parse((ROOT / "python" / "darwin_neg_cpp" / "_core.pyi").read_text("utf-8"))


@pytest.mark.parametrize(("stub", "compiled"), signatures(STUB, _core))
def test_parameters_are_those_of_the_module(stub: ast.FunctionDef, compiled: Any) -> None:
    line = next(line for line in compiled.__doc__.splitlines() if line.strip())
    (runtime,) = ast.parse(f"def {line}: ...").body
    assert isinstance(runtime, ast.FunctionDef)
    assert parameters(stub) == parameters(runtime)
