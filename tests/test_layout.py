"""Rooms import each other in one direction: no circle, no arrow that points up (see scripts/structure.py)."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "python" / "darwin_neg_cpp"
SCRIPT = ROOT / "scripts" / "structure.py"

spec = importlib.util.spec_from_file_location("structure", SCRIPT)
assert spec is not None and spec.loader is not None
structure = importlib.util.module_from_spec(spec)
sys.modules["structure"] = structure
spec.loader.exec_module(structure)


@pytest.fixture(scope="module")
def faults() -> set[str]:
    return set(structure.faults(PACKAGE))


def test_every_import_points_down_and_there_is_no_circle(faults):
    assert faults == set()


def test_the_layout_itself_has_no_circle():
    arrows = {(room, target) for room, targets in structure.BELOW.items() for target in targets}
    assert structure.circles(arrows) == [["openai_json", "results"]], (
        "either may import the other, but not both at once"
    )
    assert {target for _, target in arrows} <= structure.BELOW.keys()


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("neg/new.py", "from ..convert.plan import Plan", "neg may not import convert"),
        ("neg/new.py", "import darwin_neg_cpp.llm", "neg may not import llm"),
        ("neg/new.py", "from darwin_neg_cpp import hub", "neg may not import hub"),
        ("hub.py", "def f():\n    from .cli import main", "hub may not import cli"),
        ("hub.py", "if TYPE_CHECKING:\n    from .llm import DarwinNEG", "hub may not import llm"),
        ("convert/new.py", "from ..engine import log", "convert may not import engine"),
        ("files/new.py", "from .. import _core", "files may not import _core"),
        ("errors.py", "from .checks import encode", "errors may not import checks"),
        ("neg/head.py", "from .formats import read_head", "files in a circle: neg/formats.py, neg/head.py"),
        ("gguf_file/new.py", "from .. import hub\nfrom ..neg import head", "rooms in a circle: gguf_file, neg"),
        ("helpers/new.py", "from .. import errors", "there is no room helpers"),
        ("neg/new.py", "def f():\n    from ..gguf_file import header", "belongs to the top of the file"),
    ],
)
def test_an_import_that_breaks_the_layout_is_named(tmp_path, faults, file, line, said):
    package = Path(shutil.copytree(PACKAGE, tmp_path / "darwin_neg_cpp", ignore=shutil.ignore_patterns("data", "*.so")))
    (package / "checks.py").touch()
    path = package / file
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text("utf-8") if path.exists() else "") + "\n" + line + "\n", "utf-8")
    new = set(structure.faults(package)) - faults
    assert any(said in fault for fault in new), new


def test_the_reader_finds_the_imports_that_python_makes():
    # Python's own import statement is asked as it loads every file of the package
    code = """
import builtins, importlib, importlib.util, pkgutil, sys
import darwin_neg_cpp
real, seen = builtins.__import__, set()
def watch(name, globals=None, locals=None, fromlist=(), level=0):
    source = (globals or {}).get("__name__", "")
    module = real(name, globals, locals, fromlist, level)
    if source.startswith("darwin_neg_cpp"):
        base = importlib.util.resolve_name("." * level + name, globals["__package__"]) if level else name
        for part in fromlist or ("",):
            inside = base + "." + part
            target = inside if inside in sys.modules else base
            if target.startswith("darwin_neg_cpp"):
                seen.add((source, target))
    return module
builtins.__import__ = watch
for info in pkgutil.walk_packages(darwin_neg_cpp.__path__, "darwin_neg_cpp."):
    # what has a hyphen is a shared library, not a module
    if info.name.rpartition(".")[2] not in ("_core", "_server", "__main__") and "-" not in info.name:
        importlib.import_module(info.name)
print("\\n".join(sorted(" ".join(arrow) for arrow in seen if arrow[0] != arrow[1])))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    made = {tuple(line.split()) for line in result.stdout.splitlines()}

    def module(file: str) -> str:
        return ".".join(
            ["darwin_neg_cpp", *file.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]
        ).rstrip(".")

    read = {
        (module(one.source), module(one.target))
        for one in structure.imports(PACKAGE)
        if not one.lazy and not one.typing and one.source not in ("__init__.py", "__main__.py")
    }
    assert made == read and len(read) > 100


def test_the_package_imports_its_own_files_by_relative_names_alone():
    # so that a copy of it under another name works
    absolute = [
        f"{file}:{node.lineno}"
        for file, tree in structure.sources(PACKAGE).items()
        for node in structure.ast.walk(tree)
        if (isinstance(node, structure.ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name)
        or (isinstance(node, structure.ast.Import) and any(n.name.split(".")[0] == PACKAGE.name for n in node.names))
    ]
    assert absolute == []


def test_the_script_prints_the_figures_of_any_checkout(tmp_path):
    package = tmp_path / "package"
    (package / "cli").mkdir(parents=True)
    (package / "errors.py").write_text("", "utf-8")
    (package / "llm.py").write_text("from .errors import x\n\n\ndef f():\n    return 1\n", "utf-8")
    (package / "cli" / "main.py").write_text("from .. import llm\n", "utf-8")
    result = subprocess.run([sys.executable, str(SCRIPT), str(package)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    figures = dict(line.split(":", 1) for line in result.stdout.splitlines())
    assert {name: value.strip() for name, value in figures.items()} == {
        "files at the top level": "2",
        "rooms": "3",
        "rooms that are not in BELOW": "0",
        "arrows between rooms": "2",
        "arrows that point up": "0",
        "files in a circle": "0",
        "rooms in a circle": "0",
        "imports inside functions": "0",
        "imports for types alone": "0",
        "longest file": "5 lines, llm.py",
        "longest function": "2 lines, llm.py:f",
    }


# what C++ files name of the standard library most, and where it is declared
DECLARED = {
    "algorithm": ("all_of", "any_of", "copy_if", "fill", "find", "find_if", "max", "min", "none_of", "search", "sort"),
    "array": ("array",),
    "atomic": ("atomic",),
    "cmath": ("isfinite", "isinf", "isnan", "log", "exp"),
    "condition_variable": ("condition_variable",),
    "cstring": ("memcpy", "strlen"),
    "deque": ("deque",),
    "exception": ("current_exception", "exception_ptr", "rethrow_exception"),
    "fstream": ("ifstream",),
    "functional": ("function",),
    "future": ("future", "promise"),
    "limits": ("numeric_limits",),
    "map": ("map",),
    "memory": ("make_shared", "make_unique", "shared_ptr", "unique_ptr"),
    "mutex": ("call_once", "lock_guard", "mutex", "unique_lock"),
    "optional": ("make_optional", "nullopt", "optional"),
    "set": ("set",),
    "string": ("string", "to_string"),
    "thread": ("thread",),
    "utility": ("move", "pair"),
    "vector": ("vector",),
}


def test_a_cpp_file_includes_what_it_names_of_the_standard_library() -> None:
    header_of = {name: header for header, names in DECLARED.items() for name in names}
    missing = []
    for path in sorted((ROOT / "cpp").rglob("*.[ch]*")):
        own = path.with_suffix(".h")
        code = re.sub(r"//.*", "", path.read_text("utf-8"))
        included = set(re.findall(r"#include <(\w+)>", code + (own.read_text("utf-8") if own.exists() else "")))
        for name in sorted(set(re.findall(r"\bstd::(\w+)", code)) & header_of.keys()):
            if header_of[name] not in included:
                missing.append(f"{path.relative_to(ROOT)}: std::{name} needs <{header_of[name]}>")
    assert missing == []
