"""Mode auto against cost, and thresholds that are proposed: on made-up ledgers whose answers are known."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from darwin_neg_cpp import RequestError
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.eval import evaluate, ledger, plans, report, run, summary
from darwin_neg_cpp.eval.abstaining import propose_thresholds
from darwin_neg_cpp.eval.ledger_lines import Outcome
from darwin_neg_cpp.eval.spending import (
    Ladder,
    build_ladder,
    calibrate,
    choose_thresholds,
    rate_spending,
    spread_at_random,
    spread_by_margin,
)
from darwin_neg_cpp.eval.spending_tables import spending_chart
from darwin_neg_cpp.protocols import ModeConfig, Protocol
from darwin_neg_cpp.protocols import run as run_protocols
from darwin_neg_cpp.protocols.modes import plan
from darwin_neg_cpp.protocols.runner import Task
from eval.test_ledger import ITEMS, made_settings
from eval.test_rating import contents, knowing, make_call, make_outcome
from scripted_sampler import ScriptedSampler

CONFIG = ModeConfig(auto_signal="max_entropy")


def ladder_of(n: int, seed: int, *, knows: bool, margin_knows: bool = False) -> dict[Protocol, dict[int, Outcome]]:
    """Mode 1 is right of 60 %, modes 2 and 3 of 70 and 90 %, and each costs more. knows: whether the signal of modes 1
    and 2 tells what is wrong; margin_knows: whether the margin of votes does."""
    rng = random.Random(seed)
    found: dict[Protocol, dict[int, Outcome]] = {Protocol("mode", mode): {} for mode in (1, 2, 3)}
    for i in range(n):
        luck = rng.random()
        for mode, share, size in ((1, 0.6, 1), (2, 0.7, 4), (3, 0.9, 20)):
            wrong = luck > share
            unsure = (1.5 if wrong else 0.5) + rng.random() if knows else rng.random()
            calls = [make_call(int(wrong), unsure, number=k) for k in range(size)]
            margin = (1 if wrong else 3) if margin_knows else rng.randrange(1, 4)
            found[Protocol("mode", mode)][i] = make_outcome(i, f"mode {mode}", int(wrong), *calls, margin=margin)
    return found


def test_a_signal_that_knows_beats_both_controls_and_noise_beats_neither() -> None:
    good = rate_spending(ladder_of(300, 1, knows=True), CONFIG)
    noise = rate_spending(ladder_of(300, 2, knows=False), CONFIG)
    assert good is not None and noise is not None
    for control in ("random", "margin"):
        assert any(point[control]["difference"]["interval"][0] > 0 for point in good["simulated"])
        assert not any(point[control]["difference"]["interval"][0] > 0 for point in noise["simulated"])
    assert [round(point["cost"], 6) for point in good["modes"].values()] == [1, 4, 20]
    for point in (*good["simulated"], *noise["simulated"]):
        assert sum(point["ended"]) == 300 and 1 <= point["cost"] <= 20


def test_where_the_margin_knows_as_much_nothing_is_owed_to_the_signal() -> None:
    found = rate_spending(ladder_of(300, 3, knows=False, margin_knows=True), CONFIG)
    assert found is not None
    assert any(point["margin"]["difference"]["interval"][1] < 0 for point in found["simulated"])
    text = report.markdown({**summary.summarize(contents()), "spending": found})
    assert "At none of these costs is it shown to be better than both controls" in text


def test_thresholds_are_the_best_that_the_budget_allows() -> None:
    """Against a search of all pairs of values."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        n = 12
        ladder = Ladder(
            right=rng.integers(0, 2, (3, n)).astype(float),
            cost=np.cumsum(rng.integers(1, 9, (3, n)), axis=0).astype(float),
            unsure=rng.integers(1, 6, (2, n)).astype(float),
            margin=rng.integers(0, 3, n).astype(float),
        )
        for share in (0.0, 0.3, 0.7, 1.0):
            budget = ladder.cost[0].mean() + share * (ladder.cost[2].mean() - ladder.cost[0].mean())
            pair = choose_thresholds(ladder, budget)
            right, cost = (values.mean() for values in ladder.at(ladder.stages(*pair)))
            assert cost <= budget + 1e-9
            fits = []
            for first in [0, 1.5, 2.5, 3.5, 4.5, np.inf]:
                for second in [0, 1.5, 2.5, 3.5, 4.5, np.inf]:
                    r, c = (values.mean() for values in ladder.at(ladder.stages(first, second)))
                    fits += [(r, -c)] if c <= budget + 1e-9 else []
            assert (right, -cost) == pytest.approx(max(fits))


