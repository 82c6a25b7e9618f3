"""`convert --mmproj`: what it writes beside what, what it downloads, and one clear line for what it refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from command_line import refusal
from conftest import ROOT
from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, write
from darwin_neg_cpp.errors import ModelFileError
from darwin_neg_cpp.neg.info import info
from hostile_checkpoints import INDEX, header, put
from oracles import tiny_tokenizer, vision_variants
from oracles.hub_server import Hub
from oracles.neg_reference import random_released_head
from oracles.vision_variants import VisionVariant

SETTINGS = "preprocessor_config.json"
MUTATIONS = 150


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint: the tower in the first shards, the language model in all, tokenizer, head."""
    base = tmp_path_factory.mktemp("good")
    folder = base / "checkpoint"
    vision_variants.write(VisionVariant("plain", shards=3, deepstack=(1,)), folder, 1)
    tokenizer = tiny_tokenizer.write(base / "tokenizer")
    for path in tokenizer.iterdir():
        shutil.copy(path, folder / path.name)
    random_released_head(folder / "neg_modules.safetensors", vision_variants.TEXT_WIDTH, 2, 1.0)
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def mmproj_bytes(folder: Path, tmp_path: Path) -> bytes:
    out = tmp_path / "expected.gguf"
    write.write(convert.projector_plan(convert.Source(folder, None)), out)
    data = out.read_bytes()
    out.unlink()
    return data


# --- what it writes


def test_alone_it_is_all_that_is_written_and_needs_no_head(folder, tmp_path, monkeypatch, capsys):
    (folder / "neg_modules.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(folder), "--mmproj", "mm.gguf"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.startswith("mm.gguf: BF16, ") and "serve --mmproj" in said.out
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "mm.gguf"]


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["-o", "model.gguf"], ["model.gguf"]),
        (["--side-car", "head.gguf"], ["Checkpoint-BF16.gguf", "head.gguf"]),
        (["--side-car", "head.gguf", "--side-car-only"], ["head.gguf"]),
        (["-o", "model.gguf", "--outtype", "bf16", "--threads", "1", "--no-verify"], ["model.gguf"]),
    ],
)
def test_beside_other_outputs_each_is_what_it_is_alone(folder, tmp_path, monkeypatch, arguments, files):
    monkeypatch.chdir(tmp_path)
    expected = mmproj_bytes(folder, tmp_path)
    assert main(["convert", str(folder), *arguments]) == 0
    alone = {name: (tmp_path / name).read_bytes() for name in files}
    assert sorted(os.listdir(tmp_path)) == sorted(["checkpoint", *files])
    assert main(["convert", str(folder), *arguments, "--mmproj", "mm.gguf", "--force"]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted(["checkpoint", "mm.gguf", *files])
    assert {name: (tmp_path / name).read_bytes() for name in files} == alone
    assert (tmp_path / "mm.gguf").read_bytes() == expected


def test_beside_a_quantized_model_it_keeps_the_precision_of_the_tower(folder, tmp_path):
    plan = convert.projector_plan(convert.Source(folder, None), outtype="q4_k_m")
    assert plan.outtype == "bf16" and plan.header == convert.projector_plan(convert.Source(folder, None)).header


def test_a_dry_run_shows_it_and_writes_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(folder), "--mmproj", "mm.gguf", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "v.deepstack.1.fc2.weight" in said and "token_embd" not in said
    assert said.splitlines()[-1].startswith("mm.gguf: BF16, ")
    assert main(["convert", str(folder), "--mmproj", "mm.gguf", "-o", "m.gguf", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "token_embd" in said and "m.gguf: " in said and "v.post_ln.bias" in said
    assert os.listdir(tmp_path) == ["checkpoint"]


@pytest.fixture
def apart(folder: Path) -> Path:
    """The checkpoint with no part of the tower in its third shard, whose name this is; what it held of it is moved."""
    index = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    first, second, third = sorted(set(index.values()))
    moved: dict[str, dict[str, Any]] = {shard: {} for shard in (first, second, third)}
    blobs = dict.fromkeys(moved, b"")
    for shard in moved:
        head, data = header(folder / shard)
        for name, entry in head.items():
            if name != "__metadata__":
                target = third if "visual" not in name else first if shard == third else shard
                raw = data[slice(*entry["data_offsets"])]
                offsets = [len(blobs[target]), len(blobs[target]) + len(raw)]
                moved[target][name] = entry | {"data_offsets": offsets}
                blobs[target] += raw
    for shard, head in moved.items():
        put(folder / shard, head, blobs[shard])
    weights = {name: shard for shard, head in moved.items() for name in head}
    (folder / INDEX).write_text(json.dumps({"weight_map": weights}), "utf-8")
    return folder / third


def test_a_shard_without_a_part_of_the_tower_need_not_be_there(apart, tmp_path):
    expected = mmproj_bytes(apart.parent, tmp_path)
    apart.unlink()
    assert mmproj_bytes(apart.parent, tmp_path) == expected


def test_of_a_repository_the_shards_with_the_tower_alone_are_downloaded(apart, tmp_path):
    folder, out = apart.parent, tmp_path / "mm.gguf"
    write.write(convert.projector_plan(convert.Source(folder, "some-lab/Tiny")), tmp_path / "expected.gguf")
    with Hub("some-lab/Tiny", folder) as hub:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"DARWIN_NEG_CACHE": str(tmp_path / "hf")}
        command = [sys.executable, str(ROOT / "convert" / "convert_to_gguf.py"), "some-lab/Tiny", "--mmproj", str(out)]
        for offline in ("", "1"):  # once it is there, the hub is not needed
            variables = environment | {"HF_HUB_OFFLINE": offline}
            result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            assert out.read_bytes() == (tmp_path / "expected.gguf").read_bytes()
            out.unlink()
        assert hub.asked_for("model-00001-of-00003.safetensors") and hub.asked_for(SETTINGS)
        assert not hub.asked_for(apart.name)


# --- what others say of the file


def test_info_and_loading_say_what_it_is(folder, tmp_path, capsys):
    out = tmp_path / "mm.gguf"
    assert main(["convert", str(folder), "--mmproj", str(out)]) == 0
    found = info(out)
    assert (found.projector, found.n_layer, found.n_embd, found.memory) == ("qwen3vl_merger", 3, 32, None)
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "not a model; give it to `darwin-neg serve -m MODEL --mmproj FILE`" in said and "neg attach" not in said
    with pytest.raises(ModelFileError, match=r"mm\.gguf: is a projector .*, not a model; .* --mmproj FILE"):
        DarwinNEG(out)


# --- what it refuses


@dataclass(frozen=True)
class Kind:
    name: str
    spoil: Callable[[Path], object]
    words: tuple[str, ...]


def in_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        value = json.loads((folder / name).read_text("utf-8"))
        change(value)
        (folder / name).write_text(json.dumps(value), "utf-8")

    return spoil


def vision(key: str, value: Any) -> Callable[[Path], object]:
    return in_json("config.json", lambda config: config["vision_config"].update({key: value}))


def setting(key: str, value: Any) -> Callable[[Path], object]:
    return in_json(SETTINGS, lambda settings: settings.update({key: value}))


def in_shard(part: str, change: Callable[[dict[str, Any], str], object]) -> Callable[[Path], object]:
    """Changes the header of the shard that holds a tensor, and the index if its name changes."""

    def spoil(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        name = next(name for name in index["weight_map"] if part in name)
        shard = index["weight_map"][name]
        head, data = header(folder / shard)
        change(head, name)
        put(folder / shard, head, data)
        index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != shard or n in head}
        index["weight_map"] |= dict.fromkeys((n for n in head if n != "__metadata__"), shard)
        (folder / INDEX).write_text(json.dumps(index), "utf-8")

    return spoil


def renamed(part: str, to: str) -> Callable[[Path], object]:
    return in_shard(part, lambda head, name: head.update({name.replace(part, to): head.pop(name)}))


def without_tower(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text("utf-8"))
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {n: f for n, f in index["weight_map"].items() if "visual" not in n}}), "utf-8"
    )


