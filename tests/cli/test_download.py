"""`darwin-neg download` against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oracles import tiny_tokenizer
from oracles.hub_server import COMMIT, Hub

REPO = "some-lab/Tiny"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Two quantizations, one of them with a side-car beside it."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "tiny-Q8_0.neg.gguf"):
        (folder / name).write_bytes(f"the bytes of {name}".encode())
    with Hub(REPO, folder) as running:
        yield running


def download(hub: Hub, tmp_path: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    variables |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "DARWIN_NEG_CACHE": str(tmp_path / "cache")}
    variables |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "darwin_neg_cpp", "download", REPO, *args]
    return subprocess.run(command, env=variables | more, capture_output=True, text=True, check=False, timeout=120)


def test_the_path_alone_goes_to_stdout_and_the_file_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    outs = [download(hub, tmp_path, "--quant", "q4_k_m") for _ in range(2)]
    assert [(out.returncode, out.stderr) for out in outs] == [(0, "")] * 2
    (path,) = {out.stdout for out in outs}
    assert path.count("\n") == 1
    assert Path(path.rstrip("\n")).read_bytes() == b"the bytes of tiny-Q4_K_M.gguf"
    assert len(hub.asked_for("tiny-Q4_K_M.gguf")) == 1 and not hub.asked_for("tiny-Q8_0.gguf")
    # without network it is found where it is
    offline = download(hub, tmp_path, "--quant", "q4_k_m", HF_HUB_OFFLINE="1")
    assert offline.stdout == path


def test_a_side_car_comes_with_its_model(hub: Hub, tmp_path: Path) -> None:
    out = download(hub, tmp_path, "--file", "tiny-Q8_0.gguf", "--revision", COMMIT)
    assert out.returncode == 0 and out.stdout.endswith("/tiny-Q8_0.gguf\n")
    assert "tiny-Q8_0.neg.gguf; use it with --side-car" in out.stderr
    found = json.loads(download(hub, tmp_path, "--file", "tiny-Q8_0.gguf", "--revision", COMMIT, "--json").stdout)
    assert found["model"] == out.stdout.rstrip("\n")
    assert Path(found["side_car"]).read_bytes() == b"the bytes of tiny-Q8_0.neg.gguf"


def test_a_token_comes_from_the_environment(hub: Hub, tmp_path: Path) -> None:
    hub.token = "hf_secret"
    refused = download(hub, tmp_path, "--quant", "q4_k_m")
    assert refused.returncode == 2 and "hf auth login" in refused.stderr
    assert download(hub, tmp_path, "--quant", "q4_k_m", HF_TOKEN="hf_secret").returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "has several GGUF files; choose one with --quant or --file: tiny-Q4_K_M.gguf"),
        (["--quant", "q2_k"], "has no file of quant q2_k"),
        (["--file", "other.gguf"], "has no file other.gguf"),
        (["--quant", "q8_0", "--revision", "nowhere"], "no such revision"),
    ],
)
def test_what_cannot_be_downloaded_is_one_line(hub: Hub, tmp_path: Path, args: list[str], words: str) -> None:
    out = download(hub, tmp_path, *args)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr.startswith(f"darwin-neg: error: {REPO}: ") and words in out.stderr
    assert out.stderr.count("\n") == 1


def test_a_checkpoint_is_converted_to_the_type_that_is_asked_for(tmp_path: Path) -> None:
    folder = tiny_tokenizer.write_checkpoint(tmp_path / "Tiny", tiny_tokenizer.write(tmp_path / "tokenizer"))
    with Hub(REPO, folder) as hub:
        out = download(hub, tmp_path, "--quant", "bf16")
    assert out.returncode == 0, out.stderr
    path = Path(out.stdout.rstrip("\n"))
    assert path.is_relative_to(tmp_path / "cache") and path.read_bytes()[:4] == b"GGUF"
