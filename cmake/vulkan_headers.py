"""Prints a folder of Vulkan headers that are new enough for ggml's Vulkan backend.

    python cmake/vulkan_headers.py

Many Linuxes have older ones than the pinned llama.cpp asks for. Then the headers alone of a newer release are taken
from Debian's package that vulkan_pin.json names, checked against its SHA-256 and unpacked into the cache: nothing is
installed, and the machine's own Vulkan loader is linked with. Standard library and apt-get only.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from llama_source import SourceError, cache_root, make_whole, sha256_file

PIN = json.loads((Path(__file__).resolve().parent / "vulkan_pin.json").read_text("utf-8"))
NEEDED = tuple(PIN["header_version"])
MIRROR = "http://deb.debian.org/debian"  # what it sends is checked against the pin
INSIDE = ("./usr/include/vulkan/", "./usr/include/vk_video/")
REMEDY = (
    f"install Vulkan headers {'.'.join(map(str, NEEDED))} or newer, or give their folder with "
    "-DDARWIN_NEG_VULKAN_HEADERS=/path/to/include"
)


def header_version(include: Path) -> tuple[int, ...]:
    """Version of the headers in a folder; (0, 0, 0) where there are none."""
    path = include / "vulkan" / "vulkan_core.h"
    if not path.is_file():
        return 0, 0, 0
    text = path.read_text("utf-8", errors="replace")
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", text)
    first = re.search(r"#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(\d+, (\d+), (\d+),", text)
    return (int(first[1]), int(first[2]), int(patch[1])) if patch and first else (0, 0, 0)


def installed() -> list[Path]:
    """Folders that may hold the machine's own headers; a Vulkan SDK comes first."""
    folders = [Path(os.environ["VULKAN_SDK"]) / "include"] if os.environ.get("VULKAN_SDK") else []
    return [*folders, Path("/usr/local/include"), Path("/opt/homebrew/include"), Path("/usr/include")]


def download(folder: Path) -> Path:
    """Fetches the package with apt-get, which knows the machine's proxy. Its own lists stay as they are."""
    if shutil.which("apt-get") is None:
        raise SourceError(f"this machine's Vulkan headers are too old or missing; {REMEDY}")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [trusted=yes] {MIRROR} {PIN['suite']} main\n", "utf-8")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Architecture": PIN["architecture"],
        "APT::Architectures": PIN["architecture"],
        "APT::Sandbox::User": "",  # the folder is this user's alone
        "Acquire::Languages": "none",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    for words in (["update"], ["download", f"{PIN['package']}={PIN['version']}"]):
        result = subprocess.run([*apt, *words], capture_output=True, text=True, check=False, cwd=folder)
        if result.returncode != 0:
            detail = (result.stderr.strip() or f"exit code {result.returncode}").splitlines()[-1]
            raise SourceError(f"Vulkan headers could not be downloaded: {detail}; {REMEDY}")
    (package,) = folder.glob("*.deb")
    if (found := sha256_file(package)) != PIN["sha256"]:
        raise SourceError(f"{package.name}: SHA-256 is {found}, expected {PIN['sha256']}; {REMEDY}")
    return package


def archive_member(package: Path, name: str) -> bytes:
    """One member of a .deb, which is an ar archive: a header of 60 bytes before each, and an even size."""
    with package.open("rb") as file:
        file.read(len(b"!<arch>\n"))
        while header := file.read(60):
            size = int(header[48:58])
            content = file.read(size + size % 2)[:size]
            if header[:16].decode("ascii").strip().rstrip("/") == name:
                return content
    raise SourceError(f"{package.name}: has no {name}; {REMEDY}")


def unpack(package: Path, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive_member(package, "data.tar.xz"))) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(INSIDE):
                path = target / member.name.removeprefix("./usr/include/")
                path.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None
                path.write_bytes(source.read())


def prepare() -> Path:
    """Path of the headers. The second call touches no network."""
    for folder in installed():
        if header_version(folder) >= NEEDED:
            return folder
    kept = cache_root() / "vulkan-headers"
    final = kept / PIN["sha256"][:16]
    if final.is_dir():
        return final

    def fill(temp: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=kept) as fetched:
            unpack(download(Path(fetched)), temp)

    return make_whole(final, fill)


def main() -> int:
    try:
        print(prepare().as_posix())
    except (SourceError, OSError, tarfile.TarError) as error:
        print(f"darwin-neg-cpp: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
