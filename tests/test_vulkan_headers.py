"""Vulkan headers for a build: the machine's own where they are new enough, else pinned ones, checked and unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT

CORE = """#define VK_HEADER_VERSION {}
#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, {}, {}, VK_HEADER_VERSION)
"""
# stands in for apt-get: `download` copies the package that the test has made
APT_GET = """#!{python}
import shutil, sys
if {fails!r} in sys.argv:
    sys.exit("E: Unable to locate package libvulkan-dev")
if sys.argv[-2] == "download":
    shutil.copy({package!r}, "libvulkan-dev_1.deb")
"""


def write_headers(include: Path, version: tuple[int, int, int]) -> Path:
    major, minor, patch = version
    (include / "vulkan").mkdir(parents=True)
    (include / "vulkan" / "vulkan_core.h").write_text(CORE.format(patch, major, minor))
    return include


def write_package(path: Path) -> str:
    """Writes a .deb with headers of version 9.4.400, and returns its SHA-256."""
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w:xz") as archive:
        for name, text in {
            "./usr/include/vulkan/vulkan_core.h": CORE.format(400, 9, 4),
            "./usr/include/vk_video/codecs.h": "// video",
            "./usr/lib/libvulkan.so": "not a header",
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": inside.getvalue()}
    content = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        content += header + data + b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


class Machine:
    """A copy of the script, on a machine with the SDK and the apt-get that a test gives it. No machine has the version
    that it asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.package = folder / "made.deb"
        sha256 = write_package(self.package)
        (folder / "bin").mkdir()
        shutil.copytree(ROOT / "cmake", folder / "root" / "cmake")
        (folder / "root" / "patches").mkdir()
        self.pin(sha256=sha256, header_version=[9, 4, 390])

    def pin(self, **values: Any) -> None:
        path = self.folder / "root" / "cmake" / "vulkan_pin.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def apt_get(self, *, fails: str = "never") -> None:
        program = self.folder / "bin" / "apt-get"
        program.write_text(APT_GET.format(python=sys.executable, package=str(self.package), fails=fails))
        program.chmod(0o755)

    def run(self, sdk: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PATH": str(self.folder / "bin"), "DARWIN_NEG_CACHE": str(self.cache)}
        env["VULKAN_SDK"] = str(sdk or self.folder / "no-sdk")
        script = self.folder / "root" / "cmake" / "vulkan_headers.py"
        return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=env)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_new_headers_of_the_machine_are_used(machine: Machine, tmp_path: Path) -> None:
    write_headers(tmp_path / "sdk" / "include", (9, 4, 390))
    done = machine.run(tmp_path / "sdk")
    assert (done.stdout.strip(), done.returncode) == (str(tmp_path / "sdk" / "include"), 0)
    assert not machine.cache.exists()


@pytest.mark.parametrize("version", [(8, 9, 999), (9, 4, 389)])
def test_old_ones_are_not_and_pinned_ones_are_fetched_once(
    machine: Machine, tmp_path: Path, version: tuple[int, int, int]
) -> None:
    write_headers(tmp_path / "sdk" / "include", version)
    machine.apt_get()
    done = machine.run(tmp_path / "sdk")
    assert done.returncode == 0, done.stderr
    include = Path(done.stdout.strip())
    assert "400" in (include / "vulkan" / "vulkan_core.h").read_text()
    assert sorted(path.name for path in include.iterdir()) == ["vk_video", "vulkan"]
    (tmp_path / "bin" / "apt-get").unlink()
    assert machine.run(tmp_path / "sdk").stdout == done.stdout
    assert [path.name for path in include.parent.iterdir()] == [include.name]


@pytest.mark.parametrize("fault", ["no apt-get", "update", "download", "wrong hash"])
def test_headers_that_cannot_be_had_are_one_line_with_the_remedy_and_leave_nothing(
    machine: Machine, fault: str
) -> None:
    if fault != "no apt-get":
        machine.apt_get(fails=fault)
    if fault == "wrong hash":
        machine.pin(sha256="0" * 64)
    done = machine.run()
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "DARWIN_NEG_VULKAN_HEADERS" in line and "9.4.390" in line
    assert {"no apt-get": "too old or missing", "wrong hash": "SHA-256"}.get(fault, "Unable to locate") in line
    assert not list(machine.cache.glob("vulkan-headers/*"))
