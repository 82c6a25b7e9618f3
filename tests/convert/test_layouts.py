"""Checkpoints as people have them: files that are named, linked or left over in other ways than in the released one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import AutoTokenizer

from command_line import refusal
from darwin_neg_cpp import hub
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, source, tokenizer
from darwin_neg_cpp.errors import ModelFileError
from hostile_checkpoints import INDEX, SHARDS, header, put
from oracles import tiny_tokenizer

SINGLE = "model.safetensors"
Keep = Callable[[str, dict[str, Any]], bool]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A checkpoint in the released layout, and what it is converted to."""
    base = tmp_path_factory.mktemp("good")
    folder = tiny_tokenizer.write_checkpoint(base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"))
    assert main(["convert", str(folder), "-o", str(base / "good.gguf")]) == 0
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return refusal(capsys, "convert", *arguments)


def merge(folder: Path, keep: Keep = lambda _name, _entry: True) -> None:
    """Puts the tensors of both shards into one file, those that `keep` wants; the shards and their index stay."""
    tensors, blob = {}, b""
    for shard in SHARDS:
        head, data = header(folder / shard)
        for name, entry in head.items():
            if name != "__metadata__" and keep(name, entry):
                raw = data[slice(*entry["data_offsets"])]
                tensors[name] = entry | {"data_offsets": [len(blob), len(blob) + len(raw)]}
                blob += raw
    put(folder / SINGLE, tensors, blob)


@pytest.fixture
def published(folder: Path, tmp_path: Path, monkeypatch) -> Callable[[], hub.Repository]:
    """Gives the folder as a repository, of which no shard can be downloaded as a whole."""

    def snapshot(_repository: hub.Repository, patterns: Sequence[str], *, complete: bool = True) -> Path:
        assert not complete
        (tmp_path / "snapshot").mkdir()
        for path in folder.iterdir():
            if any(path.match(pattern) for pattern in patterns) and path.is_file():
                shutil.copy(path, tmp_path / "snapshot")
        return tmp_path / "snapshot"

    def read_range(_repository: hub.Repository, name: str, begin: int, end: int) -> tuple[bytes, int]:
        data = (folder / name).read_bytes()
        return data[begin:end], len(data)

    monkeypatch.setattr(hub, "snapshot", snapshot)
    monkeypatch.setattr(hub, "read_range", read_range)
    return lambda: hub.Repository("someone/model", None, None, "c" * 40, tuple(p.name for p in folder.iterdir()))


# --- which files hold the tensors


def without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def named_as_by_other_tools(folder: Path) -> None:
    (folder / INDEX).unlink()
    for shard in SHARDS:
        (folder / shard).rename(folder / shard.replace("model-", "model.safetensors-"))


def beside_a_stale_index(folder: Path) -> None:
    merge(folder)
    for shard in SHARDS:
        (folder / shard).unlink()


def one_file_whose_index_lists_other_tensors(folder: Path) -> None:
    merge(folder)
    for shard in SHARDS:
        (folder / shard).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"model.old.weight": SINGLE}}), "utf-8")


def beside_shards_of_something_else(folder: Path) -> None:
    merge(folder)
    for shard in SHARDS:
        head, data = header(folder / shard)
        put(folder / shard, head, bytes(len(data)))


def linked(folder: Path) -> None:
    elsewhere = folder.parent / "another disk"
    elsewhere.mkdir()
    for i, shard in enumerate(SHARDS):
        (folder / shard).rename(elsewhere / f"{i}")
        (folder / shard).symlink_to(elsewhere / f"{i}")


def linked_without_an_index(folder: Path) -> None:
    linked(folder)
    (folder / INDEX).unlink()


def one_link(folder: Path) -> None:
    beside_a_stale_index(folder)
    (folder / INDEX).unlink()
    (folder / SINGLE).rename(folder.parent / "elsewhere")
    (folder / SINGLE).symlink_to("../elsewhere")


