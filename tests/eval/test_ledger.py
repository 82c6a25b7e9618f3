"""The ledger and the run: nothing lost, nothing done twice, whatever happens in between. The sampler is scripted."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from darwin_neg_cpp import DarwinNegError, RequestError
from darwin_neg_cpp.errors import OutputError
from darwin_neg_cpp.eval import data, ledger, ledger_lines, plans, run, settings, summary
from darwin_neg_cpp.protocols import ModeConfig, Protocol
from darwin_neg_cpp.protocols.sampler import Output
from scripted_sampler import ScriptedSampler, letters, said

ITEMS = data.load(ROOT / "examples" / "questions.csv").items[::9]  # 8 questions over 6 domains
CONFIG = ModeConfig(seed=7)


def made_settings(config: ModeConfig = CONFIG, **more: Any) -> dict[str, Any]:
    base = {"version": "1", "data": {"questions": len(ITEMS), "kind": "gpqa"}, "engine": {"n_ctx": 64}}
    protocol = {**settings.asdict(config), "early_stop": more.pop("early_stop", False)}
    return {**base, "protocol": protocol, **more}


def evaluate(
    folder: Path, sampler: ScriptedSampler, *, early_stop: bool = False, in_flight: int = 3, modes: Any = (0, 1, 2, 3)
) -> None:
    chosen = plans.choose(modes, CONFIG)
    made = made_settings(early_stop=early_stop)
    with ledger.open_ledger(folder / ledger.NAME, made, {"data": "d.csv", "model": "m"}, command="x") as opened:
        run.run(sampler, ITEMS, chosen, CONFIG, opened, early_stop=early_stop, in_flight=in_flight)


def report(folder: Path) -> dict[str, Any]:
    found = summary.summarize(ledger.read(folder / ledger.NAME))
    del found["timing"]
    return found


def keys(folder: Path) -> list[tuple[int, str]]:
    """Of the answers, in order."""
    return keys_of((folder / ledger.NAME).read_bytes())


def keys_of(content: bytes) -> list[tuple[int, str]]:
    lines = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]
    return [(line["n"], line["protocol"]) for line in lines if "protocol" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(folder, ScriptedSampler())
    return folder


# --- what is written


def test_every_question_is_answered_under_every_protocol_with_all_candidates(whole: Path) -> None:
    names = ["mode 0", "mode 1", "mode 2", "mode 3", "self-consistency 4", "self-consistency 20"]
    assert sorted(keys(whole)) == sorted((n, name) for n in range(len(ITEMS)) for name in names)
    lines = [json.loads(line) for line in (whole / ledger.NAME).read_text("utf-8").splitlines()]
    for line in (line for line in lines if "protocol" in line):
        assert len(line["candidates"]) == line["planned"] == line["finished"]
        assert [candidate["number"] for candidate in line["candidates"]] == list(range(line["planned"]))
        assert sum(candidate["tokens"] for candidate in line["candidates"]) == line["completion_tokens"]
        assert all(
            candidate["text"] and candidate["ordering"] and "seed" in candidate for candidate in line["candidates"]
        )
        votes = Counter(candidate["choice"] for candidate in line["candidates"] if candidate["choice"] is not None)
        assert line["votes"] == [votes[i] for i in range(4)]
        assert ("token_ids" in line["candidates"][0]) == (line["protocol"] in ("mode 0", "mode 1"))


def test_a_question_is_finished_under_all_protocols_before_the_next_but_one_begins(tmp_path: Path) -> None:
    """So that an unfinished run compares modes on the same questions."""
    evaluate(tmp_path, ScriptedSampler(), in_flight=1)
    assert [n for n, _ in keys(tmp_path)] == [n for n in range(len(ITEMS)) for _ in range(6)]


def test_a_question_with_a_merged_choice_is_asked_and_voted_on_with_three(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    head = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
    path.write_text(head + "r1,q,a,b,b,d\nr2,p,a,b,c,d\n", "utf-8")
    found = data.load(path)
    notes = settings.describe_files({"model": "m"}, found)
    sampler = ScriptedSampler()
    with ledger.open_ledger(tmp_path / ledger.NAME, made_settings(), notes) as opened:
        run.run(sampler, found.items, plans.choose((0, 1, 2, 3), CONFIG), CONFIG, opened, early_stop=False)
    asked = [job.prompt for job in sampler.jobs if "\nq\n" in job.prompt and "An argument for" not in job.prompt]
    assert asked and all("one of ABC." in prompt and "\nD) " not in prompt for prompt in asked)
    contents = ledger.read(tmp_path / ledger.NAME)
    of_mode = {(outcome.question, outcome.protocol.name): outcome for outcome in contents.outcomes}
    assert {outcome.n_choices for outcome in contents.outcomes if outcome.question == "r1"} == {3}
    # three orderings instead of four: greedy in mode 2, and three samples more in mode 3
    assert (of_mode["r1", "mode 2"].planned, of_mode["r2", "mode 2"].planned) == (3, 4)
    assert of_mode["r1", "mode 3"].planned - of_mode["r1", "mode 3"].second_opinions == 12
    summed = summary.summarize(contents)
    assert summed["chance"] == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert summed["merged"] == list(found.merged) and summed["left_out"] == []
    assert summed["names"] == {"model": "m", "data": "set.csv", "diamond": False}


# --- resuming


@pytest.mark.parametrize("cut", range(20))
def test_an_interrupted_run_goes_on_to_the_same_report(tmp_path: Path, whole: Path, cut: int) -> None:
    rng = random.Random(cut)
    first = ScriptedSampler(fail_after=rng.randrange(350), shuffle=cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, first)
    assert first.closed
    before = keys(tmp_path)
    second = ScriptedSampler(shuffle=cut + 1000)
    evaluate(tmp_path, second)
    assert keys(tmp_path)[: len(before)] == before, "nothing lost"
    assert max(Counter(keys(tmp_path)).values()) == 1, "nothing twice"
    assert report(tmp_path) == report(whole)
    calls = Counter(first.said + second.said)
    assert max(calls.values()) == 1, "no call twice"
    assert len(calls) == sum(outcome.planned for outcome in ledger.read(whole / ledger.NAME).outcomes)


def test_calls_of_an_answer_that_was_not_settled_are_kept(tmp_path: Path) -> None:
    first = ScriptedSampler(fail_after=11)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, first, modes=(3,), in_flight=1)
    assert keys(tmp_path) == [] and len(first.said) == 11
    second = ScriptedSampler(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, second, modes=(3,), in_flight=1)
    assert len(second.said) == 2 and not set(first.said) & set(second.said)
    # two prompts had all of their four samples: of the third the missing one, of the last all
    assert [(len(job.temperatures), job.only) for job in second.jobs] == [(1, 3), (4, None)]


AUTO = ModeConfig(seed=7, auto_first_threshold=0.4, auto_second_threshold=0.72)


def evaluate_auto(folder: Path, sampler: ScriptedSampler, modes: Any = (1, 2, 3, "auto")) -> None:
    chosen = plans.choose(modes, AUTO, controls=False)
    with ledger.open_ledger(folder / ledger.NAME, made_settings(AUTO), {}, command="x") as opened:
        run.run(sampler, ITEMS, chosen, AUTO, opened, early_stop=False, in_flight=3)


@pytest.mark.parametrize("cut", range(4))
def test_mode_auto_interrupted_goes_on_to_the_same_report(tmp_path: Path, cut: int) -> None:
    undisturbed, resumed = tmp_path / "undisturbed", tmp_path / "resumed"
    for folder in (undisturbed, resumed):
        folder.mkdir()
    evaluate_auto(undisturbed, ScriptedSampler())
    first = ScriptedSampler(fail_after=random.Random(cut).randrange(180), shuffle=cut)
    with pytest.raises(KeyboardInterrupt):
        evaluate_auto(resumed, first)
    second = ScriptedSampler(shuffle=cut + 1000)
    evaluate_auto(resumed, second)
    assert report(resumed) == report(undisturbed)
    calls = Counter(first.said + second.said)
    assert max(calls.values()) == 1, "no call twice, those of an earlier stage included"
    outcomes = ledger.read(undisturbed / ledger.NAME).outcomes
    assert len(calls) == sum(outcome.planned for outcome in outcomes)
    # candidate for candidate what the mode gives in which it ended
    by = {(outcome.number, outcome.protocol.name): outcome for outcome in outcomes}
    ends: set[int] = set()
    for number in range(len(ITEMS)):
        auto = by[number, "mode auto"]
        mode = {1: 1, len(ITEMS[number].question.choices): 2}.get(auto.planned, 3)
        ends.add(mode)
        assert auto.calls == tuple(replace(call, token_ids=auto.calls[i].token_ids)
                                   for i, call in enumerate(by[number, f"mode {mode}"].calls))  # fmt: skip
    assert ends == {1, 2, 3}


def test_settings_of_mode_auto_are_written_where_they_are_no_defaults() -> None:
    def protocol(config: ModeConfig) -> Any:
        found = data.DataSet("d", "jsonl", "0", ())
        described = settings.describe_run({}, found, config, build={}, early_stop=True, engine={})
        return json.loads(ledger_lines.encode_line(described))

    assert not [name for name in protocol(CONFIG)["protocol"] if name.startswith("auto_")], "older ledgers go on"
    for config in (AUTO, ModeConfig(auto_first_threshold=float("inf"), auto_signal="logprob")):
        assert settings.read_config(protocol(config)) == config


def test_a_kept_call_of_another_prompt_is_not_taken(tmp_path: Path) -> None:
    first = ScriptedSampler(fail_after=5)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, first, modes=(3,), in_flight=1)
    path = tmp_path / ledger.NAME
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for line in lines:
        if "call" in line:
            line["call"]["prompt"] = "0" * 16
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    second = ScriptedSampler()
    evaluate(tmp_path, second, modes=(3,), in_flight=1)
    assert set(first.said) <= set(second.said)


def test_a_ledger_cut_at_any_byte_goes_on_to_the_same_report(tmp_path: Path, whole: Path) -> None:
    """What a crash leaves: any beginning of the file."""
    content = (whole / ledger.NAME).read_bytes()
    rng = random.Random(5)
    ends = [content.index(b"\n", rng.randrange(len(content))) for _ in range(10)]
    cuts = [0, 1, 50, *ends, *(end + 1 for end in ends[:5]), *(rng.randrange(len(content)) for _ in range(15))]
    for i, cut in enumerate(cuts):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / ledger.NAME).write_bytes(content[:cut])
        sampler = ScriptedSampler()
        evaluate(folder, sampler)
        kept = len(keys_of(content[:cut]))
        assert keys(folder)[:kept] == keys(whole)[:kept], "nothing lost"
        assert max(Counter(keys(folder)).values()) == 1, "nothing twice"
        assert report(folder) == report(whole), cut


def test_signals_of_every_candidate_are_written_and_read_back(whole: Path) -> None:
    wanted = {"max_entropy", "last_quarter_entropy", "letter_entropy", "letter_logprob", "logprob"}
    for outcome in ledger.read(whole / ledger.NAME).outcomes:
        assert [call.number for call in outcome.calls] == list(range(len(outcome.calls)))
        for call in outcome.calls:
            assert call.signals is not None and call.signals.max_entropy == 2 * (call.mean_entropy or 0)
            assert call.signals.letter_logprob is None or call.how == "answer"
    line = next(line for line in (whole / ledger.NAME).read_text("utf-8").splitlines() if '"how":"answer"' in line)
    said = next(one for one in json.loads(line)["candidates"] if one["how"] == "answer")
    assert set(said["signals"]) == wanted, "what there is not takes no room"


def without_signals(content: bytes) -> bytes:
    """The same ledger as a version that knew of no signals wrote it."""
    lines = []
    for line in map(json.loads, content.splitlines()):
        for entry in (line.get("call", {}), *line.get("candidates", ())):
            entry.pop("signals", None)
        lines.append(ledger_lines.encode_line(line))
    return b"".join(lines)


def test_a_ledger_of_a_version_without_signals_is_read_and_resumed(tmp_path: Path, whole: Path) -> None:
    old = without_signals((whole / ledger.NAME).read_bytes())
    path = tmp_path / ledger.NAME
    path.write_bytes(b"".join(old.splitlines(keepends=True)[:-9]))
    assert all(call.signals is None for outcome in ledger.read(path).outcomes for call in outcome.calls)
    evaluate(tmp_path, ScriptedSampler())
    known = [call.signals is not None for outcome in ledger.read(path).outcomes for call in outcome.calls]
    assert 0 < sum(known) < len(known)
    assert report(tmp_path)["protocols"] == report(whole)["protocols"]


@pytest.mark.parametrize("value", ["much", True, -0.5, [1]])
def test_a_signal_that_is_no_number_is_a_bad_line(tmp_path: Path, whole: Path, value: object) -> None:
    lines = (whole / ledger.NAME).read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[2])
    entry["candidates"][0]["signals"]["max_entropy"] = value
    (tmp_path / ledger.NAME).write_bytes(b"".join([*lines[:2], ledger_lines.encode_line(entry), *lines[3:]]))
    with pytest.raises(RequestError, match="line 3: is not a line of a ledger"):
        ledger.read(tmp_path / ledger.NAME)


def test_a_last_line_of_zeros_is_cut_off_too(tmp_path: Path, whole: Path) -> None:
    """Some file systems leave them after a power failure."""
    content = (whole / ledger.NAME).read_bytes()
    end = content[:-1].rindex(b"\n") + 1
    (tmp_path / ledger.NAME).write_bytes(content[:end] + bytes(300) + b"\n")
    evaluate(tmp_path, ScriptedSampler())
    assert report(tmp_path) == report(whole)


def test_a_finished_run_asks_the_model_nothing(tmp_path: Path, whole: Path) -> None:
    (tmp_path / ledger.NAME).write_bytes((whole / ledger.NAME).read_bytes())
    sampler = ScriptedSampler()
    evaluate(tmp_path, sampler)
    assert sampler.jobs == [] and report(tmp_path) == report(whole)


def test_modes_may_be_added_later(tmp_path: Path, whole: Path) -> None:
    evaluate(tmp_path, ScriptedSampler(), modes=(0,))
    assert set(report(tmp_path)["protocols"]) == {"mode 0"}
    sampler = ScriptedSampler()
    evaluate(tmp_path, sampler)
    assert report(tmp_path) == report(whole)
    assert len([key for key in keys(tmp_path) if key[1] == "mode 0"]) == len(ITEMS)


def test_the_order_in_which_candidates_finish_changes_no_answer(tmp_path: Path, whole: Path) -> None:
    for shuffle in (1, 2):
        folder = tmp_path / str(shuffle)
        folder.mkdir()
        evaluate(folder, ScriptedSampler(shuffle=shuffle), in_flight=5)
        assert report(folder) == report(whole)


def test_early_stopping_gives_the_answers_of_the_full_run_for_less(tmp_path: Path, whole: Path) -> None:
    evaluate(tmp_path, ScriptedSampler(shuffle=3), early_stop=True)
    early, full = report(tmp_path), report(whole)
    assert early["questions"] == full["questions"]
    for name in ("mode 2", "mode 3", "self-consistency 20"):
        assert early["protocols"][name]["right"] == full["protocols"][name]["right"]
        assert early["protocols"][name]["inferences"]["saved"] > 0
        assert full["protocols"][name]["inferences"]["saved"] == 0
    assert early["protocols"]["mode 3"]["cost_multiple"] < full["protocols"]["mode 3"]["cost_multiple"]


def test_a_model_that_always_says_the_same_letter_gets_chance(tmp_path: Path) -> None:
    """If the position gave the right answer away, this would show."""
    items = data.load(ROOT / "examples" / "questions.csv").items
    for letter in "AD":
        folder = tmp_path / letter
        folder.mkdir()
        sampler = ScriptedSampler(lambda job, k, letter=letter: said(f"Answer: {letter}"))
        with ledger.open_ledger(folder / ledger.NAME, made_settings(), {}) as opened:
            run.run(sampler, items, plans.choose((0, 2, 3), CONFIG, controls=False), CONFIG, opened, early_stop=False)
        for name, one in report(folder)["protocols"].items():
            low, high = one["interval"]
            assert low <= 0.25 <= high, name
        assert report(folder)["protocols"]["mode 2"]["tied"] == 1.0, (
            "over four orderings it votes for every choice once"
        )


def test_a_model_that_knows_gets_all_of_them_right(tmp_path: Path) -> None:
    right = {item.question.stem: item.question.choices[item.right] for item in ITEMS}

    def knows(job: Any, k: int) -> Any:
        (choice,) = (text for stem, text in right.items() if stem in job.prompt)
        (letter,) = (c for c in letters(job) if f"\n{c}) {choice}\n" in job.prompt + "\n")
        return said(f"Answer: {letter}")

    evaluate(tmp_path, ScriptedSampler(knows))
    for one in report(tmp_path)["protocols"].values():
        assert one["accuracy"] == 1.0 and one["unparsed"] == 0.0


# --- settings


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    evaluate(tmp_path, ScriptedSampler(), modes=(0,))
    before = (tmp_path / ledger.NAME).read_bytes()
    for made, words in (
        (made_settings(ModeConfig(seed=8)), "protocol.seed was 7, is 8"),
        (made_settings(version="2"), "version was 1, is 2"),
        (made_settings(early_stop=True), "protocol.early_stop was False, is True"),
        (made_settings(more=1), "more was None, is 1"),
        (made_settings(engine={}), "engine.n_ctx was 64, is None"),
    ):
        with pytest.raises(RequestError, match=words), ledger.open_ledger(tmp_path / ledger.NAME, made, {}):
            pass
    assert (tmp_path / ledger.NAME).read_bytes() == before, "earlier results kept"


def test_the_settings_of_a_file_without_equal_choices_are_those_of_older_ledgers(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    written = {}
    for choice in "cb":
        path.write_text(f"q,a,b,{choice},d,A\n", "utf-8")
        described = settings.describe_run({}, data.load(path), CONFIG, build={}, early_stop=True, engine={})["data"]
        written[choice] = {key: value for key, value in described.items() if key != "sha256"}
    assert written["c"] == {"kind": "mmlu", "questions": 1, "skipped": 0}
    assert written["b"] == {**written["c"], "merged": 1}


@pytest.mark.parametrize("notes", ["line 3", [3], {"line": 3}, None])
def test_a_list_of_left_out_questions_that_is_none_is_not_read(tmp_path: Path, notes: object) -> None:
    line = ledger_lines.encode_header(made_settings(), {"data": "d", "left_out": notes})
    (tmp_path / ledger.NAME).write_bytes(line)
    with pytest.raises(RequestError, match=r"line 1: is not a line of a ledger"):
        ledger.read(tmp_path / ledger.NAME)


def test_force_starts_again_and_keeps_the_old_ledger(tmp_path: Path) -> None:
    path = tmp_path / ledger.NAME
    for k in range(3):
        with ledger.open_ledger(path, made_settings(version=str(k)), {}, force=True) as opened:
            assert opened.done == set()
    assert [settings_of(tmp_path / name) for name in (ledger.NAME, "ledger.1.jsonl", "ledger.2.jsonl")] == [
        "2",
        "0",
        "1",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_force_does_not_take_the_ledger_from_under_a_run(tmp_path: Path) -> None:
    path = tmp_path / ledger.NAME
    with ledger.open_ledger(path, made_settings(), {}):
        with (
            pytest.raises(OutputError, match="another evaluation"),
            ledger.open_ledger(path, made_settings(), {}, force=True),
        ):
            pass
        assert os.listdir(tmp_path) == [ledger.NAME]


@pytest.mark.parametrize("content", [b"my own notes, without an end of the line", b'{"darwin": 1}', b"\0\0x"])
def test_a_file_that_is_no_ledger_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / ledger.NAME
    path.write_bytes(content)
    with pytest.raises(RequestError, match="not a ledger"):
        evaluate(tmp_path, ScriptedSampler())
    assert path.read_bytes() == content


def settings_of(path: Path) -> str:
    return str(ledger.read(path).settings["version"])


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (1, b"{}\n"),
        (1, b"[]\n"),
        (1, b"\xff\xfe\n"),
        (1, b'{"darwin_neg_eval": 2, "settings": {}, "names": {}}\n'),
        (1, b'{"darwin_neg_eval": 1, "settings": {}, "names": {}}\n'),
        (1, b"Record ID,Question\n"),
        (4, b"{}\n"),
        (4, b'{"session": 1}\n'),
        (4, b'{"session": {"started": "x"}}\n'),
        (4, b"\n"),
        (4, b"[" * 100_000 + b"\n"),
        (4, "repeated"),
        (4, "no candidates"),
        (4, "wrong type"),
        (4, {"n": -1}),
        (4, {"n": 1.5}),
        (4, {"n": "1e999"}),
        (4, {"choice": 9}),
        (4, {"right": 4}),
        (4, {"finished": 99}),
        (4, {"protocol": "mode \u00b2"}),
        (4, {"protocol": 7}),
        (4, {"seconds": float("nan")}),
        (4, {"at": float("inf")}),
        (4, {"completion_tokens": -1}),
        (4, b'{"session": {"started": 1e30, "command": "", "machine": {}}}\n'),
        (4, b'{"session": {"started": 1, "command": "", "machine": {"a": NaN}}}\n'),
        (4, b'{"call": {"number": 1}}\n'),
        (1, {"protocol": {"seed": -1}}),
        (1, {"protocol": {"prompt": "unknown"}}),
        (1, {"data": []}),
    ],
)
def test_a_damaged_line_is_named_and_left_as_it_is(tmp_path: Path, whole: Path, line: int, content: Any) -> None:
    lines = (whole / ledger.NAME).read_bytes().splitlines(keepends=True)
    # calls may stand anywhere and are not looked at here
    lines = [line for line in lines if not line.startswith(b'{"call"')]
    if content == "repeated":
        content = lines[2]
    elif not isinstance(content, bytes):
        entry = json.loads(lines[line - 1])
        if isinstance(content, str):
            content = {"candidates": []} if content == "no candidates" else {"votes": 7}
        (entry["settings"] if line == 1 else entry).update(content)
        content = json.dumps(entry).replace('"1e999"', "1e999").encode() + b"\n"
    lines[line - 1] = content
    path = tmp_path / ledger.NAME
    path.write_bytes(b"".join(lines))
    with pytest.raises(RequestError) as caught:
        evaluate(tmp_path, ScriptedSampler())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert f"line {line}" in str(caught.value) or "format 2" in str(caught.value)
    assert path.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_a_report_needs_a_ledger(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder" / ledger.NAME).mkdir(parents=True)
    with pytest.raises(DarwinNegError):
        ledger.read(tmp_path / name / ledger.NAME)


def test_an_empty_ledger_holds_no_evaluation(tmp_path: Path) -> None:
    (tmp_path / ledger.NAME).touch()
    with pytest.raises(RequestError, match="holds no evaluation"):
        ledger.read(tmp_path / ledger.NAME)


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_processes_cannot_write_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / ledger.NAME
    code = (
        "import sys, time; from pathlib import Path; from darwin_neg_cpp.eval import ledger\n"
        f"with ledger.open_ledger(Path({str(path)!r}), {made_settings()!r}, {{}}):\n"
        "    print('open', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "open\n"
        with pytest.raises(OutputError, match="another evaluation"), ledger.open_ledger(path, made_settings(), {}):
            pass
        other.kill()
    with ledger.open_ledger(path, made_settings(), {}):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # permissions mean nothing to root
    path = tmp_path / "file" / ledger.NAME
    with pytest.raises(OutputError, match="cannot be written"), ledger.open_ledger(path, made_settings(), {}):
        pass


def test_text_that_is_no_text_and_numbers_that_are_none_are_written_down(tmp_path: Path) -> None:
    sampler = ScriptedSampler(
        lambda job, k: said("Answer: A \ud800 \u2028\0", entropy=float("nan"), active=float("inf"))
    )
    evaluate(tmp_path, sampler, modes=(0,))
    assert report(tmp_path)["protocols"]["mode 0"]["gate"] is None


# --- which protocols, how many at once


def test_controls_have_as_many_samples_as_their_modes() -> None:
    names = [(plan.name, plan.neg, plan.candidates) for plan in plans.choose((3, 2, 0), CONFIG)]
    assert names == [
        ("mode 0", False, 1),
        ("mode 2", True, 4),
        ("mode 3", True, 16),
        ("self-consistency 4", False, 4),
        ("self-consistency 20", False, 20),
    ]
    assert not any(plan.neg for plan in plans.choose((0, 1, 2, 3), ModeConfig(gate=False)))
    for modes in ((), (0, 0), (4,), (1.0,), (True,), ("1",), "12", 3, (0, 2.0)):
        with pytest.raises(RequestError, match="mode"):
            plans.choose(modes, CONFIG)  # type: ignore[arg-type]
    assert plans.choose(np.arange(4), CONFIG) == plans.choose((0, 1, 2, 3), CONFIG)


def test_a_control_that_would_be_too_large_is_refused_with_the_numbers_that_make_it_so() -> None:
    config = ModeConfig(orderings=26, samples=100)
    with pytest.raises(RequestError) as error:
        plans.choose((3,), config)
    said = str(error.value)
    assert re.search(r"^mode 3: with orderings=26 and samples=100, its control .* 1000 .*controls=False", said)
    assert not {"2630", "second_opinions", "4"} & set(re.findall(r"\w+", said)), "numbers that nobody gave"
    assert [chosen.name for chosen in plans.choose((2, 3), config, controls=False)] == ["mode 2", "mode 3"]
    answers = [Protocol("mode", 3), Protocol("self-consistency", 26)]
    made = summary.summarize(contents_of(answers, config))
    assert list(made["protocols"]) == ["mode 3", "self-consistency 26"] and made["comparisons"] == []


def contents_of(protocols: list[Protocol], config: ModeConfig) -> ledger_lines.Contents:
    """One wrong answer under each protocol."""
    call = ledger_lines.Call(1, 1, "answer", "stop", None, None, ())
    outcomes = tuple(
        ledger_lines.Outcome(0, "q", "", 0, protocol, 1, 4, False, 1, 0, 1, 1, 1, 5, 1, 1.0, (call,))
        for protocol in protocols
    )
    return ledger_lines.Contents(made_settings(config), {}, outcomes, ())


@pytest.mark.parametrize(
    ("modes", "n_parallel", "least", "most"), [((0,), 8, 8, 9), ((3,), 8, 2, 2), ((0, 1, 2, 3), 1, 1, 1)]
)
def test_enough_questions_are_in_flight_to_fill_the_batch(modes: Any, n_parallel: int, least: int, most: int) -> None:
    assert least <= plans.choose_in_flight(plans.choose(modes, CONFIG, controls=False), n_parallel) <= most


def test_a_call_that_was_refused_keeps_its_reason_and_others_say_nothing_of_one() -> None:
    key = ledger_lines.CallKey(1, Protocol("mode", 0), 3, 0)
    for reason, error in (("stop", None), ("error", "no token can be chosen")):
        output = Output("x", 1, reason, 5, token_ids=(1,), error=error)
        entry = json.loads(ledger_lines.encode_call(key, "ab", output))["call"]
        assert ledger_lines._decode_call(entry) == (key, ("ab", output)) and ("error" in entry) == (error is not None)
