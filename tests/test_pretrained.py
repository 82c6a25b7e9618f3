"""Models from a repository: which file is taken, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import DarwinNegError, ModelFileError, load_darwin_neg, pretrained


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (["a.gguf", "README.md"], {}, "a.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf", "x.mmproj-Q8_0.gguf"], {"quant": "q4_k_m"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K"}, "m-Q4_K.gguf"),
        (["a.gguf", "b.gguf"], {"file": "b.gguf"}, "b.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], {}, "m-00001-of-00002.gguf"),
        (["m.gguf", "m.neg.gguf"], {}, "m.gguf"),
    ],
)
def test_the_model_file_of_a_repository_is_found(names: list[str], options: dict[str, str], found: str) -> None:
    assert pretrained.choose("a/b", names, **{"quant": None, "file": None, **options}) == found


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["model.safetensors", "neg_modules.safetensors"], {}, "neither a GGUF file nor a checkpoint"),
        (["a.gguf", "b.gguf"], {}, "has several GGUF files; choose one with quant= or file=: a.gguf, b.gguf"),
        (["a-Q4_0.gguf"], {"quant": "Q8_0"}, "has no file of quant Q8_0"),
        (["a.gguf"], {"file": "b.gguf"}, "has no file b.gguf; it has a.gguf"),
    ],
)
def test_a_repository_without_the_file_says_what_it_has(
    names: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        pretrained.choose("a/b", names, **{"quant": None, "file": None, **options})


def test_from_pretrained_takes_the_model_and_the_side_car_beside_it(
    fake: type[fake_core.Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    def download(repo: str, name: str, **_: Any) -> str:
        (tmp_path / name).write_bytes(b"GGUF")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["m.gguf", "m.neg.gguf"])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with load_darwin_neg("some/repo", hf_token="secret", n_ctx=64):
        assert fake_core.Engine.last.options["neg_path"] == str(tmp_path / "m.neg.gguf")
        assert fake_core.Engine.last.options["n_ctx"] == 64


def test_a_repository_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class TransportError(Exception):
        """Stands for the HTTP library's own class, which is no OSError."""

    def fail(*_: Any, **__: Any) -> None:
        raise TransportError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DarwinNegError, match="some/repo: cannot be downloaded: no route to host; check"):
        load_darwin_neg("some/repo")
