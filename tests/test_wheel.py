"""The wheel for every CPU, installed where no compiler is. `make test-wheel` builds it, with three kinds of CPU."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from conftest import ROOT, TinyQwen

VARIANTS = ["haswell", "skylakex", "sse42"]  # WHEEL_VARIANTS of `make test-wheel`
LARGEST = 15 * 10**6
# libraries that every Linux has; the wheel's tag promises it
EVERYWHERE = re.compile(r"lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux-x86-64\.so\.2")
CLAIM = "The capital of France is"


@pytest.fixture(scope="module")
def wheel() -> Path:
    found = list((ROOT / "build" / "test-wheel").glob("darwin_neg_cpp-*.whl"))
    assert len(found) == 1, "build it with `make test-wheel`"
    return found[0]


class Installed:
    """A virtual environment with the wheel in it, and nothing else on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.env = {**os.environ, "PATH": str(folder / "bin"), "PYTHONPATH": "", "CC": "/nowhere", "CXX": "/nowhere"}

    def run(self, *arguments: object, cpu: str = "") -> str:
        """`darwin-neg ARGUMENTS`. cpu: a CPU that QEMU makes believe that this machine is."""
        command = [self.python, "-m", "darwin_neg_cpp", *arguments]
        if cpu:
            command[:0] = [shutil.which("qemu-x86_64") or "qemu-x86_64 is missing: make emulator", "-cpu", cpu]
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, check=False, env=self.env, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def variant(self, cpu: str = "") -> str:
        """The CPU's plug-in that is loaded, after a look at what is said of the others."""
        found = json.loads(self.run("doctor", "--json", cpu=cpu))
        assert found["core"] == "ok"
        plugins = {plugin["name"]: plugin for plugin in found["plugins"]}
        assert plugins.pop("rpc") == {"name": "rpc", "file": ANY, "loaded": True, "reason": ""}
        assert sorted(plugins) == [f"cpu-{name}" for name in VARIANTS]
        (name,) = [name for name, plugin in plugins.items() if plugin["loaded"]]
        assert all(plugin["reason"] for other, plugin in plugins.items() if other != name)
        return str(name.removeprefix("cpu-"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    there = Installed(folder)
    install = [there.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    subprocess.run([*install, str(wheel)], check=True, env=there.env)
    return there


def dynamic_section(path: Path) -> str:
    return subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout


def test_it_holds_what_a_user_needs_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size <= LARGEST
    assert re.fullmatch(r"darwin_neg_cpp-[0-9.]+-cp3\d+-cp3\d+-manylinux_2_\d+_x86_64\.whl", wheel.name), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        archive.extractall(tmp_path)
    (info,) = tmp_path.glob("*.dist-info")
    package = {
        f"darwin_neg_cpp/{path.relative_to(ROOT / 'python' / 'darwin_neg_cpp').as_posix()}"
        for path in (ROOT / "python" / "darwin_neg_cpp").rglob("*")
        if path.is_file() and path.suffix not in (".so", ".pyc") and ".so." not in path.name
    }
    binaries = [name for name in names if ".so" in Path(name).name]
    others = {name for name in names if name not in binaries and not name.startswith(info.name)}
    assert others == package
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    metadata = email.message_from_bytes((info / "METADATA").read_bytes())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert not any("pytest" in entry or "ruff" in entry for entry in metadata.get_all("Requires-Dist", []))
    plugins = [name for name in binaries if name.startswith("darwin_neg_cpp/libggml-")]
    expected = [*(f"cpu-{name}" for name in VARIANTS), "rpc"]
    assert sorted(plugins) == [f"darwin_neg_cpp/libggml-{name}.so" for name in expected]


def test_every_library_finds_the_others_beside_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    libraries = [path for path in tmp_path.rglob("*") if ".so" in path.name]
    inside = {path.name for path in libraries}
    assert len(libraries) >= 10
    for path in libraries:
        text = dynamic_section(path)
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
        assert {name for name in needed if not EVERYWHERE.fullmatch(name)} <= inside, path.name
        for folder in ":".join(re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", text)).split(":"):
            assert folder in ("", "$ORIGIN", "$ORIGIN/../darwin_neg_cpp.libs"), path.name
            assert not folder or (path.parent / folder.replace("$ORIGIN", ".")).is_dir()


def test_it_runs_where_no_compiler_is(installed: Installed, tiny_qwen: TinyQwen, tmp_path: Path) -> None:
    assert shutil.which("cc", path=installed.env["PATH"]) is None
    assert installed.variant() in VARIANTS
    installed.run("convert", tiny_qwen.checkpoint, "--outtype", "f32", "-o", tmp_path / "converted.gguf")
    command = [sys.executable, "-m", "darwin_neg_cpp", "convert", str(tiny_qwen.checkpoint), "--outtype", "f32"]
    subprocess.run([*command, "-o", str(tmp_path / "here.gguf")], check=True, capture_output=True)
    assert (tmp_path / "converted.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()
    answer = generate(installed, tmp_path / "converted.gguf")
    assert answer == generate(installed, tiny_qwen.model) and len(answer["tokens"]) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "variant"),
    # QEMU's translator knows no AVX-512: for Skylake-Server it offers what Haswell has
    [("Nehalem", "sse42"), ("Haswell", "haswell"), ("Skylake-Server", "haswell")],
)
def test_every_cpu_gets_its_kernels_and_says_the_same(
    installed: Installed, tiny_qwen: TinyQwen, cpu: str, variant: str
) -> None:
    assert installed.variant(cpu) == variant
    assert generate(installed, tiny_qwen.model, cpu=cpu) == generate(installed, tiny_qwen.model)


def generate(installed: Installed, model: Path, cpu: str = "") -> dict[str, Any]:
    """Tokens and text of a greedy answer; entropies differ in their last digits from CPU to CPU."""
    options = ["--model", model, "--temperature", "0", "--max-tokens", "6", "-t", "1", "--json"]
    (choice,) = json.loads(installed.run("generate", *options, CLAIM, cpu=cpu))["choices"]
    return {"tokens": choice["token_ids"], "text": choice["text"]}


def test_it_starts_quickly_and_loads_no_library_of_a_gpu(installed: Installed) -> None:
    code = (
        "import time; t = time.perf_counter(); import darwin_neg_cpp; print(time.perf_counter() - t); "
        "from darwin_neg_cpp import _core; print(open('/proc/self/maps').read())"
    )
    run = subprocess.run([installed.python, "-c", code], capture_output=True, text=True, check=True, env=installed.env)
    maps = run.stdout.partition("\n")[2]
    assert "libdarwin-neg-ggml-base" in maps
    assert not re.search(r"libcuda|libvulkan|libnvidia|libOpenCL", maps)
    loaded = set(re.findall(r"libggml-cpu-(\w+)\.so", maps))
    assert loaded == {installed.variant()}
