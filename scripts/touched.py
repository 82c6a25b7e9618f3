"""Writes patches/touched.json: SHA-256 of every file that the patches touch, before and after."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "cmake"))
from apply_patch import parse  # noqa: E402


def tree(*options: str) -> Path:
    command = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), *options]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def main() -> None:
    before, after = tree("--pristine", "--with-tests"), tree()
    names = {
        file.path
        for patch in (ROOT / "patches").glob("*.patch")
        for file in parse(patch.read_text("utf-8"), patch.name)
    }
    hashes = {
        name: {
            label: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for label, folder in (("before", before), ("after", after))
        }
        for name in sorted(names)
    }
    (ROOT / "patches" / "touched.json").write_text(json.dumps(hashes, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
