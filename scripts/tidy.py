"""Runs clang-tidy over the C++ sources, and remembers in the cache folder which of them it has found clean.

A file is looked at again when it, a header of ours that it reads, llama.cpp's patched source, how it is compiled, the
configuration or clang-tidy has changed. `python scripts/tidy.py BUILD` with the folder of a configured build.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))

from darwin_neg_cpp.files.cache_folder import cache_root  # noqa: E402

SOURCES = sorted(
    path for room in ("bindings", "engine", "neg", "rpc", "server") for path in (ROOT / "cpp" / room).glob("*.cpp")
)

HEADERS: dict[str, list[Path]] = {}
for header in sorted((ROOT / "cpp").glob("*/*.h")):
    HEADERS.setdefault(header.name, []).append(header)


def common_key() -> bytes:
    """Of what the findings in every file depend on."""
    digest = hashlib.sha256(subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout)
    # the patch lets llama.cpp's headers read these
    inside = [path for room in ("neg", "rpc", "server") for path in (ROOT / "cpp" / room).glob("*.h")]
    settings = [ROOT / ".clang-tidy", ROOT / "cmake" / "llama_pin.json"]
    for path in sorted([*(ROOT / "patches").iterdir(), *inside, *settings]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


def commands(build: Path) -> dict[Path, str]:
    """How each file is compiled, without the folders of this checkout."""
    entries = json.loads((build / "compile_commands.json").read_text("utf-8"))
    return {Path(entry["file"]): entry["command"].replace(str(ROOT), "") for entry in entries}


def included(path: Path, found: dict[Path, bytes]) -> None:
    """Adds the content of a file and of every header of ours that it reads, itself or through others, to `found`."""
    found[path] = path.read_bytes()
    for name in re.findall(rb'^#include "([^"]+)"', found[path], re.MULTILINE):
        for header in HEADERS.get(name.decode().rsplit("/", 1)[-1], []):
            if header not in found:
                included(header, found)


def key(path: Path, common: bytes, command: str) -> str:
    digest = hashlib.sha256(common + command.encode())
    found: dict[Path, bytes] = {}
    included(path, found)
    for header in sorted(found):
        digest.update(header.relative_to(ROOT).as_posix().encode() + b"\0" + found[header] + b"\0")
    return digest.hexdigest()


def findings(path: Path, build: Path) -> str:
    """What clang-tidy says about a file; empty if nothing."""
    command = ["clang-tidy", "-p", str(build), "--quiet", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else run.stdout + run.stderr


def main() -> int:
    build = Path(sys.argv[1])
    folder, common, how = cache_root() / "tidy", common_key(), commands(build)
    folder.mkdir(parents=True, exist_ok=True)
    marks = {path: folder / key(path, common, how[path]) for path in SOURCES}
    new = [path for path in SOURCES if not marks[path].exists()]
    failed = False
    with ThreadPoolExecutor(int(os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", os.cpu_count() or 1))) as pool:
        for path, text in zip(new, pool.map(lambda path: findings(path, build), new), strict=True):
            if text:
                failed = True
                print(text)
            else:
                marks[path].touch()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
