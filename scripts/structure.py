#!/usr/bin/env python3
"""Reads every import of the package and says where the layout is broken: circles, and arrows that point up.

    python scripts/structure.py [PACKAGE]

A room is a folder of the package, or a file at its top. `BELOW` draws the layout: an import is right when its target
can be reached from its source along these arrows. An import inside a function counts like one at the top of the file,
and so does one under TYPE_CHECKING: it makes no circle when the program runs, but it makes one for a reader. The exit
code is 1 when something is wrong.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "darwin_neg_cpp"

BASE = ("files", "checks", "results", "openai_json", "errors")  # every other room may import these
# what each room may import; whatever these may import, it may too
BELOW: dict[str, tuple[str, ...]] = {
    "__main__": ("cli",),
    "cli": ("cluster", "trace"),
    "cluster": ("batch", "training"),  # spreads what these and eval/ do over machines; they do not know of it
    "batch": ("eval",),  # what a record of a run says of the model is written in eval/
    "eval": ("__init__", "confidence"),
    "training": ("__init__", "trace", "confidence"),  # trace/ computes how well predicted and measured entropy agree
    "trace": ("__init__",),
    "__init__": ("llm", "remote", "server"),  # the package's public names and its version
    "llm": ("pretrained", "protocols", "demo_model"),
    "remote": ("protocols",),
    "server": ("pretrained",),
    "pretrained": ("convert",),
    "protocols": ("engine",),
    "engine": ("sampling", "gguf_file"),
    "convert": ("neg", "hub"),
    "neg": ("gguf_file",),
    "confidence": BASE,  # figures about a column of numbers, whatever it is about
    "demo_model": BASE,
    "hub": BASE,
    "sampling": ("json_schema",),
    "json_schema": BASE,
    "gguf_file": BASE,
    "openai_json": ("results", "checks"),
    "spans": (),
    "results": ("openai_json", "checks", "spans"),  # in one direction only: a circle of files is refused
    "checks": ("files",),
    "files": ("errors",),
    "errors": (),
}

# rooms that talk to the compiled engine, which is not a room: it imports nothing
CORE = "_core"
MAY_USE_CORE = ("engine", "cli", "convert")
# imports inside functions: these rooms may have any, so that every verb starts fast; elsewhere those listed here alone,
# which keep `import darwin_neg_cpp` fast. A file is loaded with its imports, so they belong to its top.
LAZY_ROOMS = ("cli", "__main__", "__init__")
LAZY = {
    ("llm", "pretrained"),
    ("llm", "protocols"),
    ("server", "pretrained"),
    ("eval", "__init__"),
    ("batch", "__init__"),
    ("cluster", "__init__"),
}  # the last three: looking up the version takes time


@dataclass(frozen=True)
class Import:
    """One import of a file of the package by another. lazy: inside a function. typing: under TYPE_CHECKING."""

    source: str
    target: str
    line: int
    lazy: bool
    typing: bool

    @property
    def rooms(self) -> tuple[str, str]:
        return room(self.source), room(self.target)

    def __str__(self) -> str:
        when = " (typing)" if self.typing else " (inside a function)" if self.lazy else ""
        return f"{self.source}:{self.line} imports {self.target}{when}"


def room(file: str) -> str:
    """The folder a file is in, or the file itself at the top: `cli` for cli/main.py, `llm` for llm.py."""
    return file.partition("/")[0].removesuffix(".py").removesuffix(".pyi")


def sources(package: Path) -> dict[str, ast.Module]:
    """Every Python file of the package by its path inside it."""
    return {
        path.relative_to(package).as_posix(): ast.parse(path.read_text("utf-8"))
        for path in sorted(package.rglob("*.py"))
    }


def imports(package: Path) -> list[Import]:
    """Every import of one file of the package by another."""
    files = sources(package)
    modules = {file.removesuffix(".py").removesuffix("/__init__"): file for file in files}
    modules[CORE] = CORE
    modules[""] = modules.pop("__init__", "__init__.py")
    found = []
    for file, tree in files.items():
        for node, lazy, typing in _walk(tree, False, False):
            for module in _modules_of(node, file, package.name, modules):
                if modules[module] != file:
                    found.append(Import(file, modules[module], node.lineno, lazy, typing))
    return found


def _walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, lazy, typing
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _walk(child, True, typing)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, lazy, True)
        else:
            yield from _walk(child, lazy, typing)


def _modules_of(node: ast.Import | ast.ImportFrom, file: str, package: str, modules: Mapping[str, str]) -> Set[str]:
    """The package's modules that a statement imports, as paths inside it without a suffix; "" is the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == package]
        return {"/".join(name.split(".")[1:]) for name in names}
    if node.level == 0:
        if (node.module or "").split(".")[0] != package:
            return set()
        base = (node.module or "").split(".")[1:]
    else:
        folders = file.split("/")[:-1]
        base = folders[: len(folders) - node.level + 1] + (node.module or "").split(".") * (node.module is not None)
    found = set()
    for alias in node.names:
        inside = "/".join([*base, alias.name])
        found.add(inside if inside in modules else "/".join(base))
    if unknown := sorted(found - modules.keys()):
        raise ValueError(f"{file}:{node.lineno}: imports {unknown[0]}, which is not a file of the package")
    return found


