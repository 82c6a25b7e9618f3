"""`darwin-neg trace`: its files, its refusals, and what it prints."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import SmolLM2
from darwin_neg_cpp import demo_model
from darwin_neg_cpp.cli import main as cli
from darwin_neg_cpp.cli.trace import json_text
from darwin_neg_cpp.files.shown_text import is_unseen
from darwin_neg_cpp.trace import render_page
from made_up_trace import UNSEEN, made_up
from tiny_gguf import write_tiny_llama

CLI = [sys.executable, "-m", "darwin_neg_cpp"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], input="", capture_output=True, text=True, timeout=120, check=False)


def test_the_json_is_json_whatever_the_threshold() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found = made_up(["a", "b", "c"], threshold=math.inf)
    assert json.loads(json_text(found), parse_constant=refuse)["threshold"] is None
    assert "threshold infinite (never active)" in render_page(found)


def test_the_json_holds_nothing_that_a_terminal_would_obey_or_hide() -> None:
    found = made_up(["a", UNSEEN, "한국어 é"])
    text = json_text(found)
    assert not [c for c in text if is_unseen(c) and c != "\n"] and "한국어 é" in text
    assert json.loads(text)["tokens"][1]["text"] == UNSEEN


@pytest.mark.slow
def test_the_command_writes_page_and_json(smollm2: SmolLM2, tmp_path: Path, opened: Any) -> None:
    html, data = tmp_path / "out.html", tmp_path / "out.json"
    common = ["-m", str(smollm2.model), "-n", "12", "--seed", "1"]
    out = run("trace", "Once upon a time", *common, "--html", str(html), "--json-out", str(data))
    assert out.returncode == 0 and "gate active" in out.stderr, out.stderr
    found = json.loads(data.read_text("utf-8"))
    assert len(found["tokens"]) == found["prompt_tokens"] + 12 and found["summary"]["tokens"] == 12
    tab = opened(html.read_text("utf-8"))
    assert tab.locator(".t").count() == len(found["tokens"])
    again = run("trace", "Once upon a time", *common, "--json")
    assert json.loads(again.stdout)["tokens"] == found["tokens"]
    shown = run("trace", "--text", "Given text, as it is.", "-m", str(smollm2.model), "--color", "always")
    assert shown.returncode == 0 and "\033[30;48;5;" in shown.stdout
    plain = run("trace", "--text", "Given text, as it is.", "-m", str(smollm2.model))
    assert plain.stdout == "Given text, as it is.\n"


def test_what_cannot_be_traced_is_refused(smollm2: SmolLM2, tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("old")
    common = ["trace", "-m", str(smollm2.model)]
    for args, words in (
        (common, "0 of PROMPT"),
        ([*common, "a", "--text", "b"], "2 of PROMPT"),
        ([*common, "a", "--html", str(tmp_path / "there.html")], "exists already"),
        ([*common, "a", "--html", str(tmp_path / "x"), "--json-out", str(tmp_path / "x")], "same file"),
        ([*common, "--text", "@/nope"], "/nope"),
        ([*common, "--text", "a"], "fewer than two"),
        ([*common, "--text", "a b", "--chat"], "--chat acts on generation"),
        ([*common, "--text", "a b", "--neg", "sample"], "--neg sample acts on generation"),
        ([*common, "--text", "a b", "--neg-top-k", "5"], "--neg-top-k acts on generation"),
        ([*common, "--text", "a b", "--temp-scale"], "--temp-scale acts on generation"),
        ([*common, "a " * 5000], "context"),
    ):
        out = run(*args)
        assert out.returncode == 2 and len(out.stderr.splitlines()) == 1 and words in out.stderr, out.stderr
    assert (tmp_path / "there.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("output", ["--html", "--json-out"])
@pytest.mark.parametrize("way", ["itself", "link"])
@pytest.mark.parametrize(
    "reading",
    [
        ["a", "-m", "FILE"],
        ["a", "-m", "other", "--side-car", "FILE"],
        ["-m", "other", "-f", "FILE"],
        ["-m", "other", "--text", "@FILE"],
        ["a", "-m", "other", "--grammar-file", "FILE"],
        ["a", "-m", "other", "--json-schema", "@FILE"],
        ["a", "--demo"],
        ["a", "--demo", "--seed", "1"],
    ],
    ids=["model", "side-car", "prompt", "text", "grammar", "schema", "demo model", "demo head"],
)
def test_no_output_replaces_what_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reading: list[str],
    way: str,
    output: str,
) -> None:
    read, out, other = tmp_path / "read", tmp_path / "link", tmp_path / "other"
    for path in (read, other):
        path.write_text('{"type": "object"}')
    out.symlink_to(read)
    pair = (other, read) if "--seed" in reading else (read, other)
    monkeypatch.setattr(demo_model, "model_and_head", lambda: pair)
    args = [word.replace("FILE", str(read)).replace("other", str(other)) for word in reading]
    assert cli.main(["trace", *args, output, str(read if way == "itself" else out), "--force"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "output and input are the same file" in line
    assert read.read_text() == '{"type": "object"}' and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("names", [("out", "there/../out"), ("out", "link"), ("old", "hard")])
def test_page_and_json_are_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("link").symlink_to("out")
    Path("old").write_text("old")
    Path("hard").hardlink_to("old")
    assert cli.main(["trace", "a", "-m", "model", "--html", names[0], "--json-out", names[1], "--force"]) == 2
    assert "name the same file" in capsys.readouterr().err


def test_a_page_named_like_standard_output_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("old")
    assert cli.main(["trace", "a", "-m", "model", "--html", "-"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_command_traces_a_text_with_the_gate_that_was_asked_for(smollm2: SmolLM2) -> None:
    common = ["trace", "--text", "Given text, as it is.", "-m", str(smollm2.model), "--json"]
    out = run(*common, "--neg-threshold", "0")
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert found["threshold"] == 0 and [one["active"] for one in found["tokens"]] == [
        one["predicted"] is not None and one["predicted"] > 0 for one in found["tokens"]
    ]
    assert any(token["active"] for token in found["tokens"])
    out = run(*common, "--neg", "off")
    assert json.loads(out.stdout)["action"] == "off" and "gate off]" in out.stderr


def test_the_demo_model_is_traced_with_the_packages_head() -> None:
    out = run("trace", "--demo", "The quick brown fox", "-n", "4", "--temp", "0", "--json")
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["model"] == demo_model.MODEL


def test_a_chat_begins_with_the_models_start_token(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    model = write_tiny_llama(tmp_path / "model.gguf", chat_template=template)
    out = run("trace", "hi", "--chat", "-m", str(model), "-n", "2", "--json")
    assert out.returncode == 0, out.stderr
    found = json.loads(out.stdout)
    assert [token["text"] for token in found["tokens"][:3]] == ["<s>", "h", "i"]
    assert found["prompt_tokens"] == 3
