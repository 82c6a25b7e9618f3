"""What a converted file says about itself: names, licence, tags, sampler settings, chat templates.

They come from files that people write by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest

from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.convert import convert, model_card, write
from darwin_neg_cpp.convert.plan import make_plan
from darwin_neg_cpp.errors import ModelFileError
from oracles import tiny_tokenizer

# installed, because the quantized types need the compiled engine
CONVERT = [sys.executable, "-m", "darwin_neg_cpp", "convert"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("good")
    return tiny_tokenizer.write_checkpoint(base / "checkpoint", tiny_tokenizer.write(base / "tokenizer"), card=True)


@pytest.fixture
def folder(good, tmp_path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "Tiny-1B-Instruct"))


def converted(folder: Path, name: str | None = None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the file's keys, the plan's notes)."""
    out = folder.parent / "out.gguf"
    plan = convert.plan(convert.Source(folder, name), outtype="q8_0")
    write.write(plan, out, force=True)
    return keys_of(out), tuple(plan.notes)


def keys_of(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def card(folder: Path, *lines: str) -> None:
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", "# Title"]) + "\n", "utf-8")


def general(keys: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("general."): value for key, value in keys.items() if key.startswith("general.")}


# --- odd values


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("version: 1.0", "version", None),
        ("model_name: 7", "name", "Tiny 1B Instruct"),
        ("name: [a, b]", "name", "Tiny 1B Instruct"),
        ("tags: [2024, x]", "tags", ["x"]),
        ("tags: {a: b}", "tags", None),
        ("tags: 7", "tags", None),
        ("pipeline_tag: true", "tags", None),
        ("language: [no, en, 3.5]", "languages", ["en"]),
        ("license: 2.0", "license", None),
        ("license: [mit, 3, apache-2.0]", "license", "mit,apache-2.0"),
        ("license_link: 2024-01-01", "license.link", None),
        ("base_model: 7", "base_model.count", None),
        ("base_model: [{name: 3, repo_url: x}]", "base_model.0.repo_url", "x"),
        ("base_model: [a/b, 5, [c]]", "base_model.count", 1),
        ("datasets: [{version: 1.5}]", "dataset.count", 1),
        ('author: "\\ud800"', "author", None),
        ("author: 0x" + "f" * 6000, "author", None),
        ("tags: &a [*a, x]", "tags", ["x"]),
    ],
)
def test_an_ill_typed_value_of_a_card_is_left_out_and_named(folder, line, key, value):
    card(folder, line)
    keys, notes = converted(folder)
    assert general(keys).get(key) == value
    assert len(notes) >= 1 and all("README.md" in note for note in notes), notes
    assert line.partition(":")[0] in notes[0] and "\n" not in notes[0] and len(notes[0]) < 400


@pytest.mark.parametrize(
    "text", ["---\na: [\n---\n", "---\n- a\n- b\n---\n", "---\n\tx: {{\n---\n", "---\n" + "[" * 5000]
)
def test_a_broken_card_is_a_note(folder, text, capfd):
    (folder / "README.md").write_text(text, "utf-8")
    keys, notes = converted(folder)
    assert general(keys)["name"] == "Tiny 1B Instruct" and "license" not in general(keys)
    assert len(notes) == 1 and ("README.md" in notes[0] or "card" in notes[0])
    assert capfd.readouterr().err == "", "the library's own warnings"


