"""`darwin-neg eval` as a process: with a model, killed and interrupted, on a terminal, from the hub."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from conftest import ROOT, SmolLM2
from darwin_neg_cpp import DarwinNEG, ModelFileError, NegHeadError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.eval import data, evaluate, gpqa_hub, run, settings
from darwin_neg_cpp.eval.source import LocalModel
from darwin_neg_cpp.neg import info as gguf_info
from darwin_neg_cpp.protocols import ModeConfig
from oracles.hub_server import Hub

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
QUESTIONS = ROOT / "examples" / "questions.csv"
# one sequence at a time, and every candidate to its end: what is in a batch, and who is first, cannot change a bit then
STEADY = ["--n-parallel", "1", "--threads", "1", "--full", "--prompt", "direct"]
SMALL = ["-n", "6", "--samples", "1", "--second-opinions", "2", "--orderings", "2"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a tiny random model with a head."""
    from handmade import good_side_car
    from tiny_gguf import write_tiny_llama

    folder = tmp_path_factory.mktemp("tiny")
    model = write_tiny_llama(folder / "tiny.gguf")
    return ["-m", str(model), "--side-car", str(good_side_car(folder / "tiny.neg.gguf", model))]


def command(tiny: list[str], out: Path, *more: str) -> list[str]:
    return [*CLI, "eval", "gpqa", *tiny, "--data", str(QUESTIONS), "-o", str(out), *STEADY, *SMALL, *more]


