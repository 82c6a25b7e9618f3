"""Getting, unpacking and patching the llama.cpp source: complete, checked, repeatable, and one clear line when it cannot be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small copy of the project: its scripts, a patch, and a pin that names a tarball made on the fly."""
    root = tmp_path / "project"
    (root / "cmake").mkdir(parents=True)
    (root / "patches").mkdir()
    for script in ("llama_source.py", "apply_patch.py"):
        shutil.copy(ROOT / "cmake" / script, root / "cmake")
    (root / "patches" / "0001-x.patch").write_text(PATCH)
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
    """A package index on disk stands in for PyPI; pip itself is real."""
    result = run(project, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path), PIP_NO_BUILD_ISOLATION="1")
    # pip reads the sdist's metadata, which this one has not: the error must still be ours and name pip's last word
    assert result.returncode == 1 and result.stderr.startswith("darwin-neg-cpp: ")


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
    wrong = run(project, "--llama-dir", project)
    assert wrong.returncode == 1 and "not a llama.cpp checkout" in wrong.stderr


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
    """patches/touched.json lists SHA-256 before and after; rewrite it with `python scripts/touched.py` when a patch changes."""
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
    subprocess.run(configure, check=True, capture_output=True)
    subprocess.run(
        ["cmake", "--build", str(tmp_path), "--target", "vendor-hash", "ggml-base"], check=True, capture_output=True
    )
    subprocess.run(configure, check=True, capture_output=True, env=offline)
    again = subprocess.run(
        ["cmake", "--build", str(tmp_path), "--target", "vendor-hash", "ggml-base"],
        check=True,
        capture_output=True,
        text=True,
        env=offline,
    )
    assert "Building" not in again.stdout and "Linking" not in again.stdout, again.stdout


def test_patch_stays_small():
    lines = [line for patch in (ROOT / "patches").glob("*.patch") for line in patch.read_text("utf-8").splitlines()]
    assert sum(line.startswith("+") and not line.startswith("+++") for line in lines) < 150