def test_a_card_that_is_no_text_or_too_large_is_a_note(folder):
    (folder / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert "UnicodeDecodeError" in converted(folder)[1][0]
    with (folder / "README.md").open("wb") as file:
        file.truncate(model_card.MAX_CARD + 1)
    assert "README.md" in converted(folder)[1][0]


@pytest.mark.parametrize(
    ("key", "bad", "to"),
    [
        ("top_k", 20.0, "sampling.top_k"),
        ("top_k", True, "sampling.top_k"),
        ("top_k", 10**400, "sampling.top_k"),
        ("top_k", "20", "sampling.top_k"),
        ("temperature", "x", "sampling.temp"),
        ("temperature", [1], "sampling.temp"),
        ("temperature", float("nan"), "sampling.temp"),
        ("temperature", float("inf"), "sampling.temp"),
        ("top_p", 1e300, "sampling.top_p"),
        ("top_p", 10**400, "sampling.top_p"),
        ("sequence", 7, "sampling.sequence"),
        ("sequence", "\ud800", "sampling.sequence"),
    ],
)
def test_an_ill_typed_sampler_setting_is_left_out_and_named(folder, key, bad, to):
    (folder / "generation_config.json").write_text(json.dumps({"min_p": 0.1, key: bad}), "utf-8")
    keys, notes = converted(folder)
    assert to not in general(keys) and general(keys)["sampling.min_p"] == pytest.approx(0.1)
    (note,) = notes
    assert "generation_config.json" in note and key in note


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"x"', "\xff"])
def test_a_generation_config_that_is_none_is_a_note(folder, text):
    (folder / "generation_config.json").write_bytes(text.encode("latin-1"))
    keys, notes = converted(folder)
    assert not any(key.startswith("sampling.") for key in general(keys))
    (note,) = notes
    assert "generation_config.json" in note


@pytest.mark.parametrize("value", [7, [1], None, "a/b/c/d", "\ud800", ""])
def test_an_odd_name_or_path_does_no_harm(folder, value):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": value}), "utf-8")
    assert general(converted(folder)[0])["name"]


def test_what_gguf_cannot_hold_names_the_key(folder, monkeypatch):
    def odd(*arguments: Any) -> Any:
        metadata, notes = honest(*arguments)
        metadata.author = "\ud800"
        return metadata, notes

    honest = model_card.read_metadata
    monkeypatch.setattr("darwin_neg_cpp.convert.plan.read_metadata", odd)
    with pytest.raises(ModelFileError, match=r"general\.author: its value cannot be stored"):
        make_plan(convert.open_checkpoint(folder))


# --- names


def test_a_repository_gives_names_and_its_card_goes_before_it(folder):
    card(folder, "license: mit")
    found = general(converted(folder, "some-lab/Tiny-1B-Instruct-v2.1")[0])
    assert found["name"] == "Tiny-1B-Instruct-v2.1" and found["organization"] == "Some Lab"
    # (a model of this size is not a 1B)
    assert (found["basename"], found["version"]) == ("Tiny", "v2.1")
    assert "Instruct" in found["finetune"]
    card(folder, "version: 'seven'", "basename: Other", "finetune: chat", "organization: Us", "model_name: Ours")
    found = general(converted(folder, "some-lab/Tiny-1B-Instruct-v2.1")[0])
    assert [found[key] for key in ("version", "basename", "finetune", "organization", "name")] == [
        "seven",
        "Other",
        "chat",
        "Us",
        "Ours",
    ]


def test_a_repositorys_name_goes_before_what_the_configuration_was_copied_from(folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "Base/Model-9B"}), "utf-8")
    card(folder, "license: mit")
    assert general(converted(folder, "some-lab/Tiny")[0])["name"] == "Tiny"
    assert general(converted(folder)[0])["name"] == "Model 9B", "as llama.cpp's converter for a folder"


def test_size_label_of_a_repositorys_name(folder):
    card(folder, "license: mit")
    total = general(converted(folder)[0])["size_label"]
    assert total.endswith("K")
    assert general(converted(folder, f"some-lab/Tiny-{total}-it")[0])["size_label"] == total


@pytest.mark.parametrize("name", [".", "./", "../Tiny-1B-Instruct"])
def test_a_folder_has_a_name_however_it_is_given(folder, monkeypatch, capsys, name):
    card(folder, "license: mit")
    monkeypatch.chdir(folder)
    assert main(["convert", name, "--outtype", "q8_0", "--no-verify", "-o", "../out.gguf"]) == 0, capsys.readouterr()
    assert general(keys_of(folder.parent / "out.gguf"))["name"] == "Tiny 1B Instruct"
    assert main(["convert", name, "--outtype", "q8_0"]) == 0
    assert (folder / "Tiny-1B-Instruct-Q8_0.gguf").exists()


# --- chat templates


def templates_of(keys: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if "chat_template" in key}


TEMPLATES = {"tool-use": "T", "rag": "R", "a.b": "A", "z": "Z", "default": "D"}