def done(args: list[str], code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(args, capture_output=True, text=True, timeout=900, check=False, **options)
    assert result.returncode == code, result.stderr
    return result


def report(folder: Path) -> tuple[Any, str, str]:
    """All three forms without what depends on time."""
    found = json.loads((folder / "report.json").read_text("utf-8"))
    del found["timing"]
    markdown = re.sub(r"## Time\n.*?(?=\n## )", "", (folder / "report.md").read_text("utf-8"), flags=re.DOTALL)
    html = re.sub(r'<h2 id="time">.*?</section>', "", (folder / "report.html").read_text("utf-8"), flags=re.DOTALL)
    for text in (found, markdown, html):
        assert "Session of" not in str(text)
    # the folder's own name is in the command
    name = folder.name
    return (
        json.loads(json.dumps(found).replace(f"-o {name} ", "-o ")),
        markdown.replace(f"-o {name} ", "-o "),
        html.replace(f"-o {name} ", "-o "),
    )


def answers(folder: Path) -> list[dict[str, Any]]:
    """The ledger's answers in the order of the questions, without times."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    found = [{k: v for k, v in one.items() if k not in ("seconds", "at")} for one in lines if "protocol" in one]
    return sorted(found, key=lambda one: (one["n"], one["protocol"]))


# --- killed


@pytest.mark.slow
def test_a_run_killed_at_20_random_moments_gives_the_report_of_an_undisturbed_one(
    tiny: list[str], tmp_path: Path
) -> None:
    more = ("--modes", "0,1,2,3", "--limit", "12")
    done(command(tiny, tmp_path / "whole", *more))
    folder, rng = tmp_path / "killed", random.Random(11)
    ledger = folder / "ledger.jsonl"
    kills = 0
    while kills < 20:
        size = ledger.stat().st_size if ledger.exists() else 0
        with subprocess.Popen(
            command(tiny, folder, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            # a session's line is some 300 bytes, an answer's 300 to 3000: before, in or after one of the next answers
            until = size + rng.choice([0, 1, 300, 2000, 6000]) + rng.randrange(500)
            while process.poll() is None and (ledger.stat().st_size if ledger.exists() else 0) < until:
                time.sleep(0.001)
            time.sleep(rng.random() * 0.02)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            process.send_signal(signal.SIGKILL)
        kills += 1
        if rng.random() < 0.3 and ledger.exists():
            # a moment that a kill hardly ever meets: within a line
            content = ledger.read_bytes()
            ledger.write_bytes(content[: len(content) - rng.randrange(min(200, len(content)))])
    done(command(tiny, folder, *more))
    assert answers(folder) == answers(tmp_path / "whole"), "nothing lost, nothing twice, and every text the same"
    assert report(folder) == report(tmp_path / "whole")
    sessions = json.loads((folder / "report.json").read_text("utf-8"))["timing"]["sessions"]
    assert 5 <= len(sessions) <= 21 and max(session["answers"] for session in sessions) < 72
    check_calls(folder)


def check_calls(folder: Path) -> None:
    """No call was made twice, and each is a candidate of its answer, with its text."""
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text("utf-8").splitlines()]
    calls = [line["call"] for line in lines if "call" in line]
    found = {(call["number"], call["protocol"], call["seed"], call["sample"]): call["text"] for call in calls}
    assert len(found) == len(calls) > 0
    candidates = {
        (line["n"], line["protocol"], one["seed"], one["sample"]): one["text"]
        for line in lines
        if "protocol" in line
        for one in line["candidates"]
    }
    assert found.items() <= candidates.items()


@pytest.mark.slow
def test_a_run_of_many_side_by_side_that_stops_early_survives_kills(tiny: list[str], tmp_path: Path) -> None:
    """What is in a batch may turn a text there, so that the reports need not be equal.

    Nothing is lost or done twice all the same.
    """
    folder, rng = tmp_path / "killed", random.Random(12)
    ledger = folder / "ledger.jsonl"
    run = [*CLI, "eval", "gpqa", *tiny, "--data", str(QUESTIONS), "-o", str(folder), "--prompt", "direct", *SMALL]
    run += ["--modes", "0,2,3", "--limit", "8", "--n-parallel", "4", "--threads", "1"]
    for _ in range(6):
        size = ledger.stat().st_size if ledger.exists() else 0
        with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = size + 500 + rng.randrange(3000)
            while process.poll() is None and (ledger.stat().st_size if ledger.exists() else 0) < until:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
    done(run)
    assert len({(answer["n"], answer["protocol"]) for answer in answers(folder)}) == len(answers(folder)) == 8 * 5
    check_calls(folder)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_says_how_to_go_on(tiny: list[str], tmp_path: Path) -> None:
    """And shows a bar with the time left and the accuracy so far, there alone."""
    folder = tmp_path / "out"
    args = command(tiny, folder, "--modes", "0,2", "--no-control", "-n", "40")
    child = pexpect.spawn(
        args[0],
        args[1:],
        env={**os.environ, "TERM": "xterm"},
        encoding="utf-8",
        timeout=120,
        dimensions=(24, 160),
    )
    child.expect(r"evaluating:\s+\d+%\|")
    child.expect(r"\d+/144 \[[\d:]+<[\d:]+,[^\]]*mode 0 \d+ %[^\]]*\]")
    child.sendintr()
    child.expect("interrupted; the answers so far are in .*the same command resumes")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and "Traceback" not in (child.before or "")
    before = answers(folder)
    assert 0 < len(before) < 144
    result = done(args)
    assert result.stderr == "" and "mode 2" in result.stdout
    after = answers(folder)
    assert len(after) == 144 and all(line in after for line in before)


# --- what is measured


@pytest.mark.slow
def test_modes_0_and_1_generate_the_same_tokens_on_a_real_model(smollm2: SmolLM2, tmp_path: Path) -> None:
    args = ["-m", str(smollm2.model), "--modes", "0,1", "--limit", "4", "--n-parallel", "1", "-n", "16", "-t", "1"]
    done([*CLI, "eval", *args, "--data", str(QUESTIONS), "-o", str(tmp_path / "out"), "--prompt", "direct"])
    found = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert found["greedy"]["tokens_that_differ"] == 0 and found["greedy"]["tokens"] > 40
    assert found["protocols"]["mode 0"]["gate"]["activation_rate"] is None
    assert found["protocols"]["mode 1"]["gate"]["activation_rate"] > 0
    assert found["settings"]["model"]["quantization"] == "Q4_1"


@pytest.mark.slow
def test_the_real_model_says_letters_that_are_read(smollm2: SmolLM2, tmp_path: Path) -> None:
    """The whole of it in one: several questions in one batch, stopped early, all modes and controls."""
    args = ["-m", str(smollm2.model), "--limit", "3", "-n", "12", "-t", "1", "--prompt", "direct", "--samples", "1"]
    result = done([*CLI, "eval", *args, "--data", str(QUESTIONS), "-o", str(tmp_path / "out"), "--json"])
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert list(found["protocols"]) == [*(f"mode {k}" for k in range(4)), "self-consistency 4", "self-consistency 12"]
    assert all(one["questions"] == 3 for one in found["protocols"].values())
    assert found["protocols"]["self-consistency 12"]["unparsed"] < 1
    assert found["protocols"]["mode 3"]["cost_multiple"] > 1


def test_the_same_command_gives_the_same_report_again(tiny: list[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        done(command(tiny, tmp_path / name, "--limit", "2"))
    assert report(tmp_path / "a") == report(tmp_path / "b") and answers(tmp_path / "a") == answers(tmp_path / "b")
    other = tmp_path / "c"
    done(command(tiny, other, "--limit", "2", "--seed", "5"))
    assert answers(other) != answers(tmp_path / "a")


def test_a_report_is_made_again_without_a_model(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done(command(tiny, folder, "--limit", "1", "--modes", "0"))
    before = {name: (folder / name).read_bytes() for name in ("report.json", "report.md", "report.html")}
    for name in before:
        (folder / name).unlink()
    result = done([*CLI, "eval", "--report-only", "-o", str(folder)])
    assert "mode 0" in result.stdout and {name: (folder / name).read_bytes() for name in before} == before


def test_nothing_of_the_questions_is_in_the_report_and_git_is_told_to_leave_the_ledger(
    tiny: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    done(command(tiny, folder, "--limit", "3", "--modes", "2"))
    texts = "".join((folder / name).read_text("utf-8") for name in ("report.json", "report.md", "report.html"))
    for item in data.load(QUESTIONS).items[:3]:
        assert item.question.stem not in texts and item.question.id in texts
        assert not [choice for choice in item.question.choices if len(choice) > 6 and choice in texts]
    (tmp_path / ".git").mkdir()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    status = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--short", "-uall"], capture_output=True, text=True, check=True
    )
    assert "report.md" in status.stdout and "ledger" not in status.stdout


def test_a_gitignore_that_is_there_is_added_to(tiny: list[str], tmp_path: Path) -> None:
    ignore = tmp_path / ".gitignore"
    ignore.write_text("build/")
    for _ in range(2):
        done(command(tiny, tmp_path, "--limit", "1", "--modes", "0"))
    lines = ignore.read_text("utf-8").splitlines()
    assert lines[0] == "build/" and lines.count("ledger*.jsonl") == 1 and len(lines) == 3


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("/home/u/gpqa.csv", "gpqa.csv"),
        ("--data=/home/u/gpqa.csv", "--data=gpqa.csv"),
        ("-m/home/u/a.gguf", "-ma.gguf"),
        ("/home/u/out/", "out"),
        ("a.gguf", "a.gguf"),
        ("--modes", "--modes"),
        ("--temperature=0.5", "--temperature=0.5"),
        ("0,1", "0,1"),
    ],
)
def test_the_command_to_repeat_it_names_no_folder(word: str, shown: str) -> None:
    from darwin_neg_cpp.cli.eval import _command

    assert _command(argparse.Namespace(argv=["eval", word])) == f"darwin-neg eval {shown}"


def test_a_ledger_of_other_settings_is_refused_and_kept(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    args = command(tiny, folder, "--limit", "1", "--modes", "0")
    done(args)
    before = (folder / "ledger.jsonl").read_bytes()
    for more, words in (
        (["--seed", "3"], "protocol.seed was 0, is 3"),
        (["-c", "2048"], "engine.n_ctx was 4096, is 2048"),
    ):
        result = done([*args, *more], 2)
        assert words in result.stderr and "--force" in result.stderr and len(result.stderr.splitlines()) == 1
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("".join(QUESTIONS.read_text("utf-8").splitlines(keepends=True)[:5]), "utf-8")
    result = done([*args, "--data", str(shorter)], 2)
    assert "data.sha256 was" in result.stderr
    assert (folder / "ledger.jsonl").read_bytes() == before
    done([*args, "--seed", "3", "--force"])
    assert (folder / "ledger.1.jsonl").read_bytes() == before


def test_the_names_of_files_do_not_matter(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done(command(tiny, folder, "--limit", "1", "--modes", "0"))
    moved = tmp_path / "moved.gguf"
    shutil.copy(tiny[1], moved)
    done(command(["-m", str(moved), *tiny[2:]], folder, "--limit", "2", "--modes", "0"))
    assert len(answers(folder)) == 2


# --- refused


def test_modes_with_neg_need_a_head_or_are_told_to_do_without(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [
        "eval",
        "-m",
        str(tiny_llama),
        "--data",
        str(QUESTIONS),
        "-o",
        str(tmp_path / "out"),
        "--limit",
        "1",
        *SMALL,
    ]
    args += STEADY
    assert main([*args, "--modes", "0,1"]) == 2
    assert "has no NEG head, which modes 1, 2 and 3 gate with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*args, "--modes", "0"]) == 0
    assert main([*args, "--modes", "0,2", "-o", str(tmp_path / "off"), "--no-gate"]) == 0
    text = (tmp_path / "off" / "report.md").read_text("utf-8")
    assert "2 orderings, greedy, NEG off, majority" in text and "gate active" not in text
    with DarwinNEG(tiny_llama, n_ctx=512, n_parallel=1) as llm, pytest.raises(NegHeadError):
        evaluate.evaluate(llm, data.load(QUESTIONS), tmp_path / "never", modes=(2,))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--modes", "0,4"], "--modes must list some of 0, 1, 2 and 3, or auto"),
        (["--modes", "0,0"], "each once"),
        (["--modes", ""], "--modes"),
        (["--modes", "x"], "--modes"),
        (["--limit", "0"], "limit must be between 1 and"),
        (["--in-flight", "0"], "must be between 1 and"),
        (["--orderings", "27"], "orderings must be between 1 and 26"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--temperature", "-1"], "temperature"),
        (["--seed", "-1"], "seed"),
        (["--prompt", "x"], "invalid choice"),
        (["-c", "64"], "needs about"),
        (["-o", "FILE"], "is a file; give a folder"),
        (["-o", "FILE/below"], "cannot be written to"),
        (["--demo"], "--demo brings its own model"),
        (["--data", "/nowhere.csv"], "/nowhere.csv: no such file"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    (tmp_path / "FILE").touch()
    more = [str(tmp_path / word) if word.startswith("FILE") else word for word in more]
    args = ["eval", *tiny, "--data", str(QUESTIONS), "-o", str(tmp_path / "out"), *more]
    try:
        code = main(args)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1) and words in err, err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no model given"),
        (["-m", "x.gguf"], "no question set given"),
        (["nonsense"], "invalid choice"),
        (["--report-only"], "--report-only needs --out"),
        (["--report-only", "-o", "/nowhere"], "/nowhere/ledger.jsonl: no such file"),
    ],
)
def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    try:
        code = main(["eval", *args])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1) and words in err, err


def test_a_question_that_does_not_fit_is_named_before_anything_runs(tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    rows = QUESTIONS.read_text("utf-8").splitlines(keepends=True)[:3]
    path.write_text("".join([*rows, f"long-one,{'word ' * 400},a,b,c,d,e,f,g\n"]), "utf-8")
    result = done([*command(tiny, tmp_path / "out", "--modes", "0"), "--data", str(path), "-c", "1024"], 2)
    assert "question 'long-one': needs about" in result.stderr and "raise --n-ctx" in result.stderr
    assert not (tmp_path / "out").exists()


def test_bad_questions_can_be_left_out_and_are_counted(tiny: list[str], tmp_path: Path) -> None:
    path = tmp_path / "duplicates.csv"
    path.write_text("What is 2 + 2?,4,4,5,6,A\nWhat is 3 + 3?,4,6,5,7,B\nWhat is 1 + 1?,4,2,4,7,B\n", "utf-8")
    args = [*command(tiny, tmp_path / "out", "--modes", "0"), "--data", str(path)]
    args[args.index("gpqa")] = "mmlu"
    refused = done(args, 2).stderr
    assert "line 1" in refused and refused.endswith(", or leave such questions out with --skip-bad\n")
    result = done([*args, "--skip-bad"])
    assert "left out: line 1" in result.stderr and "1 questions of the file were left out" in result.stdout
    assert "merged: line 3" in result.stderr and "1 questions of the file have equal wrong choices" in result.stdout
    listed = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert '| left out | line 1, column "B": is the same choice as "A"' in listed
    assert '| merged | line 3, column "C": is the same choice as "A"' in listed


# --- the hub


@pytest.fixture
def gated(tmp_path: Path) -> Any:
    """A repository of data as GPQA's is: a token is asked for. 198 made-up questions."""
    folder = tmp_path / "gpqa"
    folder.mkdir()
    rows = [f"r{i},Made-up question {i}?,a{i},b{i},c{i},d{i},Physics\n" for i in range(198)]
    head = (
        "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,High-level domain\n"
    )
    (folder / gpqa_hub.FILE).write_text(head + "".join(rows), "utf-8")
    with Hub(gpqa_hub.REPO, folder, kind="datasets", token="hf_secretsecret") as hub:
        yield hub


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "2", **more}