def test_controls_cost_what_they_are_compared_at() -> None:
    """By drawing them many times, question by question."""
    rng = np.random.default_rng(7)
    n = 40
    ladder = Ladder(
        right=rng.integers(0, 2, (3, n)).astype(float),
        cost=np.array([np.full(n, 1.0), np.full(n, 4.0), np.full(n, 20.0)]),
        unsure=rng.random((2, n)),
        margin=rng.integers(0, 3, n).astype(float),
    )
    assert spread_at_random(ladder, 1.0) == pytest.approx(ladder.right[0])
    assert spread_at_random(ladder, 20.0) == pytest.approx(ladder.right[2])
    at_10 = (
        ladder.right.mean(1) @ np.array([1 - 9 / 19, 0, 9 / 19]),
        ladder.right.mean(1) @ np.array([0, 10 / 16, 6 / 16]),
    )
    assert spread_at_random(ladder, 10.0).mean() == pytest.approx(max(at_10))
    assert spread_by_margin(ladder, 2.5) == pytest.approx((ladder.right[0] + ladder.right[1]) / 2)
    assert spread_by_margin(ladder, 20.0) == pytest.approx(ladder.right[2])
    # 15 of 40 questions can be escalated: the first of an order by margin, ties drawn
    drawn = []
    for _ in range(2000):
        order = np.lexsort((rng.random(n), ladder.margin))[:15]
        chosen = ladder.right[1].copy()
        chosen[order] = ladder.right[2][order]
        drawn.append(chosen)
    assert spread_by_margin(ladder, 4 + 16 * 15 / 40) == pytest.approx(np.mean(drawn, axis=0), abs=0.06)


def test_the_simulation_of_a_ledger_is_mode_auto_as_it_runs() -> None:
    """Question by question, with the same thresholds, on answers of a scripted model."""
    config = ModeConfig(seed=7, auto_first_threshold=0.4, auto_second_threshold=0.72)
    by: dict[Protocol, dict[int, Outcome]] = {}
    answers: dict[str, dict[int, Any]] = {}
    for mode in (1, 2, 3, "auto"):
        the_plan = plan(mode, config)
        for i, item in enumerate(ITEMS):
            ((_, answer),) = run_protocols(ScriptedSampler(), [Task(item.question, the_plan)], config, early_stop=False)
            answers.setdefault(the_plan.name, {})[i] = answer
            calls = [make_call(c.choice, 0.0, number=c.number, mean_entropy=c.mean_entropy, tokens=c.tokens)
                     for c in answer.candidates]  # fmt: skip
            by.setdefault(the_plan.protocol, {})[i] = make_outcome(i, the_plan.name, answer.choice, *calls)
    # more questions than LEAST: the same ones once more
    many = {name: {**found, **{i + 8: one for i, one in found.items()}} for name, found in by.items()}
    ladder = build_ladder(many, "mean_entropy")
    assert ladder is not None
    stages = ladder.stages(0.4, 0.72)[:8]
    assert set(stages) == {0, 1, 2}
    _, cost = ladder.at(ladder.stages(0.4, 0.72))
    for i, stage in enumerate(stages):
        auto = answers["mode auto"][i]
        assert auto.choice == answers[f"mode {stage + 1}"][i].choice
        assert auto.cost.completion_tokens == cost[i]


def test_modes_0_and_auto_are_drawn_as_they_ran_on_the_same_questions() -> None:
    by = ladder_of(40, 3, knows=True)
    first, second = by[Protocol("mode", 1)], by[Protocol("mode", 2)]
    assert list(rate_spending(by, CONFIG)["modes"]) == ["mode 1", "mode 2", "mode 3"]
    extra = {i: make_outcome(i, "mode 0", 1, make_call(1, 0.1, number=0)) for i in range(40, 80)}  # wrong, all of them
    by[Protocol("mode", 0)] = {**first, **extra}
    by[Protocol("mode auto", 0)] = {**second, **extra}
    found = rate_spending(by, CONFIG)
    assert found is not None and found["questions"] == 40
    assert found["modes"]["mode 0"] == found["modes"]["mode 1"] and found["auto"] == found["modes"]["mode 2"]
    drawn = spending_chart({"spending": found}, "Accuracy against cost")
    assert ">mode 0, mode 1</text>" in drawn and ">mode 2, auto, as run</text>" in drawn
    del by[Protocol("mode auto", 0)][5]
    again = rate_spending(by, CONFIG)
    assert again is not None and again["auto"] is None, "not of all of the questions"