def with_templates(folder: Path, where: str) -> None:
    config_path = folder / "tokenizer_config.json"
    listed = [{"name": name, "template": template} for name, template in TEMPLATES.items()]
    (folder / "chat_template.jinja").unlink()
    if where == "config":
        config = json.loads(config_path.read_text("utf-8"))
        config_path.write_text(json.dumps({**config, "chat_template": listed}), "utf-8")
    elif where == "json":
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": listed}), "utf-8")
    else:
        (folder / "chat_template.jinja").write_text("D", "utf-8")
        (folder / "additional_chat_templates").mkdir()
        for name, template in TEMPLATES.items():
            if name != "default":
                (folder / "additional_chat_templates" / f"{name}.jinja").write_text(template, "utf-8")


@pytest.mark.parametrize("where", ["config", "json", "jinja"])
def test_several_chat_templates_are_all_there_in_order_of_name(folder, where):
    with_templates(folder, where)
    found = templates_of(converted(folder)[0])
    names = found.pop("tokenizer.chat_templates")
    assert names == ["a_b", "rag", "tool_use", "z"]
    assert found == {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.a_b": "A",
        "tokenizer.chat_template.rag": "R",
        "tokenizer.chat_template.tool_use": "T",
        "tokenizer.chat_template.z": "Z",
    }


@pytest.mark.parametrize("config", [None, {}, {"chat_template": None}])
def test_a_template_file_counts_without_a_tokenizer_config(folder, config):
    path = folder / "tokenizer_config.json"
    path.unlink() if config is None else path.write_text(json.dumps(config), "utf-8")
    expected = (folder / "chat_template.jinja").read_text("utf-8")
    assert templates_of(converted(folder)[0]) == {"tokenizer.chat_template": expected}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("in_config", "noted"),
    [
        ("{{ old }}", True),
        ("{{ new }}", False),
        ("{{ new }}\n", False),
        ([{"name": "default", "template": "{{ new }}"}], False),
        ([{"name": "default", "template": "{{ old }}"}, {"name": "tool_use", "template": "T"}], True),
        (7, True),
    ],
    ids=str,
)
def test_the_template_file_wins_over_the_tokenizers_settings_as_in_transformers(folder, in_config, noted):
    from transformers import AutoTokenizer

    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text("utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config_path.write_text(json.dumps(config | {"chat_template": in_config}), "utf-8")
    (folder / "chat_template.jinja").write_bytes(b"{{ new }}\r\n")
    keys, notes = converted(folder)
    assert templates_of(keys) == {"tokenizer.chat_template": "{{ new }}\n"}
    assert [note for note in notes if "chat template" in note] == [
        f"{config_path}: its chat template differs from chat_template.jinja, which is used, as by transformers"
    ] * noted
    assert AutoTokenizer.from_pretrained(folder).chat_template == keys["tokenizer.chat_template"]


# --- byte order marks


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
     "README.md"],
)  # fmt: skip
def test_a_byte_order_mark_changes_nothing(folder, name):
    card(folder, "license: mit", "tags: [a]")
    (folder / "generation_config.json").write_text('{"top_k": 7}', "utf-8")
    expected = converted(folder)
    assert (general(expected[0])["license"], general(expected[0])["sampling.top_k"]) == ("mit", 7)
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert converted(folder) == expected


# --- determinism


@pytest.mark.slow
def test_the_same_bytes_from_every_process_and_hash_seed(folder, tmp_path):
    with_templates(folder, "jinja")
    card(folder, "license: mit", "tags: [c, a, b]", "base_model: [x/y, z/w]", "language: [en, ko]")
    files = []
    for seed in ("0", "1", "2"):
        for outtype in ("auto", "q8_0", "q4_k_m"):
            out = tmp_path / f"{outtype}-{seed}.gguf"
            subprocess.run(
                [*CONVERT, str(folder), "-o", str(out), "--outtype", outtype],
                env={**os.environ, "PYTHONHASHSEED": seed},
                check=True,
                capture_output=True,
            )
            files.append((outtype, out.read_bytes()))
    assert len(set(files)) == 3