def test_gpqa_comes_from_the_hub_with_the_users_own_token(gated: Hub, tiny: list[str], tmp_path: Path) -> None:
    args = [*CLI, "eval", "gpqa", *tiny, "-o", "out", *STEADY, *SMALL, "--modes", "0", "--limit", "2"]
    result = done(args, cwd=tmp_path, env=environment(gated, tmp_path / "hf", HF_TOKEN=gated.token))
    assert gated.asked_for(gpqa_hub.FILE) and "hf_secret" not in result.stdout + result.stderr
    folder = tmp_path / "out"
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert found["claims"] and found["settings"]["data"]["questions"] == 198 and found["data"] == gpqa_hub.FILE
    assert "51.01 %" in (folder / "report.md").read_text("utf-8")
    assert all("hf_secret" not in path.read_text("utf-8") for path in folder.iterdir())
    # the second time nothing is fetched, and without network it continues too
    before = len(gated.asked_for(gpqa_hub.FILE))
    done(args, cwd=tmp_path, env=environment(gated, tmp_path / "hf", HF_HUB_OFFLINE="1"))
    assert len(gated.asked_for(gpqa_hub.FILE)) == before


@pytest.mark.parametrize("token", ["", "hf_wrong", "hf_secretsecret"])
def test_a_gated_set_without_access_is_one_line_that_says_what_to_do(
    gated: Hub, tiny: list[str], tmp_path: Path, token: str
) -> None:
    gated.gated = True
    args = [*CLI, "eval", "gpqa", *tiny, "-o", str(tmp_path / "out")]
    result = done(args, 1, env=environment(gated, tmp_path / "hf", **({"HF_TOKEN": token} if token else {})))
    (line,) = result.stderr.splitlines()
    assert "Idavidrein/gpqa" in line and "accept its terms" in line and "--data" in line and "hf_" not in line
    assert not (tmp_path / "out").exists()


