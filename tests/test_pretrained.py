"""A repository as a GGUF file in the cache: what is there is not downloaded again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from darwin_neg_cpp.errors import ModelFileError
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg.formats import has_neg
from darwin_neg_cpp.pretrained import choose
from oracles import tiny_tokenizer
from oracles.hub_server import Hub
from test_hub import python

REPO = "some-lab/Tiny-1B-NEG"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("pretrained")
    return tiny_tokenizer.write_checkpoint(base / "Tiny-1B-NEG", tiny_tokenizer.write(base / "tokenizer"), card=True)


def fetched(hub: Hub, base: Path, *arguments: str, **env: str) -> Path:
    code = f"from darwin_neg_cpp.pretrained import fetch; print(fetch({', '.join([repr(REPO), *arguments])})[0])"
    result = python(code, hub.url, base / "hf", DARWIN_NEG_CACHE=str(base / "cache"), **env)
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def requests(hub: Hub) -> int:
    return sum(REPO in path for _, path, _, _ in hub.requests)


def test_a_converted_file_is_found_although_the_download_was_deleted(checkpoint, tmp_path):
    with Hub(REPO, checkpoint) as hub:
        first = fetched(hub, tmp_path, "quant='q8_0'")
        assert first.is_relative_to(tmp_path / "cache") and has_neg(read_header(first))
        shutil.rmtree(tmp_path / "hf")
        before = requests(hub)
        assert fetched(hub, tmp_path, "quant='q8_0'") == first
        assert requests(hub) == before + 1, "more than names and commit was asked for"
        # another type, or the backbone alone, is another file
        plain = fetched(hub, tmp_path, "quant='q8_0'", "side_car=False")
        assert plain != first and not has_neg(read_header(plain))
        assert fetched(hub, tmp_path, "quant='bf16'") not in (first, plain)


def test_a_checkpoint_without_a_head_is_converted_once(checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "headless"))
    (folder / "neg_modules.safetensors").unlink()
    with Hub(REPO, folder) as hub:
        first = fetched(hub, tmp_path, "quant='q8_0'")
        assert not has_neg(read_header(first))
        shutil.rmtree(tmp_path / "hf")
        before = requests(hub)
        assert fetched(hub, tmp_path, "quant='q8_0'", "side_car=False") == first
        assert fetched(hub, tmp_path, "quant='q8_0'") == first
        assert requests(hub) == before + 2


NAMES = ["a-Q4_K_M.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf", "a.neg.gguf", "mmproj-a.gguf"]


def test_a_file_is_chosen_by_quant_or_name():
    assert choose(REPO, NAMES, quant="q4_k_m", file=None) == "a-Q4_K_M.gguf"
    assert choose(REPO, NAMES, quant="q8_0", file=None) == "a-Q8_0-00001-of-00002.gguf"
    assert choose(REPO, NAMES, quant=None, file="a.neg.gguf") == "a.neg.gguf"
    for quant, file, message in (
        (None, None, "several GGUF files; choose one with quant= or file="),
        ("k_m", None, "no file of quant k_m"),
        (None, "b.gguf", "has no file b.gguf"),
    ):
        with pytest.raises(ModelFileError, match=message):
            choose(REPO, NAMES, quant=quant, file=file)
    with pytest.raises(ModelFileError, match="neither a GGUF file nor a checkpoint"):
        choose(REPO, ["README.md"], quant=None, file=None)
