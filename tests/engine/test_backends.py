"""Packages with a backend for GPUs: a sound one is loaded, any other is left out in one line, and the CPU is used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from darwin_neg_cpp import _core
from darwin_neg_cpp.engine import backends
from tiny_gguf import write_tiny_llama

PACKAGE = "darwin_neg_cpp_vulkan"
BUILD = _core.build_info()
GENERATE = "from darwin_neg_cpp import DarwinNEG; print(DarwinNEG({!r}).generate('a', max_tokens=2).token_ids)"
# a shared library that is no backend
OTHER = max(backends.FOLDER.glob("*darwin-neg-ggml-base*"), default=None)


def write_package(folder: Path, *, library: str = "libggml-vulkan.so", build: dict[str, str] | None = None) -> Path:
    """A package as plugins/vulkan makes it, without its library; returns where that belongs."""
    source = Path(__file__).parents[2] / "plugins" / "vulkan" / PACKAGE
    package = Path(shutil.copytree(source, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__")))
    (package / "built.py").write_text(f"LIBRARY_NAME = {library!r}\nBUILD = {BUILD | (build or {})!r}\n")
    return package / library


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(folder), str(backends.FOLDER.parent)])
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})


def plugin(folder: Path) -> dict[str, Any]:
    """What doctor says of the package."""
    done = run(folder, "-m", "darwin_neg_cpp", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["core"] == "ok" and "cpu" in {device["type"] for device in found["devices"]}
    (entry,) = (entry for entry in found["plugins"] if entry["name"] == "vulkan")
    return dict(entry)


def no_file(library: Path) -> None:
    """Leaves the library out."""


def text(library: Path) -> None:
    library.write_text("no library, but longer than the beginning of one would have to be, to be looked at at all\n")


def empty(library: Path) -> None:
    library.touch()


def half(library: Path) -> None:
    assert OTHER is not None
    library.write_bytes(OTHER.read_bytes()[: OTHER.stat().st_size // 2])


def not_a_backend(library: Path) -> None:
    assert OTHER is not None
    shutil.copy(OTHER, library)


def raises(library: Path) -> None:
    (library.parent / "__init__.py").write_text("raise RuntimeError('of no\\nuse')\n")


def says_nothing(library: Path) -> None:
    (library.parent / "__init__.py").write_text("")


def older(library: Path) -> None:
    (library.parent / "built.py").write_text(
        f"LIBRARY_NAME = {library.name!r}\nBUILD = {BUILD | {'version': '0.0.9'}!r}\n"
    )


def other_patch(library: Path) -> None:
    (library.parent / "built.py").write_text(
        f"LIBRARY_NAME = {library.name!r}\nBUILD = {BUILD | {'patch_key': 'another'}!r}\n"
    )


VERSION = BUILD["version"]
AGAIN = f"pip install --force-reinstall --no-deps darwin-neg-cpp-vulkan=={VERSION}"
FAULTS: list[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (no_file, ("libggml-vulkan.so is missing", AGAIN)),
    (text, ("libggml-vulkan.so", "invalid ELF header")),
    (empty, ("is incomplete", AGAIN)),
    (half, ("is incomplete", AGAIN)),
    (not_a_backend, ("is no backend",)),
    (raises, ("is damaged (RuntimeError: of no use)", AGAIN)),
    (says_nothing, ("is damaged (AttributeError", AGAIN)),
    (older, ("version 0.0.9", f"version {VERSION}", f'pip install "darwin-neg-cpp[vulkan]=={VERSION}"')),
    (other_patch, ("patch another", f"with {BUILD['patch_key']}", "make plugin-vulkan")),
]


@pytest.mark.skipif(sys.platform != "linux", reason="messages are those of Linux's loader")
@pytest.mark.parametrize(("make", "words"), FAULTS, ids=[make.__name__ for make, _ in FAULTS])
def test_a_package_that_is_of_no_use_is_one_line(tmp_path: Path, make: Callable[[Path], None], words: Any) -> None:
    make(write_package(tmp_path))
    done = run(tmp_path, "-c", GENERATE.format(str(write_tiny_llama(tmp_path / "m.gguf"))))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"{PACKAGE} is left out: ") and all(word in done.stderr for word in words), (
        done.stderr
    )
    entry = plugin(tmp_path)
    assert not entry["loaded"] and all(word in entry["reason"] for word in words), entry


def test_nothing_is_said_where_no_package_is(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "darwin_neg_cpp", "doctor", "--json")
    assert done.stderr == ""
    assert not {"vulkan", "cuda12"} & {entry["name"] for entry in json.loads(done.stdout)["plugins"]}


def test_each_package_of_the_extras_says_what_its_library_needs() -> None:
    assert backends.PACKAGES.keys() == backends.NEEDS.keys()
    assert {f"darwin_neg_cpp_{extra}" for extra in backends.PACKAGES} == set(backends.PACKAGES.values())
