"""The source distribution: all that a build needs, nothing else, and the same metadata as the wheel made of it."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

FOLDERS = ("cmake", "convert", "cpp", "patches", "plugins", "python")
FILES = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml")
REQUIRES = "from scikit_build_core.build import get_requires_for_build_wheel as f; print(*f(), sep='\\n')"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent / "unpacked", filter="data")
    (folder,) = (sdist.parent / "unpacked").iterdir()
    return folder


def test_it_holds_what_a_build_needs_and_nothing_else(unpacked: Path) -> None:
    # git knows which files are the project's own: compiled modules and caches lie between them in a checkout
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FOLDERS, *FILES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    wanted = {name for name in listed if name and (ROOT / name).is_file()}
    assert {name.partition("/")[0] for name in wanted} == {*FOLDERS, *FILES}
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert held == wanted | {"PKG-INFO"}
    assert all((unpacked / name).read_bytes() == (ROOT / name).read_bytes() for name in wanted)


@pytest.mark.slow
def test_pip_builds_a_wheel_of_it_with_the_same_metadata(sdist: Path, unpacked: Path, tmp_path: Path) -> None:
    """Everything is configured, as CMake needs all of the sdist for that; one small library is compiled."""
    only = {"build-dir": tmp_path / "build", "build.targets": "vendor-hash", "install.components": "none"}
    settings = [f"--config-settings={key}={value}" for key, value in only.items()]
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(tmp_path)]
    done = subprocess.run([*command, *settings, str(sdist)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name)
        python = {name for name in archive.namelist() if name.endswith((".py", ".pyi", "py.typed"))}
    assert metadata == (unpacked / "PKG-INFO").read_bytes()
    package = (unpacked / "python").rglob("*")
    assert python == {
        path.relative_to(unpacked / "python").as_posix()
        for path in package
        if path.suffix in (".py", ".pyi") or path.name == "py.typed"
    }


def test_pip_reads_the_metadata_that_it_holds(sdist: Path, unpacked: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--no-build-isolation"]
    command += ["--ignore-installed", "--disable-pip-version-check", "--report", "-", str(sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = json.loads(done.stdout)["install"]
    held = email.message_from_bytes((unpacked / "PKG-INFO").read_bytes())
    for field, key in (("Name", "name"), ("Version", "version"), ("License-Expression", "license_expression")):
        assert found["metadata"][key] == held[field]
    for field, key in (("Requires-Dist", "requires_dist"), ("Provides-Extra", "provides_extra")):
        assert found["metadata"][key] == held.get_all(field)


@pytest.mark.skipif(os.name == "nt", reason="on Windows, Visual Studio builds it without ninja")
@pytest.mark.parametrize("present", [(), ("cmake",), ("ninja",), ("cmake", "ninja")])
def test_a_build_fetches_cmake_and_ninja_where_they_are_missing(
    unpacked: Path, tmp_path: Path, present: tuple[str, ...]
) -> None:
    """What pip asks of the backend before it builds, on a machine with these programs and no others."""
    for name, version in (("cmake", '{"version": {"string": "3.31.0"}}'), ("ninja", "1.13.0")):
        if name in present:
            (tmp_path / name).write_text(f"#!/bin/sh\necho '{version}'\n")
            (tmp_path / name).chmod(0o755)
    # the packages of those names, which tests run with, are hidden
    code = "import sys; sys.modules['cmake'] = sys.modules['ninja'] = None; " + REQUIRES
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CMAKE", "PATH"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked,
        env=environment | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    asked = {line.split(">")[0].split("<")[0] for line in done.stdout.split()}
    assert asked & {"cmake", "ninja"} == {"cmake", "ninja"} - set(present)
