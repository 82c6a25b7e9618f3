"""Questions about images: the package's server against llama.cpp's own, unpatched, with the same files."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import http_server
from conftest import TinyQwen
from darwin_neg_cpp.cli.main import main
from oracles import stock

HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
SIDE = 64
Color = Callable[[int, int], tuple[int, int, int]]
PICTURES: dict[str, Color] = {
    "slope": lambda x, y: (4 * x, 4 * y, 128),
    "grid": lambda x, y: (255 * (x // 8 % 2), 255 * (y // 8 % 2), 0),
}


def png(color: Color) -> str:
    """A picture as the data of an address."""
    rows = b"".join(b"\0" + bytes(c for x in range(SIDE) for c in color(x, y)) for y in range(SIDE))

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = part(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def projector(tiny_qwen: TinyQwen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("vision")
    checkpoint = Path(
        shutil.copytree(tiny_qwen.checkpoint, base / "checkpoint", copy_function=lambda a, b: Path(b).symlink_to(a))
    )
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(HALVES), "utf-8")
    assert main(["convert", str(checkpoint), "--mmproj", str(base / "mmproj.gguf")]) == 0
    return base / "mmproj.gguf"


def answers(model: Path, projector: Path) -> dict[str, list[dict[str, Any]]]:
    """Per picture, the tokens of the answer about it with their log-probabilities."""
    found = {}
    with http_server.Server("-m", model, "--mmproj", projector, "-c", 1024, "-np", 1, *http_server.SMALL) as server:
        for name, color in PICTURES.items():
            picture = {"type": "image_url", "image_url": {"url": png(color)}}
            messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
            options = {"max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 1, "cache_prompt": False}
            answer = server.ok("/v1/chat/completions", {"messages": messages, **options})
            found[name] = answer["choices"][0]["logprobs"]["content"]
    return found


@pytest.mark.slow
def test_an_answer_about_an_image_is_that_of_llama_cpps_own_server(
    tiny_qwen: TinyQwen, projector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = answers(tiny_qwen.base, projector)
    monkeypatch.setenv("DARWIN_NEG_SERVER_BIN", stock.server())
    theirs = answers(tiny_qwen.base, projector)
    for name in PICTURES:
        assert [token["id"] for token in ours[name]] == [token["id"] for token in theirs[name]]
        measured = [token["logprob"] for token in theirs[name]]
        assert [token["logprob"] for token in ours[name]] == pytest.approx(measured, abs=1e-3)
        assert len(measured) == 12
    # the images are seen: they make a difference far above the tolerance
    first, second = (max(token["logprob"] for token in ours[name][:1]) for name in PICTURES)
    assert abs(first - second) > 5e-3
