"""The packages in plugins/: one version with the base, and a build that gives one library and the name of its build."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from pip._vendor import tomli  # tomllib is missing in Python 3.10

from conftest import ROOT
from darwin_neg_cpp import _core
from darwin_neg_cpp.engine import backends

PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


def project(folder: Path) -> dict[str, Any]:
    return tomli.loads((folder / "pyproject.toml").read_text("utf-8"))


def test_every_extra_for_gpus_has_its_package() -> None:
    assert {folder.name for folder in PLUGINS} == set(backends.PACKAGES)
    for folder in PLUGINS:
        settings = project(folder)
        package = backends.PACKAGES[folder.name]
        assert settings["project"]["name"] == package.replace("_", "-")
        assert settings["tool"]["scikit-build"]["wheel"]["packages"] == [package]
        assert (folder / package / "__init__.py").is_file()


def test_base_and_packages_have_one_version(tmp_path: Path) -> None:
    version = re.search(r"project\(darwin_neg_cpp VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text("utf-8"))
    assert version is not None
    extras = project(ROOT)["project"]["optional-dependencies"]
    for folder in PLUGINS:
        name = backends.PACKAGES[folder.name].replace("_", "-")
        assert extras[folder.name] == [f"{name}=={version[1]}"], "raise it with the version in CMakeLists.txt"
        out = tmp_path / folder.name
        out.mkdir()
        code = f"from scikit_build_core.build import prepare_metadata_for_build_wheel as f; f({str(out)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
        (made,) = out.iterdir()
        assert made.name == f"{backends.PACKAGES[folder.name]}-{version[1]}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of Vulkan, with the smallest of ggml's backends (RPC) in the place of Vulkan's."""
    folder = tmp_path_factory.mktemp("plugin") / "plugins" / "vulkan"
    shutil.copytree(ROOT / "plugins" / "vulkan", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in {
        "CMakeLists.txt": {"GGML_VULKAN": "GGML_RPC", "ggml-vulkan": "ggml-rpc", "../": f"{ROOT / 'plugins'}/"},
        "pyproject.toml": {'"ggml-vulkan"': '"ggml-rpc"', "../../CMakeLists.txt": f"{ROOT}/CMakeLists.txt"},
    }.items():
        text = (folder / name).read_text("utf-8")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (folder / name).write_text(text)
    out = folder.parents[1]
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w", str(out), str(folder)]
    # a compiler cache, where there is one, serves the next run in another folder, too
    environment = {**os.environ, "CCACHE_BASEDIR": str(out), "CCACHE_NOHASHDIR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.mark.slow
def test_a_package_holds_one_library_and_what_it_was_built_from(wheel: Path) -> None:
    assert re.fullmatch(r"darwin_neg_cpp_vulkan-[0-9.]+-py3-none-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        built: dict[str, Any] = {}
        exec(archive.read("darwin_neg_cpp_vulkan/built.py"), built)
    library = built["LIBRARY_NAME"]
    licences = ("LICENSE", "LICENSE.llama.cpp")
    assert names == {f"darwin_neg_cpp_vulkan/{name}" for name in ("__init__.py", "built.py", library, *licences)}
    ours = _core.build_info()
    assert built["BUILD"] == {key: ours[key] for key in ("version", "patch_key", "pin_sha256")}


@pytest.mark.slow
def test_a_package_that_is_built_from_this_tree_is_loaded(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(backends.FOLDER.parent)])}
    command = [sys.executable, "-m", "darwin_neg_cpp", "doctor"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    (entry,) = (entry for entry in json.loads(done.stdout)["plugins"] if entry["name"] == "vulkan")
    assert entry["loaded"] and Path(entry["file"]).parent == tmp_path / "darwin_neg_cpp_vulkan"
    # RPC has no device until it is told of a server
    assert entry["reason"].startswith("finds no device")
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert re.search(r"^plug-in +vulkan: loaded, finds no device", shown, re.MULTILINE)