def circles(arrows: Set[tuple[str, str]]) -> list[list[str]]:
    """The groups of names that reach each other, each sorted (strongly connected components of more than one name)."""
    targets: dict[str, set[str]] = {}
    for source, target in arrows:
        targets.setdefault(source, set()).add(target)
        targets.setdefault(target, set())
    reach = {name: _reachable(name, targets) for name in targets}
    groups = {
        tuple(sorted({name} | {other for other in reach[name] if name in reach[other]}))
        for name in targets
        if name in reach[name]
    }
    return sorted(list(group) for group in groups)


def _reachable(start: str, targets: Mapping[str, Set[str] | tuple[str, ...]]) -> set[str]:
    reached: set[str] = set()
    left = list(targets.get(start, ()))
    while left:
        if (name := left.pop()) not in reached:
            reached.add(name)
            left += targets.get(name, ())
    return reached


def allowed(source: str, target: str) -> bool:
    """Whether room `source` may import room `target`."""
    if target == CORE:
        return source in MAY_USE_CORE
    return source == target or target in _reachable(source, BELOW) or (target in BASE and source not in BASE)


def faults(package: Path) -> list[str]:
    """One line for each import that breaks the layout."""
    found = imports(package)
    lines = []
    for one in found:
        source, target = one.rooms
        if source not in BELOW or (target not in BELOW and target != CORE):
            lines.append(f"{one}: there is no room {source if source not in BELOW else target}")
        elif not allowed(source, target):
            lines.append(f"{one}: {source} may not import {target}")
        elif one.lazy and source not in LAZY_ROOMS and target != CORE and one.rooms not in LAZY:
            lines.append(f"{one}: an import of the package's own belongs to the top of the file")
    for group in circles({(one.source, one.target) for one in found}):
        lines.append(f"files in a circle: {', '.join(group)}")
    for group in circles({one.rooms for one in found if one.rooms[0] != one.rooms[1]}):
        lines.append(f"rooms in a circle: {', '.join(group)}")
    return lines


def figures(package: Path) -> dict[str, str]:
    """The size of the layout: its files, arrows and longest parts."""
    found = imports(package)
    files = sources(package)
    lengths = {file: len((package / file).read_text("utf-8").splitlines()) for file in files}
    functions = {
        f"{file}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for file, tree in files.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    arrows = {one.rooms for one in found if one.rooms[0] != one.rooms[1]}
    known = {*BELOW, CORE}
    up = {arrow for arrow in arrows if known.issuperset(arrow) and not allowed(*arrow)}
    file = max(lengths, key=lambda name: lengths[name])
    function = max(functions, key=lambda name: functions[name])
    return {
        "files at the top level": str(sum("/" not in name for name in files)),
        "rooms": str(len({room(name) for name in files})),
        "rooms that are not in BELOW": str(len({room(name) for name in files} - known)),
        "arrows between rooms": str(len(arrows)),
        "arrows that point up": str(len(up)),
        "files in a circle": str(sum(map(len, circles({(one.source, one.target) for one in found})))),
        "rooms in a circle": str(sum(map(len, circles(arrows)))),
        "imports inside functions": str(sum(one.lazy for one in found)),
        "imports for types alone": str(sum(one.typing for one in found)),
        "longest file": f"{lengths[file]} lines, {file}",
        "longest function": f"{functions[function]} lines, {function}",
    }


def main() -> int:
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE
    for name, value in figures(package).items():
        print(f"{name + ':':<30} {value}")
    lines = faults(package)
    for line in lines:
        print(line)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
