"""Runs clang-tidy over the C++ sources, and remembers in the cache folder which of them it has found clean.

A file is looked at again when it, any header of ours, llama.cpp's patched source, the configuration or clang-tidy
has changed. `python scripts/tidy.py BUILD` with the folder of a configured build.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))

from darwin_neg_cpp.files.cache_folder import cache_root  # noqa: E402

SOURCES = sorted(
    path for room in ("bindings", "engine", "neg", "server") for path in (ROOT / "cpp" / room).glob("*.cpp")
)


def common_key(build: Path) -> bytes:
    """Of what the findings in every file depend on."""
    digest = hashlib.sha256(subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout)
    for path in sorted([*(ROOT / "cpp").glob("**/*.h"), *(ROOT / "patches").iterdir(), ROOT / ".clang-tidy"]):
        digest.update(path.name.encode() + path.read_bytes())
    digest.update((ROOT / "cmake" / "llama_pin.json").read_bytes())
    commands = (build / "compile_commands.json").read_bytes()  # with the folders of this checkout
    digest.update(commands.replace(os.fsencode(ROOT), b""))
    return digest.digest()


def findings(path: Path, build: Path) -> str:
    """What clang-tidy says about a file; empty if nothing."""
    command = ["clang-tidy", "-p", str(build), "--quiet", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else run.stdout + run.stderr


def main() -> int:
    build = Path(sys.argv[1])
    folder, common = cache_root() / "tidy", common_key(build)
    folder.mkdir(parents=True, exist_ok=True)
    marks = {path: folder / hashlib.sha256(common + path.read_bytes()).hexdigest() for path in SOURCES}
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