LAYOUTS = [
    without_an_index,
    named_as_by_other_tools,
    beside_a_stale_index,
    beside_shards_of_something_else,
    one_file_whose_index_lists_other_tensors,
    linked,
    linked_without_an_index,
    one_link,
]


@pytest.mark.parametrize("change", LAYOUTS, ids=lambda change: change.__name__)
def test_the_same_weights_in_other_files_give_the_same_model(
    good: Path, folder: Path, tmp_path: Path, capsys, change: Callable[[Path], None]
) -> None:
    change(folder)
    assert main(["convert", str(folder), "-o", str(tmp_path / "out.gguf")]) == 0
    assert (tmp_path / "out.gguf").read_bytes() == (good.parent / "good.gguf").read_bytes()
    said = capsys.readouterr().err
    assert (f"{INDEX}, which names other files, is not used" in said) == ("beside" in change.__name__)


@pytest.mark.parametrize("change", [without_an_index, named_as_by_other_tools, beside_a_stale_index])
def test_a_repository_of_such_files_is_planned_without_its_weights(good, folder, published, change) -> None:
    change(folder)
    outline = source.outline(published())
    assert outline.temporary is not None
    assert convert.plan(outline).infos == convert.plan(source.Source(good, None)).infos
    outline.temporary.cleanup()


@pytest.mark.parametrize("i", [0, 1])
def test_without_an_index_a_missing_shard_is_named(folder: Path, tmp_path: Path, capsys, i: int) -> None:
    (folder / INDEX).unlink()
    (folder / SHARDS[i]).unlink()
    said = refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf"))
    assert f"{SHARDS[i]}: no such file" in said and SHARDS[1 - i] in said


def test_without_an_index_shards_of_two_checkpoints_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    (folder / INDEX).unlink()
    shutil.copy(folder / SHARDS[0], folder / "model-00001-of-00001.safetensors")
    said = refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf"))
    assert SHARDS[0] in said and "model-00001-of-00001.safetensors" in said and "two checkpoints" in said


@pytest.mark.parametrize("name", [SHARDS[0], INDEX, "config.json", "tokenizer.json", "neg_modules.safetensors"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "is a pointer of Git LFS; download the",
        ),
        ("<!DOCTYPE html><html>", "is a web page; download the file that it shows"),
    ],
    ids=["pointer", "page"],
)
def test_what_was_saved_in_the_place_of_a_file_is_named(
    folder: Path, tmp_path: Path, capsys, name: str, content: str, says: str
) -> None:
    (folder / name).write_text(content, "utf-8")
    assert refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf")).startswith(
        f"darwin-neg: error: {folder / name}: {says}"
    )


def test_a_linked_shard_is_not_written_over(folder: Path, tmp_path: Path, capsys) -> None:
    linked(folder)
    target = (folder / SHARDS[1]).resolve()
    before = target.read_bytes()
    assert "same file" in refused(capsys, str(folder), "-o", str(target), "--force")
    assert target.read_bytes() == before


# --- the block for multi-token prediction


def only_shape(name: str, entry: dict[str, Any]) -> bool:
    """Keeps all tensors, one of them in another shape."""
    if name == "mtp.fc.weight":
        entry["shape"] = entry["shape"][::-1]
    return True


def without(part: str) -> Keep:
    return lambda name, _: not (name.startswith("mtp.") and part in name)


def nothing_but(part: str) -> Keep:
    return lambda name, _: not name.startswith("mtp.") or part in name


HALVES: dict[str, Keep] = {
    "no mlp": without("mlp."),
    "no fc": without("fc."),
    "no norms": without("norm"),
    "no query": without("self_attn.q_proj"),
    "no layer": without("layers."),
    "a norm alone": nothing_but("mtp.norm"),
    "a layer alone": nothing_but("mtp.layers"),
    "of another shape": only_shape,
}


@pytest.mark.parametrize("kind", HALVES)
def test_half_a_block_for_multi_token_prediction_names_the_way_out(folder, tmp_path, capsys, kind) -> None:
    merge(folder, HALVES[kind])
    (folder / INDEX).unlink()
    out = str(tmp_path / "out.gguf")
    said = refused(capsys, str(folder), "-o", out)
    assert "mtp." in said and "--no-mtp" in said
    assert main(["convert", str(folder), "-o", out, "--no-mtp"]) == 0