# --- from Python


def test_the_harness_is_a_function_too(tiny: list[str], tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    config = ModeConfig(max_tokens=4, prompt="direct")
    with DarwinNEG(tiny[1], tiny[3], n_ctx=2048, n_parallel=2, n_threads=1) as llm:
        found = evaluate.evaluate(
            llm,
            data.load(QUESTIONS),
            tmp_path / "a" / "b",
            modes=(0,),
            config=config,
            side_car=tiny[3],
            limit=3,
            progress=lambda count, total, right: progress.append((count, total)),
        )
        assert llm.stats()["kv_cells_used"] == 0, "nothing is left running"
        items = data.load(QUESTIONS).items[:1]
        run.check_fits(LocalModel(llm), items, [], config)
    assert progress == [(0, 3), (1, 3), (2, 3), (3, 3)] and found["protocols"]["mode 0"]["questions"] == 3


def test_the_example_of_the_documentation_runs(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # the first is about servers; see tests/remote
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "model.gguf").symlink_to(tiny[1])
    (tmp_path / "head.gguf").symlink_to(tiny[3])
    (tmp_path / "examples").mkdir()
    few = QUESTIONS.read_text("utf-8").splitlines(keepends=True)[:3]
    (tmp_path / "examples" / "questions.csv").write_text("".join(few), "utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "evaluation.md", "exec"), {})
    assert "mode 2" in capsys.readouterr().out and (tmp_path / "out" / "report.html").is_file()


def test_without_out_the_folder_is_named_after_model_and_data(tiny: list[str], tmp_path: Path) -> None:
    args = [*CLI, "eval", *tiny, "--data", str(QUESTIONS), *STEADY, *SMALL, "--modes", "0", "--limit", "1"]
    result = done(args, cwd=tmp_path)
    assert (tmp_path / "eval-tiny-questions" / "ledger.jsonl").is_file() and "eval-tiny-questions" in result.stdout


def test_all_parts_of_a_split_model_are_hashed(tiny_llama: Path) -> None:
    first = tiny_llama.with_name("m-00001-of-00002.gguf")
    about = dataclasses.replace(gguf_info.info(tiny_llama), split_count=2)
    with pytest.raises(ModelFileError, match="no such file; it is a part of"):
        settings._find_parts(str(first), about)
    names = [str(first), str(tiny_llama.with_name("m-00002-of-00002.gguf"))]
    for name in names:
        Path(name).touch()
    assert settings._find_parts(str(first), about) == names


def test_mode_auto_by_true_entropy_records_it_for_the_whole_ledger_and_resumes(tiny: list[str], tmp_path: Path) -> None:
    args = command(tiny, tmp_path / "out", "--modes", "1,auto", "--limit", "3", "--auto-signal", "true_mean_entropy")
    first = done(args)
    assert first.stdout == done(args).stdout
    lines = [json.loads(line) for line in (tmp_path / "out/ledger.jsonl").read_text("utf-8").splitlines()]
    answers = [line for line in lines if "candidates" in line]
    assert {line["protocol"] for line in answers} >= {"mode 1", "mode auto"}
    signals = [one["signals"] for line in answers for one in line["candidates"] if one.get("signals")]
    assert len(signals) > 6 and all(one["true_mean_entropy"] > 0 for one in signals)