KINDS = [
    Kind("no tower", without_tower, ("no vision tower", "--mmproj")),
    Kind("no settings of images", lambda folder: (folder / SETTINGS).unlink(), (SETTINGS, "download that file")),
    Kind("settings not JSON", lambda folder: (folder / SETTINGS).write_text("{", "utf-8"), (SETTINGS, "JSON")),
    Kind("settings a list", lambda folder: (folder / SETTINGS).write_text("[]", "utf-8"), (SETTINGS, "object")),
    Kind("mean missing", in_json(SETTINGS, lambda s: s.pop("image_mean")), ("image_mean is missing",)),
    *(
        Kind(f"mean {value!r:.20}", setting("image_mean", value), (SETTINGS, "image_mean", "three numbers"))
        for value in (
            0.5,
            "0.5",
            [0.5],
            [0.5] * 4,
            ["a"] * 3,
            [True] * 3,
            [1e39] * 3,
            [float("nan")] * 3,
            [10**400] * 3,
        )
    ),
    Kind("deviation of zero", setting("image_std", [0.5, 0, 0.5]), ("image_std", "above 0")),
    Kind("vision_config no object", in_json("config.json", lambda c: c.update(vision_config=7)), ("vision_config",)),
    *(
        Kind(f"depth {value!r:.20}", vision("depth", value), ("vision_config.depth", "whole number"))
        for value in (0, -1, 2.5, "3", True, 10**9, 10**400)
    ),
    Kind("depth too large", vision("depth", 4), ("visual.blocks.3.", "is missing")),
    Kind("depth too small", vision("depth", 2), ("blocks.2.", "is not a tensor of a vision tower")),
    Kind("another width", vision("hidden_size", 64), ("patch_embed", "has shape")),
    Kind("width beyond reason", vision("hidden_size", 2**31), ("vision_config.hidden_size",)),
    Kind("heads no divisor", vision("num_heads", 3), ("vision_config.hidden_size", "num_heads")),
    Kind("no heads", vision("num_heads", 0), ("vision_config.num_heads",)),
    Kind("another patch", vision("patch_size", 8), ("patch_embed", "has shape")),
    Kind("patch a list", vision("patch_size", [4, 4]), ("vision_config.patch_size",)),
    Kind("three frames", vision("temporal_patch_size", 3), ("vision_config.temporal_patch_size", "2")),
    Kind("four colors", vision("in_channels", 4), ("vision_config.in_channels", "3")),
    Kind("nothing merged", vision("spatial_merge_size", 1), ("vision_config.spatial_merge_size", "2")),
    Kind("positions no square", vision("num_position_embeddings", 35), ("num_position_embeddings", "square")),
    Kind("more positions", vision("num_position_embeddings", 49), ("pos_embed", "has shape")),
    Kind("another model's width", vision("out_hidden_size", 128), ("vision_config.out_hidden_size", "64")),
    *(
        Kind(f"deepstack {value!r}", vision("deepstack_visual_indexes", value), ("deepstack_visual_indexes", "below 3"))
        for value in ([3], [-1], [1, 1], 1, ["1"], [True], {"1": 1})
    ),
    Kind("deepstack not said", vision("deepstack_visual_indexes", []), ("deepstack_merger_list.0", "is not a tensor")),
    Kind("deepstack too long", vision("deepstack_visual_indexes", [0, 1]), ("deepstack_merger_list.1", "is missing")),
    Kind("tensor missing", renamed("visual.merger.norm.bias", "visual.merger.norm.b"), ("merger.norm.bias", "missing")),
    Kind("tensor unknown", renamed("visual.merger.norm.bias", "visual.x"), ("merger.norm.bias",)),
    Kind(
        "tensor twice",
        renamed("model.visual.blocks.0.norm1.bias", "visual.blocks.0.norm2.bias"),
        ("is the same tensor as",),
    ),
    Kind("integers", in_shard("attn.qkv.weight", lambda h, n: h[n].update(dtype="I16")), ("attn.qkv.weight", "I16")),
    Kind(
        "flat convolution",
        in_shard("patch_embed.proj.weight", lambda h, n: h[n].update(shape=[32, 96])),
        ("patch_embed.proj.weight", "has shape"),
    ),
    Kind(
        "quantized",
        in_json("config.json", lambda c: c.update(quantization_config={"bits": 4})),
        ("quantization_config",),
    ),
    Kind("another architecture", in_json("config.json", lambda c: c.update(architectures=["Qwen3VL"])), ("Qwen3VL",)),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bad_tower_is_one_clear_line(folder, tmp_path, capsys, kind):
    kind.spoil(folder)
    said = refusal(capsys, "convert", str(folder), "--mmproj", str(tmp_path / "mm.gguf"))
    for word in kind.words:
        assert word in said
    assert os.listdir(tmp_path) == ["checkpoint"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--outtype", "q4_k_m"], ("--outtype q4_k_m", "--out")),
        (["--imatrix", "x"], ("--imatrix", "--out")),
        (["--head", "x"], ("--head", "--out")),
        (["-o", "mm.gguf"], ("two names",)),
        (["--side-car", "mm.gguf"], ("two names",)),
        (["--mmproj", "checkpoint/config.json", "--force"], ("same file",)),
        (["--mmproj", f"checkpoint/{SETTINGS}", "--force"], ("same file",)),
        (["--mmproj", "checkpoint/model-00001-of-00003.safetensors", "--force"], ("same file",)),
        (["--mmproj", "checkpoint"], ("is a folder",)),
        (["--mmproj", "no/mm.gguf"], ("no such folder",)),
        (["--mmproj", "there.gguf"], ("exists already", "--force")),
    ],
)
def test_names_and_options_are_checked(folder, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.gguf").write_bytes(b"there")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = refusal(
        capsys, "convert", "checkpoint", *([] if "--mmproj" in arguments else ["--mmproj", "mm.gguf"]), *arguments
    )
    assert all(word in said for word in words), said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_random_damage_never_gets_further_than_one_line(folder, tmp_path, capsys):
    rng = random.Random(4)
    names = ["config.json", SETTINGS, INDEX, "model-00001-of-00003.safetensors"]
    originals = {name: (folder / name).read_bytes() for name in names}
    out = tmp_path / "mm.gguf"
    codes = []
    for round_ in range(MUTATIONS):
        name = names[round_ % len(names)]
        data = bytearray(originals[name])
        at = rng.randrange(min(len(data), 3000))
        data[at : at + rng.randrange(3)] = rng.choice([b"9", b"-", b"null", b"[", b'"', b"1e999", b"\xff", b"", b"00"])
        (folder / name).write_bytes(bytes(data))
        code = main(["convert", str(folder), "--mmproj", str(out), "--no-verify"])
        said = capsys.readouterr().err
        codes.append(code)
        assert code in (0, 2) and out.exists() == (code == 0), (round_, name, said)
        assert said.count("\n") == (code == 2), said
        out.unlink(missing_ok=True)
        (folder / name).write_bytes(originals[name])
    assert sorted(os.listdir(tmp_path)) == ["checkpoint"]
    assert codes.count(2) > MUTATIONS // 4