# --- tokens that tokenizer.json lacks


def added_tokens_json(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<extra>": 264, "<|more|>": 263, "<|im_end|>": 262}), "utf-8")


def in_the_vocabulary(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"in": 258, "<|more|>": 263}), "utf-8")


def added_tokens_decoder(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    listed = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    flags = dict.fromkeys(("normalized", "single_word", "lstrip", "rstrip"), False)
    listed += [
        {"id": 263, "content": "<tool>", "special": False, **flags},
        {"id": 264, "content": "<special>", "special": True, **flags},
    ]
    config["added_tokens_decoder"] = {str(entry.pop("id")): entry for entry in listed}
    path.write_text(json.dumps(config), "utf-8")


def no_added_tokens_in_tokenizer_json(folder: Path) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    listed, data["added_tokens"] = data["added_tokens"], []
    path.write_text(json.dumps(data), "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({e["content"]: e["id"] for e in listed}), "utf-8")


def special_by_their_part(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"eos_token": {"content": "<end>", "__type": "AddedToken"}, "additional_special_tokens": ["<think>"]}
    path.write_text(json.dumps(config), "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps({"<end>": 263, "<think>": 264, "<plain>": 265}), "utf-8")


def both(folder: Path) -> None:
    added_tokens_decoder(folder)
    (folder / "added_tokens.json").write_text(json.dumps({"<other>": 265}), "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        added_tokens_json,
        in_the_vocabulary,
        added_tokens_decoder,
        both,
        no_added_tokens_in_tokenizer_json,
        special_by_their_part,
    ],
    ids=lambda change: change.__name__,
)
def test_tokens_that_tokenizer_json_lacks_are_added_as_transformers_does(folder: Path, change) -> None:
    change(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}), "utf-8")
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = tokenizer.read_vocabulary(folder, tiny_tokenizer.VOCAB)
    assert {token: i for i, token in enumerate(ours.tokens) if ours.types[i] != gguf.TokenType.UNUSED} == (
        theirs.get_vocab()
    )
    assert ours.special.special_token_ids == {"eos": theirs.eos_token_id, "pad": theirs.pad_token_id}
    added = theirs.added_tokens_decoder
    for i in range(len(theirs)):
        looks_special = str(added[i].content).startswith("<|") if i in added else False
        kind = gguf.TokenType.NORMAL
        if i in added:
            kind = gguf.TokenType.CONTROL if added[i].special or looks_special else gguf.TokenType.USER_DEFINED
        assert ours.types[i] == kind, (i, ours.tokens[i])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("added_tokens.json", {"<extra>": tiny_tokenizer.VOCAB}, "the embedding has 300 rows"),
        ("added_tokens.json", {"<extra>": 5}, "the same id 5"),
        ("added_tokens.json", {"<extra>": "263"}, "has no id"),
        ("added_tokens.json", {"<extra>": -1}, "has no id"),
        ("added_tokens.json", [["<extra>", 263]], "is not a JSON object"),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<extra>"]}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<extra>"}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"263": "<extra>"}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": "<extra>"}}}, "the same id 5"),
    ],
)
def test_a_bad_list_of_added_tokens_names_its_file(folder: Path, file: str, content: object, says: str) -> None:
    (folder / file).write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelFileError, match=says) as caught:
        tokenizer.read_vocabulary(folder, tiny_tokenizer.VOCAB)
    assert str(caught.value).startswith(f"{folder / file}: ")


def test_added_tokens_are_downloaded_with_a_checkpoint(folder: Path, published) -> None:
    added_tokens_json(folder)
    outline = source.outline(published())
    assert outline.temporary is not None
    assert tokenizer.read_vocabulary(outline.folder, tiny_tokenizer.VOCAB).tokens[264] == "<extra>"
    outline.temporary.cleanup()
