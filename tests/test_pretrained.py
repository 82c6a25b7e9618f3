"""Models from a repository: which file is taken, the error without one, and that nothing is downloaded twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fake_core
from darwin_neg_cpp import DarwinNegError, ModelFileError, load_darwin_neg, pretrained
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg.formats import has_neg
from hub_child import python
from oracles import tiny_tokenizer
from oracles.hub_server import COMMIT, Hub

REPO = "some-lab/Tiny-1B-NEG"


@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (["a.gguf", "README.md"], {}, "a.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf", "x.mmproj-Q8_0.gguf"], {"quant": "q4_k_m"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K"}, "m-Q4_K.gguf"),
        (["a.gguf", "b.gguf"], {"file": "b.gguf"}, "b.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], {}, "m-00001-of-00002.gguf"),
        (["m.gguf", "m.neg.gguf"], {}, "m.gguf"),
        # what is not a model
        (["m-Q4_K_M.gguf", "m-imatrix.gguf"], {}, "m-Q4_K_M.gguf"),
        (["m.Q4_K_M.gguf", "m.imatrix.gguf", "imatrix_unsloth.gguf", "MMPROJ-F16.GGUF"], {}, "m.Q4_K_M.gguf"),
        (["m-Q8_0.gguf", "m-Q8_0-imatrix.gguf"], {"quant": "q8_0"}, "m-Q8_0.gguf"),
        (["m-imatrix-Q4_K_M.gguf"], {}, "m-imatrix-Q4_K_M.gguf"),
        (["m-Q4_K_M-imat.gguf"], {}, "m-Q4_K_M-imat.gguf"),
        # the plain name before others of the same type
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], {"quant": "Q4_K_XL"}, "m-Q4_K_XL.gguf"),
        (["m-UD-Q4_K_XL.gguf", "m-UD-Q2_K_XL.gguf"], {"quant": "q4_k_xl"}, "m-UD-Q4_K_XL.gguf"),
        (["m-Q4_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], {"quant": "UD-Q4_K_XL"}, "m-UD-Q4_K_XL.gguf"),
        (["m.Q4_K_M.gguf", "m.i1-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "m.Q4_K_M.gguf"),
        (["m.Q4_K_M.gguf", "m.i1-Q4_K_M.gguf"], {"quant": "i1-q4_k_m"}, "m.i1-Q4_K_M.gguf"),
        (["m-MTP-Q4_K_M.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "m-Q4_K_M.gguf"),
        (["MTP/m-Q4_K_M.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-MTP-Q4_K_M.gguf"], {}, "m-Q4_K_M.gguf"),
        (["m-Q4_K_M-uncensored.gguf", "m-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "m-Q4_K_M.gguf"),
        (["Q8_0/m-Q8_0.gguf", "m-Q8_0.gguf"], {"quant": "Q8_0"}, "m-Q8_0.gguf"),
        (["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf", "m-Q8_0.gguf"], {}, "m-Q8_0.gguf"),
        (["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf"], {"quant": "bf16"}, "BF16/m-00001-of-00002.gguf"),
        (["m-bf16.gguf", "m-f16.gguf"], {"quant": "F16"}, "m-f16.gguf"),
        # as users type them
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf"], {"quant": "*q4*"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf"], {"quant": "q4-k-m"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf"], {"quant": "Q6_?"}, "m-Q6_K.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf", "mmproj-q6.gguf"], {"file": "*q6*"}, "m-Q6_K.gguf"),
        (["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], {"file": "*Q4_K_M.gguf"}, "m-Q4_K_M.gguf"),
        (["m-Q4_K_M.gguf", "m-Q6_K.gguf"], {"file": "M-q6_k.GGUF"}, "m-Q6_K.gguf"),
        (["x/m-Q6_K.gguf", "m-Q4_0.gguf"], {"file": "m-Q6_K.gguf"}, "x/m-Q6_K.gguf"),
        (["m-imatrix.gguf", "m-Q4_0.gguf"], {"file": "m-imatrix.gguf"}, "m-imatrix.gguf"),
        (
            ["x/m-00001-of-00002.gguf", "x/m-00002-of-00002.gguf"],
            {"file": "m-00002-of-00002.gguf"},
            "x/m-00001-of-00002.gguf",
        ),
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
        (["m-imatrix.gguf", "mmproj.gguf"], {}, "neither a GGUF file nor a checkpoint"),
        (["m-Q4_0.gguf", "m-Q4_1.gguf", "m-Q8_0.gguf"], {"quant": "q4_*"}, "several .*: m-Q4_0.gguf, m-Q4_1.gguf$"),
        (["m-Q8_0.gguf", "m-UD-Q4_K_XL.gguf"], {}, "several .*: m-Q8_0.gguf, m-UD-Q4_K_XL.gguf$"),
        (["m.gguf", "m-v2.gguf"], {}, "several"),
        (["m-v1-Q4_K_M.gguf", "m-v1.5-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "several"),
        (["m-7b-Q4_K_M.gguf", "m-7b-v0.2-Q4_K_M.gguf"], {"quant": "Q4_K_M"}, "several"),
        (
            ["m.Q4_K_M.gguf.part1of2", "m.Q4_K_M.gguf.part2of2"],
            {"quant": "Q4_K_M"},
            r"in pieces \(m.Q4_K_M.gguf.part1of2, ",
        ),
        (["m-Q4_0.gguf"], {"file": "*q8*"}, r"has no file \*q8\*; it has m-Q4_0.gguf"),
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

    siblings = [SimpleNamespace(rfilename=name) for name in ("m.gguf", "m.neg.gguf")]
    answer = SimpleNamespace(sha=COMMIT, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: answer)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with load_darwin_neg("some/repo", hf_token="secret", n_ctx=64):
        assert fake_core.Engine.last.options["neg_path"] == str(tmp_path / "m.neg.gguf")
        assert fake_core.Engine.last.options["n_ctx"] == 64


def test_a_repository_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class TransportError(Exception):
        """Stands for the HTTP library's own class, which is not an OSError."""

    def fail(*_: Any, **__: Any) -> None:
        raise TransportError("no route\nto host")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(DarwinNegError, match="some/repo: cannot be downloaded: no route to host; check"):
        load_darwin_neg("some/repo")


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


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """A folder whose `cache` holds the model as q8_0, and that file; Hugging Face's own cache has been removed."""
    base = tmp_path_factory.mktemp("converted")
    with Hub(REPO, checkpoint) as hub:
        first = fetched(hub, base, "quant='q8_0'")
    shutil.rmtree(base / "hf")
    return base, first


