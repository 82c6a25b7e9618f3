"""Getting, unpacking and patching llama.cpp's source: complete, checked, repeatable, and errors of one clear line."""

from __future__ import annotations

import email
import ensurepip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pip._vendor import tomli  # tomllib is missing in Python 3.10

from conftest import ROOT

SCRIPT = ROOT / "cmake" / "llama_source.py"


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "cmake"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "cmake" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


apply_patch = load("apply_patch")

PATCH = "What it does.\n\n--- a/src/x.cpp\n+++ b/src/x.cpp\n@@ -2,3 +2,4 @@\n two\n-three\n+THREE\n+more\n four\n"
ORIGINAL = "one\ntwo\nthree\nfour\nfive\n"
PATCHED = "one\ntwo\nTHREE\nmore\nfour\nfive\n"

# pip reads an sdist's metadata through its backend; this one needs nothing from an index
SDIST_BACKEND = """
import os

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    os.mkdir(os.path.join(folder, "pkg-1.0.dist-info"))
    with open(os.path.join(folder, "pkg-1.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: pkg\\nVersion: 1.0\\n")
    return "pkg-1.0.dist-info"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise RuntimeError("only the source is wanted")
"""
IN_TREE = '[build-system]\nrequires = [{}]\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small copy of the project: its scripts, a patch, and a pin that names a tarball made on the fly."""
    root = tmp_path / "project"
    (root / "cmake").mkdir(parents=True)
    (root / "patches").mkdir()
    for script in ("llama_source.py", "apply_patch.py"):
        shutil.copy(ROOT / "cmake" / script, root / "cmake")
    (root / "patches" / "0001-x.patch").write_text(PATCH)
    touched = {
        "src/x.cpp": {k: hashlib.sha256(v.encode()).hexdigest() for k, v in (("before", ORIGINAL), ("after", PATCHED))}
    }
    (root / "patches" / "touched.json").write_text(json.dumps(touched))
    source = tmp_path / "sdist" / "pkg-1.0" / "vendor" / "llama.cpp"
    for name, text in {
        "CMakeLists.txt": "#",
        "src/x.cpp": ORIGINAL,
        "src/llama-model.cpp": "//",
        "docs/big.md": "no",
        ".git": "gitdir: gone",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    for name, text in {
        "PKG-INFO": "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n",
        "pyproject.toml": IN_TREE.format(""),
        "backend.py": SDIST_BACKEND,
    }.items():
        (tmp_path / "sdist" / "pkg-1.0" / name).write_text(text)
    git = tmp_path / "sdist" / "pkg-1.0" / ".git" / "modules" / "vendor" / "llama.cpp" / "HEAD"
    git.parent.mkdir(parents=True)
    git.write_text("ref")
    with tarfile.open(tmp_path / "pkg-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sdist" / "pkg-1.0", "pkg-1.0")
    digest = hashlib.sha256((tmp_path / "pkg-1.0.tar.gz").read_bytes()).hexdigest()
    pin = {
        "package": "pkg",
        "version": "1.0",
        "sha256": digest,
        "subfolder": "vendor/llama.cpp",
        "commit": "abc",
        "llama_version": "1",
        "build_number": 1,
    }
    (root / "cmake" / "llama_pin.json").write_text(json.dumps(pin))
    return root


def run(project: Path, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "DARWIN_NEG_CACHE": str(project.parent / "cache"), **environment}
    command = [sys.executable, str(project / "cmake" / "llama_source.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def tarball(project: Path) -> Path:
    return project.parent / "pkg-1.0.tar.gz"


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_tree_is_unpacked_patched_and_left_alone_the_second_time(project):
    first = run(project, "--tarball", tarball(project))
    assert first.returncode == 0, first.stderr
    tree = Path(first.stdout.strip())
    assert (tree / "src" / "x.cpp").read_text() == PATCHED
    assert not (tree / "docs").exists() and not (tree / ".git").exists() and not (tree / "HEAD").exists()
    before = snapshot(tree)
    tarball(project).unlink()  # nothing may be needed now, neither the file nor a network
    second = run(project, PATH="/nonexistent")
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert snapshot(tree) == before


def test_changed_patch_gives_another_tree(project):
    first = run(project, "--tarball", tarball(project)).stdout
    (project / "patches" / "0001-x.patch").write_text(PATCH.replace("more", "other"))
    second = run(project, "--tarball", tarball(project)).stdout
    assert first != second and "other" in (Path(second.strip()) / "src" / "x.cpp").read_text()


def test_wrong_hash_is_one_line_and_leaves_nothing(project):
    with tarball(project).open("ab") as file:
        file.write(b"x")
    result = run(project, "--tarball", tarball(project))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "SHA-256" in result.stderr and "pkg-1.0.tar.gz" in result.stderr
    assert not list((project.parent / "cache").rglob("x.cpp"))


def test_failing_download_is_one_line_with_the_remedy(project, tmp_path):
    result = run(
        project,
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_RETRIES="0",
        PIP_FIND_LINKS="",
        PIP_EXTRA_INDEX_URL="",
        PIP_CONFIG_FILE=os.devnull,
    )
    assert result.returncode == 1
    assert (
        result.stderr.count("\n") == 1
        and "could not be downloaded" in result.stderr
        and "DARWIN_NEG_LLAMA_TARBALL" in result.stderr
    )


def test_download_goes_through_pip_and_is_kept(project, tmp_path):
    """A folder stands in for PyPI; pip itself is real."""
    result = run(project, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    tree = Path(result.stdout.strip())
    assert (tree / "src" / "x.cpp").read_text() == PATCHED
    (kept,) = (project.parent / "cache" / "downloads").iterdir()
    assert kept.read_bytes() == tarball(project).read_bytes()
    # the tree again from what was kept: nothing can be downloaded now
    shutil.rmtree(tree)
    again = run(project, PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert (again.returncode, again.stdout) == (0, result.stdout), again.stderr
    assert (tree / "src" / "x.cpp").read_text() == PATCHED


# What our build does inside pip's own environment: CMake runs llama_source.py, which runs pip.
BUILD_BACKEND = """
import os, subprocess, sys, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    subprocess.run([sys.executable, {script!r}], check=True)
    with zipfile.ZipFile(os.path.join(folder, "stub-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("stub-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: stub\\nVersion: 1.0\\n")
        wheel.writestr("stub-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("stub-1.0.dist-info/RECORD", "")
    return "stub-1.0-py3-none-any.whl"
"""


def build_requirements() -> list[str]:
    return list(project_file()["build-system"]["requires"])


def project_file() -> dict[str, Any]:
    return tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
def test_isolated_build_downloads_the_source_because_pip_is_declared(project, tmp_path, declared):
    """With what our pyproject.toml requires of pip, and, to show that it is needed, without."""
    stub = tmp_path / "stub"
    stub.mkdir()
    wanted = [entry for entry in build_requirements() if declared and re.match(r"pip\b", entry)]
    (stub / "pyproject.toml").write_text(IN_TREE.format(", ".join(f'"{entry}"' for entry in wanted)))
    (stub / "backend.py").write_text(BUILD_BACKEND.format(script=str(project / "cmake" / "llama_source.py")))
    # the wheel of pip that venv uses, so that no network is needed; Debian keeps it elsewhere
    wheels = next(
        folder
        for folder in (
            Path(ensurepip.__file__).parent / "_bundled",
            Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or "/"),
        )
        if list(folder.glob("pip-*.whl"))
    )
    environment = {
        "DARWIN_NEG_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": f"{wheels} {tmp_path}",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", str(stub), "-w", str(tmp_path / "wheels")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    downloads = [path.name for path in (tmp_path / "cache").glob("downloads/*.tar.gz")]
    if declared:
        assert result.returncode == 0, result.stderr
        assert len(downloads) == 1
    else:
        assert result.returncode != 0 and "No module named pip" in result.stdout + result.stderr
        assert downloads == []


def test_killed_unpack_is_recovered(project):
    cache = project.parent / "cache" / "llama.cpp"
    key = run(project, "--key").stdout.strip()
    stale = cache / f"{key}.tmp-999999999"
    stale.mkdir(parents=True)
    (stale / "half.cpp").write_text("torn")
    result = run(project, "--tarball", tarball(project))
    assert result.returncode == 0 and (Path(result.stdout.strip()) / "src" / "x.cpp").read_text() == PATCHED
    assert not stale.exists()


def test_checkout_is_copied_not_written_and_an_already_patched_one_is_taken_as_it_is(project):
    checkout = project.parent / "checkout"
    shutil.copytree(project.parent / "sdist" / "pkg-1.0" / "vendor" / "llama.cpp", checkout)
    before = snapshot(checkout)
    result = run(project, "--llama-dir", checkout)
    assert result.returncode == 0 and (Path(result.stdout.strip()) / "src" / "x.cpp").read_text() == PATCHED
    assert snapshot(checkout) == before
    again = run(project, "--llama-dir", result.stdout.strip())
    assert again.stdout == result.stdout
    (checkout / "src" / "x.cpp").write_text(ORIGINAL.replace("five", "FIVE"))
    assert "FIVE" in (Path(run(project, "--llama-dir", checkout).stdout.strip()) / "src" / "x.cpp").read_text()
    assert "FIVE" not in Path(result.stdout.strip()).joinpath("src", "x.cpp").read_text()
    wrong = run(project, "--llama-dir", project)
    assert wrong.returncode == 1 and "not a llama.cpp checkout" in wrong.stderr


@pytest.mark.parametrize(
    "name",
    ["CMakeLists.txt", "ggml/src/ggml.c", "include/llama.h", "vendor/json.hpp", "cmake/common.cmake", "src/y.cpp"],
)
def test_any_change_to_what_is_built_from_a_checkout_is_seen(project, name):
    checkout = project.parent / "checkout"
    shutil.copytree(project.parent / "sdist" / "pkg-1.0" / "vendor" / "llama.cpp", checkout)
    first = run(project, "--llama-dir", checkout).stdout
    (checkout / "docs" / "big.md").write_text("not built")
    assert run(project, "--llama-dir", checkout).stdout == first
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("changed")
    tree = Path(run(project, "--llama-dir", checkout).stdout.strip())
    assert f"{tree}\n" != first and (tree / name).read_text() == "changed"


def test_checkout_of_another_commit_that_the_patch_happens_to_fit_is_a_warning(project):
    checkout = project.parent / "checkout"
    shutil.copytree(project.parent / "sdist" / "pkg-1.0" / "vendor" / "llama.cpp", checkout)
    (checkout / "src" / "x.cpp").write_bytes(
        ORIGINAL.replace("\n", "\r\n").encode()
    )  # the same, as git has it on Windows
    assert run(project, "--llama-dir", checkout).stderr == ""
    (checkout / "src" / "x.cpp").write_text("zero\n" + ORIGINAL)
    for _ in range(2):  # also when the tree is there already
        result = run(project, "--llama-dir", checkout)
        assert (
            result.returncode == 0 and (Path(result.stdout.strip()) / "src" / "x.cpp").read_text() == "zero\n" + PATCHED
        )
        assert result.stderr.count("\n") == 1
        assert all(word in result.stderr for word in ("warning", str(checkout), "src/x.cpp", "commit abc"))


def test_misfit_names_patch_file_and_hunk(project):
    checkout = project.parent / "moved"
    shutil.copytree(project.parent / "sdist" / "pkg-1.0" / "vendor" / "llama.cpp", checkout)
    assert run(project, "--check-against", checkout).stdout.strip() == "every hunk fits"
    (checkout / "src" / "x.cpp").write_text(ORIGINAL.replace("three", "drei"))
    report = run(project, "--check-against", checkout)
    assert report.returncode == 1 and "0001-x.patch: src/x.cpp: the hunk at line 2 does not fit" in report.stdout
    result = run(project, "--llama-dir", checkout)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "abc" in result.stderr


def test_lines_may_have_moved_and_may_end_in_crlf(tmp_path):
    for text in (ORIGINAL, "zero\nzero\n" + ORIGINAL, ORIGINAL.replace("\n", "\r\n")):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / "x.cpp").write_bytes(text.encode())
        (tmp_path / "p.patch").write_text(PATCH)
        texts, problems = apply_patch.patched_texts(tmp_path, [tmp_path / "p.patch"])
        assert problems == []
        assert texts["src/x.cpp"] == text.replace("three", "THREE" + ("\r\n" if "\r" in text else "\n") + "more")


# --- the real patches on the real source


@pytest.fixture(scope="module")
def patched_tree() -> Path:
    result = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    return Path(result.stdout.strip())


def touched_files() -> list[str]:
    patches = sorted((ROOT / "patches").glob("*.patch"))
    return sorted({file.path for patch in patches for file in apply_patch.parse(patch.read_text("utf-8"), patch.name)})


def test_touched_files_have_the_recorded_hashes(llama_tree, patched_tree):
    """patches/touched.json lists them; rewrite it with `python scripts/touched.py` when a patch changes."""
    recorded = json.loads((ROOT / "patches" / "touched.json").read_text("utf-8"))
    assert sorted(recorded) == touched_files()
    for name, hashes in recorded.items():
        found = [hashlib.sha256((tree / name).read_bytes()).hexdigest() for tree in (llama_tree, patched_tree)]
        assert found == [hashes["before"], hashes["after"]], name


def test_patch_program_gives_the_same_files(llama_tree, patched_tree, tmp_path):
    for name in touched_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(llama_tree / name, tmp_path / name)
    for patch in sorted((ROOT / "patches").glob("*.patch")):
        # `git apply` reads the same format; the ceiling keeps it from looking for a repository around the folder
        subprocess.run(
            ["git", "apply", str(patch)],
            cwd=tmp_path,
            check=True,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        )
    for name in touched_files():
        assert (tmp_path / name).read_bytes() == (patched_tree / name).read_bytes(), name


@pytest.mark.slow
def test_second_configure_needs_no_network_and_rebuilds_nothing(tmp_path):
    offline = {
        **os.environ,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
    }
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(tmp_path), "-DDARWIN_NEG_BUILD_PYTHON=OFF"]
    # a library, a patched file and a file of ours in libllama
    objects = ["llama.cpp/src/CMakeFiles/llama.dir/llama-arch.cpp.o", neg_object("llama-neg-format")]
    build = ["cmake", "--build", str(tmp_path), "--target", "vendor-hash", *objects]
    assert "src/llama-arch.cpp" in touched_files()
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(build, check=True, capture_output=True)
    built = [(tmp_path / name).stat().st_mtime_ns for name in objects]
    subprocess.run(configure, check=True, capture_output=True, env=offline)
    again = subprocess.run(build, check=True, capture_output=True, text=True, env=offline)
    assert "Building" not in again.stdout and "Linking" not in again.stdout, again.stdout
    assert [(tmp_path / name).stat().st_mtime_ns for name in objects] == built


def neg_object(name: str) -> str:
    """CMake names an object of a file outside the target's folder after its whole path."""
    return f"llama.cpp/src/CMakeFiles/llama.dir{ROOT}/cpp/neg/{name}.cpp.o"


@pytest.mark.slow
def test_cmake_args_reach_llama_cpp_through_pip(tmp_path):
    """Through pip and scikit-build-core, but building one small library only and installing nothing of it."""
    only = {"build-dir": tmp_path / "build", "build.targets": "vendor-hash", "install.components": "none"}
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", str(ROOT), "-w", str(tmp_path)]
        + [f"--config-settings={key}={value}" for key, value in only.items()],
        check=True,
        capture_output=True,
        env={**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=OFF -DDARWIN_NEG_RPC=OFF"},
    )
    cache = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert "GGML_NATIVE:BOOL=OFF" in cache and "GGML_RPC:BOOL=OFF" in cache
    ninja = (tmp_path / "build" / "build.ninja").read_text()
    assert not re.search(r"^build ggml-rpc: phony", ninja, re.MULTILINE)
    flags = [line for line in ninja.splitlines() if line.strip().startswith("FLAGS =")]
    assert flags and not any("-march=native" in line for line in flags)
    (wheel,) = tmp_path.glob("*.whl")
    python = ROOT / "python"
    files = (path for path in (python / "darwin_neg_cpp" / "data").rglob("*") if path.is_file())
    data = {path.relative_to(python).as_posix() for path in files}
    with zipfile.ZipFile(wheel) as archive:
        assert data <= set(archive.namelist()), "style sheets, scripts and the demo model's head are in the wheel"


def test_tools_of_developers_stay_out_of_the_published_metadata(tmp_path):
    code = f"from scikit_build_core.build import prepare_metadata_for_build_wheel as f; print(f({str(tmp_path)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    metadata = email.message_from_bytes((tmp_path / made.stdout.split()[-1] / "METADATA").read_bytes())
    assert metadata.get_all("Provides-Extra") == ["train", "ray", "vulkan", "cuda12"]
    needed = metadata.get_all("Requires-Dist")
    assert needed is not None and "pytest" not in " ".join(needed)
    # the groups hold what the package needs, so that a tree can be tested before it is installed
    assert {entry for entry in needed if "extra ==" not in entry} <= set(project_file()["dependency-groups"]["test"])


def test_patch_stays_small():
    lines = [line for patch in (ROOT / "patches").glob("*.patch") for line in patch.read_text("utf-8").splitlines()]
    assert sum(line.startswith("+") and not line.startswith("+++") for line in lines) < 350
