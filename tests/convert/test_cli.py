"""`darwin-neg convert` as a command: what it says, what it refuses, and that it runs nothing of a checkpoint's own."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command_line import refusal
from darwin_neg_cpp.cli.convert import add_arguments
from darwin_neg_cpp.cli.main import Parser, main
from darwin_neg_cpp.convert import convert
from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import formats as neg_format
from hostile_checkpoints import INDEX, SHARDS, header, put
from oracles import tiny_tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return tiny_tokenizer.write_quantizable(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "checkpoint"))


def change_config(folder: Path, **text: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config["text_config"] = {key: value for key, value in (config["text_config"] | text).items() if value is not None}
    path.write_text(json.dumps(config), "utf-8")


def rename_tensors(folder: Path, change: dict[str, str]) -> None:
    """New names for tensors, "" for dropping them."""
    index = json.loads((folder / INDEX).read_text("utf-8"))
    for shard in SHARDS:
        tensors = {}
        head, data = header(folder / shard)
        blob = b""
        for name, entry in head.items():
            new = change.get(name, name)
            if name == "__metadata__" or not new:
                continue
            raw = data[slice(*entry["data_offsets"])]
            tensors[new] = entry | {"data_offsets": [len(blob), len(blob) + len(raw)]}
            blob += raw
        put(folder / shard, tensors, blob)
        index["weight_map"] = {n: f for n, f in index["weight_map"].items() if f != shard} | dict.fromkeys(
            tensors, shard
        )
    (folder / INDEX).write_text(json.dumps(index), "utf-8")


def names_of(folder: Path) -> list[str]:
    return list(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return refusal(capsys, "convert", *arguments)


# --- what it says


def test_leaving_the_head_out_is_said_loudly(folder, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(out), "--no-head"]) == 0
    said = capsys.readouterr()
    assert "NO NEG HEAD" in said.err and "with NEG head" not in said.out
    assert not neg_format.has_neg(read_header(out))
    assert main(["convert", str(folder), "-o", str(out), "--force"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "with NEG head" in said.out


def test_help_says_what_auto_does():
    parser = Parser()
    add_arguments(parser)
    said = " ".join(parser.format_help().split())
    assert "auto: BF16 or F16 where the weights are stored so, F16 for weights in F32 (default)" in said


def sizes_in(line: str) -> list[float]:
    units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    return [float(number) * units[unit] for number, unit in re.findall(r"([\d.]+) ([KMG]?i?B)\b", line)]


def test_dry_run_of_a_quantized_type_tells_its_own_file_and_the_room_it_takes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", str(folder), "--outtype", "q4_k_m", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert "Q4_K_M, made of BF16" in said and "quantization  BF16" not in said
    last = said.splitlines()[-1]
    assert last.startswith("Checkpoint-Q4_K_M.gguf: ") and "would be written" in last
    result, full, room = sizes_in(last)
    plan = convert.plan(convert.Source(folder, None), outtype="q4_k_m")
    out = tmp_path / "out.gguf"
    convert.write_any(plan, out, "q4_k_m")
    assert full == pytest.approx(plan.file_size, rel=0.05)
    assert result == pytest.approx(out.stat().st_size, rel=0.3)
    assert room == pytest.approx(result + full, rel=0.05)


def test_dry_run_tells_of_the_side_car(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(folder), "--side-car", "head.gguf", "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2].startswith("Checkpoint-BF16.gguf: ") and said[-1].startswith("head.gguf: ")
    assert not any(line.startswith("neg.") for line in said), "the head goes into the side-car"
    assert main(["convert", str(folder), "--side-car-only", "--side-car", "head.gguf", "--dry-run"]) == 0
    (only,) = capsys.readouterr().out.splitlines()
    assert only.startswith("head.gguf: ")
    assert list(tmp_path.glob("*.gguf")) == []


def test_a_side_car_that_cannot_be_written_is_found_out_before_the_model_is(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "write_any", lambda *_, **__: pytest.fail("it wrote the model"))
    out = str(tmp_path / "out.gguf")
    for side_car in (str(folder / "config.json"), str(tmp_path / "no" / "head.gguf"), str(tmp_path)):
        refused(capsys, str(folder), "-o", out, "--side-car", side_car, "--force")
    monkeypatch.chdir(tmp_path)
    # the name that it takes by default is known only when the checkpoint has been read
    assert "two names" in refused(capsys, str(folder), "--side-car", "Checkpoint-BF16.gguf")


# --- what it refuses


def side_car_of(folder: Path, out: Path) -> Path:
    assert main(["convert", str(folder), "--side-car-only", "--side-car", str(out)]) == 0
    return out


def test_a_side_car_of_another_backbone_is_refused(folder, tmp_path, capsys):
    side_car = side_car_of(folder, tmp_path / "head.gguf")
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(out), "--head", str(side_car)]) == 0
    assert neg_format.has_neg(read_header(out))
    # the same model but for one value of its output norm
    norm = next(name for name in names_of(folder) if name.endswith("language_model.norm.weight"))
    for shard in SHARDS:
        head, data = header(folder / shard)
        if norm in head:
            begin = head[norm]["data_offsets"][0]
            put(folder / shard, head, data[:begin] + b"\x11\x3f" + data[begin + 2 :])
    said = refused(capsys, str(folder), "-o", str(out), "--head", str(side_car), "--force")
    assert "another backbone" in said and "neg.base_norm_sha256" in said
    # the released form says nothing about its backbone
    assert main(["convert", str(folder), "-o", str(out), "--force"]) == 0


def test_a_side_car_of_another_architecture_is_refused(tmp_path, folder, capsys):
    experts = tiny_tokenizer.write_checkpoint(
        tmp_path / "experts",
        tiny_tokenizer.write(tmp_path / "tokenizer"),
        hidden=256,
        arch="Qwen3_5MoeForConditionalGeneration",
        experts="fused",
    )
    side_car = side_car_of(experts, tmp_path / "head.gguf")
    said = refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf"), "--head", str(side_car))
    assert "qwen35moe" in said and "neg.base_arch" in said


def test_a_head_in_the_shards_is_the_head_of_its_file(folder, tmp_path):
    """Whatever stands before its names, and the type of the weights stays what it was."""
    beside = folder / "neg_modules.safetensors"
    expected = neg_format.read_head(beside)
    tensors = {f"model.neg_modules.{name}": data for name, data in load_file(beside).items()}
    beside.unlink()
    shard = "model-00003-of-00003.safetensors"
    save_file({name: np.ascontiguousarray(data) for name, data in tensors.items()}, folder / shard)
    index = json.loads((folder / INDEX).read_text("utf-8"))
    index["weight_map"] |= dict.fromkeys(tensors, shard)
    (folder / INDEX).write_text(json.dumps(index), "utf-8")
    source = convert.Source(folder, None)
    assert convert.plan(source, outtype="q4_k_m").outtype == "bf16", "F32 would make it twice as long"
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(out)]) == 0
    found = neg_format.read_head(out)
    for name, data in expected.tensors().items():
        assert data.tobytes() == found.tensors()[name].tobytes()


def test_blocks_for_multi_token_prediction_are_never_dropped_in_silence(folder, tmp_path, capsys):
    out = tmp_path / "out.gguf"
    change_config(folder, mtp_num_hidden_layers=None)
    assert main(["convert", str(folder), "-o", str(out)]) == 0
    found = read_header(out)
    assert found.value("qwen35.nextn_predict_layers") == 1 and "blk.4.nextn.eh_proj.weight" in found.tensors
    # what is not a whole block is named
    blocks = [name for name in names_of(folder) if name.startswith("mtp.layers.")]
    rename_tensors(folder, dict.fromkeys(blocks, ""))
    assert "mtp." in refused(capsys, str(folder), "-o", str(out), "--force")
    assert main(["convert", str(folder), "-o", str(out), "--force", "--no-mtp"]) == 0
    change_config(folder, mtp_num_hidden_layers=1)
    assert "mtp.layers.0" in refused(capsys, str(folder), "-o", str(out), "--force")


def test_a_link_to_nothing_is_blamed_itself(tmp_path, capsys):
    folder = tiny_tokenizer.write_checkpoint(
        tmp_path / "checkpoint", tiny_tokenizer.write(tmp_path / "tokenizer"), shards=1
    )
    single = folder / "model.safetensors"
    single.unlink()
    single.symlink_to(folder / "nothing")
    said = refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf"))
    assert f"{single}: is a link" in said and INDEX not in said


# --- what it never does


def test_no_code_of_a_checkpoint_is_run(folder, tmp_path):
    proof = tmp_path / "pwned"
    code = f"open({str(proof)!r}, 'w').write('x')\n"
    for name in ("modeling_own.py", "configuration_own.py", "tokenization_own.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(code, "utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        value = json.loads((folder / name).read_text("utf-8"))
        value["auto_map"] = {
            "AutoConfig": "configuration_own.Own",
            "AutoModelForCausalLM": "modeling_own.Own",
            "AutoTokenizer": ["tokenization_own.Own", None],
        }
        (folder / name).write_text(json.dumps(value), "utf-8")
    # a template is text, however it looks
    (folder / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include 'modeling_own.py' %}", "utf-8"
    )
    modules = set(sys.modules)
    assert main(["convert", str(folder), "-o", str(tmp_path / "out.gguf")]) == 0
    assert not proof.exists()
    assert not [name for name in set(sys.modules) - modules if "own" in name]


# --- tied embeddings


@pytest.mark.parametrize(
    ("outer", "inner", "stored", "written"),
    [
        # the outer object decides, as in transformers; without a head of its own there is nothing but the embedding
        (True, True, True, False),
        (True, False, True, False),
        (True, None, True, False),
        (False, True, True, True),
        (False, False, True, True),
        (None, True, True, True),
        (None, None, True, True),
        (True, False, False, False),
        (False, True, False, False),
        (None, True, False, False),
    ],
)
def test_the_outer_object_decides_over_tied_embeddings(folder, tmp_path, outer, inner, stored, written):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for values, tied in ((config, outer), (config["text_config"], inner)):
        values.pop("tie_word_embeddings", None)
        if tied is not None:
            values["tie_word_embeddings"] = tied
    path.write_text(json.dumps(config), "utf-8")
    if not stored:
        rename_tensors(folder, {"lm_head.weight": ""})
    out = tmp_path / "out.gguf"
    assert main(["convert", str(folder), "-o", str(out)]) == 0
    assert ("output.weight" in read_header(out).tensors) == written


def test_an_untied_model_without_a_head_is_refused(folder, tmp_path, capsys):
    rename_tensors(folder, {"lm_head.weight": ""})
    assert "lm_head.weight" in refused(capsys, str(folder), "-o", str(tmp_path / "out.gguf"))