def test_proposals_for_abstaining_hold_out_what_they_are_judged_on() -> None:
    outcomes = knowing(200)
    found = propose_thresholds(outcomes, 0.85, 0)
    assert found is not None and found["questions"] == 200
    known = found["signals"]["max_entropy"]
    kept = [one for one in outcomes.values() if one.calls[0].signals.max_entropy <= known["threshold"]]
    assert sum(one.is_right for one in kept) / len(kept) >= 0.85
    assert known["held_out"]["interval"][0] < known["held_out"]["accuracy"] < known["held_out"]["interval"][1]
    # noise: what it promises on its own half it does not keep, and hardly anything is answered
    noise = found["signals"]["mean_entropy"]["held_out"]
    assert noise["answered"] < known["held_out"]["answered"]
    assert propose_thresholds(dict(list(outcomes.items())[:9]), 0.85, 0) is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    items = (ITEMS * 2)[:12]
    chosen = plans.choose((1, 2, 3), ModeConfig(seed=7), controls=False)
    with ledger.open_ledger(tmp_path / ledger.NAME, made_settings(), {"data": "d", "model": "m"}) as opened:
        run.run(ScriptedSampler(), items, chosen, ModeConfig(seed=7), opened, early_stop=False)
    return tmp_path


def test_the_command_proposes_both_kinds_of_thresholds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["eval", "--report-only", "-o", str(folder), "--wanted-accuracy", "0.5", "--calibrate-auto", "6"]
    assert main(args) == 0
    out = capsys.readouterr().out
    assert "--auto-signal mean_entropy --auto-first-threshold " in out and "Wanted: 50 %" in out
    assert "mode auto, held out" in out and "mode 1, mean predicted entropy" in out
    assert main([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["calibration"]["wanted_cost"] == 6 and set(found["abstaining"]) == {"mode 1", "mode 2", "mode 3"}
    assert found == json.loads((folder / "report.json").read_text("utf-8"))
    text = (folder / "report.md").read_text("utf-8")
    for title in ("Accuracy against cost", "Thresholds of mode auto", "Thresholds for abstaining"):
        assert f"## {title}\n" in text
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<svg") == 2 and "Accuracy against cost: mode 1" in page


def test_without_modes_1_to_3_there_is_nothing_to_calibrate_and_it_says_so(tmp_path: Path) -> None:
    assert calibrate({Protocol("mode", 1): knowing(20)}, CONFIG, 3.0) is None
    found = summary.summarize(contents(*knowing(20).values()), auto_cost=3.0)
    assert found["calibration"] is None and found["spending"] is None
    assert "There are none: the ledger lacks answers of modes 1, 2 and 3" in report.markdown(found)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--wanted-accuracy", "0.9"], "--wanted-accuracy needs --report-only"),
        (["--calibrate-auto", "4"], "--calibrate-auto needs --report-only"),
        (["--report-only", "--wanted-accuracy", "90", "-o", "X"], "--wanted-accuracy must be between 0 and 1"),
        (["--report-only", "--wanted-accuracy", "0", "-o", "X"], "--wanted-accuracy must be a number above 0"),
        (
            ["--true-entropy", "--server", "http://127.0.0.1:9", "--data", "SET"],
            "--true-entropy needs the model in this",
        ),
        (["--report-only", "--calibrate-auto", "0.5", "-o", "X"], "--calibrate-auto must be at least 1"),
    ],
)
def test_bad_wishes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str) -> None:
    assert (
        main(
            [
                "eval",
                *({"X": str(folder), "SET": str(ROOT / "examples" / "questions.csv")}.get(arg, arg) for arg in args),
            ]
        )
        == 2
    )
    assert words in capsys.readouterr().err


def test_the_library_refuses_them_too(folder: Path) -> None:
    with pytest.raises(RequestError, match="wanted_accuracy must be"):
        evaluate.make_report(folder, wanted_accuracy=1.5)