def attempts(url: str, base: Path, *calls: str, **env: str) -> list[str]:
    """For each call of `fetch`, the path, or the error."""
    code = f"""
from darwin_neg_cpp.errors import DarwinNegError
from darwin_neg_cpp.pretrained import fetch
for call in {calls!r}:
    try:
        print(eval(call)[0])
    except DarwinNegError as error:
        print("error:", error)
"""
    result = python(code, url, base / "hf", DARWIN_NEG_CACHE=str(base / "cache"), **env)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline"])
def test_a_converted_file_needs_neither_the_hub_nor_its_cache(converted, offline):
    base, first = converted
    right = [f"fetch({REPO!r}, quant='Q8_0')", f"fetch('{REPO}:q8_0')", f"fetch('{REPO}:q8_0', revision={COMMIT!r})"]
    # nothing else is taken for it
    wrong = [f"fetch({REPO!r}, {more})" for more in ("quant='bf16'", "quant='*'", "quant='q8_0', file='a.gguf'")]
    wrong += [f"fetch('{REPO}:q8_0', {more})" for more in ("side_car=False", "revision='v2'")]
    found = attempts("http://127.0.0.1:9", base, *right, *wrong, **offline)
    assert found[: len(right)] == [str(first)] * len(right)
    errors = found[len(right) :]
    assert len(errors) == len(wrong) and all(f"error: {REPO}: cannot be downloaded" in error for error in errors)


def test_the_hub_is_asked_for_the_commit_and_for_nothing_else(converted, checkpoint):
    base, first = converted
    record = first.parent / "refs" / "main"
    with Hub(REPO, checkpoint) as hub:
        assert attempts(hub.url, base, f"fetch('{REPO}:Q8_0', revision={COMMIT!r})") == [str(first)]
        assert requests(hub) == 0, "what a commit holds does not change"
        for content in (COMMIT.encode(), b"\xff" * 40):  # a broken record is made again
            record.write_bytes(content)
            assert attempts(hub.url, base, f"fetch('{REPO}:Q8_0')") == [str(first)]
            assert record.read_text("ascii") == COMMIT
        assert requests(hub) == 2
