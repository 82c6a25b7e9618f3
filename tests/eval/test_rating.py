"""What signals of certainty are worth, from a ledger: figures against scikit-learn, and what reports say of them."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from darwin_neg_cpp.confidence.crossfit import split_halves
from darwin_neg_cpp.eval import report
from darwin_neg_cpp.eval.ledger_lines import Call, Contents, Outcome
from darwin_neg_cpp.eval.rating import LEAST, LEAST_OF_EACH, rate_signals
from darwin_neg_cpp.eval.report_page import page
from darwin_neg_cpp.eval.report_tables import tables
from darwin_neg_cpp.eval.settings import asdict
from darwin_neg_cpp.eval.summary import summarize
from darwin_neg_cpp.protocols import ModeConfig, Protocol
from darwin_neg_cpp.protocols.signals import Signals


def make_call(choice: int | None, unsure: float, *, noise: float = 0.5, number: int = 0, **more: Any) -> Call:
    """max_entropy knows what is wrong; the mean is noise."""
    signals = Signals(max_entropy=unsure, letter_logprob=-unsure, logprob=-noise, true_max_entropy=unsure)
    base = {"tokens": 10, "how": "answer", "finish_reason": "stop", "activation_rate": 0.0, "token_ids": ()}
    return Call(**{**base, "choice": choice, "mean_entropy": noise, "number": number, "signals": signals, **more})


def make_outcome(number: int, protocol: str, choice: int | None, *calls: Call, margin: int = 1) -> Outcome:
    return Outcome(
        number=number, question=f"q{number}", domain="", right=0, protocol=Protocol.parse(protocol), choice=choice,
        n_choices=4, tied=False, margin=margin, second_opinions=0, planned=len(calls), started=len(calls),
        finished=len(calls), prompt_tokens=9, completion_tokens=sum(call.tokens for call in calls), seconds=1.0,
        calls=calls,
    )  # fmt: skip


def knowing(n: int, seed: int = 0) -> dict[int, Outcome]:
    """Answers of mode 1 whose maximum entropy is larger where they are wrong, and whose mean entropy is noise."""
    rng = random.Random(seed)
    made = {}
    for i in range(n):
        wrong = rng.random() < 0.4
        call = make_call(int(wrong), abs(rng.gauss(2.0 if wrong else 1.0, 0.7)), noise=rng.random())
        made[i] = make_outcome(i, "mode 1", call.choice, call)
    return made


def contents(*outcomes: Outcome) -> Contents:
    made = {"data": {"questions": len(outcomes)}, "protocol": {**asdict(ModeConfig()), "early_stop": True}}
    return Contents(made, {"model": "m", "data": "d"}, outcomes, ())


def test_figures_are_those_of_scikit_learn() -> None:
    outcomes = knowing(150)
    found = rate_signals(outcomes, 0)
    assert found is not None
    wrong = np.array([outcome.choice != 0 for outcome in outcomes.values()])
    unsure = np.array([outcome.calls[0].signals.max_entropy for outcome in outcomes.values()])
    figures = found["signals"]["max_entropy"]
    assert figures["auroc"]["value"] == pytest.approx(roc_auc_score(wrong, unsure))
    low, high = figures["auroc"]["interval"]
    assert 0.5 < low < figures["auroc"]["value"] < high
    # a log-probability is turned round, and says here what the entropy says
    assert found["signals"]["letter_logprob"]["auroc"] == figures["auroc"]
    # at a coverage: thresholds of the other half, by a plain search
    half = split_halves(150, seed=0)
    kept = np.zeros(150, bool)
    for own in (half, ~half):
        k = int(np.ceil(0.8 * (~own).sum()))
        kept |= own & (unsure <= np.sort(unsure[~own])[k - 1])
    at = figures["accuracy_at"]["0.8"]
    assert (at["answered"], at["right"]) == (kept.sum(), (kept & ~wrong).sum())
    assert at["interval"][0] < at["accuracy"] < at["interval"][1] and abs(at["coverage"] - 0.8) < 0.1


def test_noise_is_not_told_apart_from_chance_and_the_report_says_so() -> None:
    found = summarize(contents(*knowing(150).values()))
    interval = found["confidence"]["mode 1"]["signals"]["mean_entropy"]["auroc"]["interval"]
    assert interval[0] < 0.5 < interval[1]
    (rated,) = [table for table in tables(found) if table.title == "Confidence in mode 1"]
    unclear = next(note for note in rated.notes if note.startswith("Not told apart"))
    assert "mean predicted entropy" in unclear and "maximum predicted entropy" not in unclear
    by_pair = {(pair["a"], pair["b"]): pair for pair in found["confidence"]["mode 1"]["differences"]}
    assert by_pair["max_entropy", "mean_entropy"]["auroc"]["interval"][0] > 0
    assert by_pair["max_entropy", "true_max_entropy"]["auroc"] == {"value": 0.0, "interval": [0.0, 0.0]}


def test_a_signal_of_votes_is_the_mean_over_the_votes_for_the_answer() -> None:
    rng = random.Random(3)
    outcomes, expected = {}, []
    for i in range(20):
        calls = [make_call(rng.choice([0, 1, None]), rng.random(), number=j) for j in range(4)]
        calls[0] = make_call(0, rng.random())
        late = make_call(0, 9.0, number=4, counted=False)
        outcomes[i] = make_outcome(
            i, "mode 2", 0 if i % 3 else 1, *calls, make_call(1, 0.3, number=5), late, margin=i % 4
        )
        votes = [c.signals.max_entropy for c in outcomes[i].calls if c.counted and c.choice == outcomes[i].choice]
        expected.append(sum(votes) / len(votes))
    found = rate_signals(outcomes, 0)
    assert found is not None
    wrong = [i % 3 == 0 for i in range(20)]
    assert found["signals"]["max_entropy"]["auroc"]["value"] == pytest.approx(roc_auc_score(wrong, expected))
    margins = [-(i % 4) for i in range(20)]
    assert found["signals"]["margin"]["auroc"]["value"] == pytest.approx(roc_auc_score(wrong, margins))


def test_too_few_answers_and_missing_signals_give_no_figures() -> None:
    outcomes = knowing(30)
    assert rate_signals(dict(list(outcomes.items())[: LEAST - 1]), 0) is None
    found = rate_signals({**outcomes, 99: make_outcome(99, "mode 1", None, make_call(None, 1.0))}, 0)
    assert found is not None and found["unanswered"] == 1 and found["questions"] == 30
    assert "margin" not in found["signals"] and "true_mean_entropy" not in found["signals"]
    # an older ledger: the mean entropy alone
    old = {i: make_outcome(i, "mode 1", i % 2, make_call(i % 2, 1.0, signals=None)) for i in range(LEAST)}
    found = rate_signals(old, 0)
    assert found is not None and set(found["signals"]) == {"mean_entropy", "tokens"}
    assert found["signals"]["mean_entropy"]["auroc"] == {"value": 0.5, "interval": [0.5, 0.5]}


@pytest.mark.parametrize("right", [1, LEAST_OF_EACH - 1])
def test_with_a_few_right_ones_or_wrong_ones_there_is_nothing_to_say(right: int) -> None:
    """One right answer in 40 is the surest of all by chance, and every resample has it there."""
    for flip in (0, 1):
        few = {
            i: make_outcome(i, "mode 1", (i >= right) ^ flip, make_call((i >= right) ^ flip, float(i)))
            for i in range(40)
        }
        assert rate_signals(few, 0) is None


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.curves = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.curves += tag == "polyline"
        if tag not in ("path", "polyline", "meta", "link", "br", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "polyline", "circle"):
            assert self.open.pop() == tag


def test_reports_of_all_forms_hold_the_figures(tmp_path: Path) -> None:
    mode_0 = (make_outcome(i, "mode 0", one.choice, *one.calls) for i, one in knowing(40).items())
    found = summarize(contents(*knowing(40).values(), *mode_0))
    report.write(tmp_path, found)
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["confidence"]["mode 1"]["questions"] == 40
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "## Confidence in mode 1" in text and "## Signals compared in mode 1" in text
    assert "Confidence in mode 0" not in text, "it says what mode 1 says"
    tags = Tags()
    tags.feed(page(found))
    assert not tags.open and tags.curves == 3, "mean and maximum entropy, and the letter's log-probability"
    assert all(len(row) == len(table.header) for table in tables(found) for row in table.rows)
    del found["confidence"]  # as an older version wrote it
    assert "Confidence" not in report.markdown(found) and "polyline" not in page(found)
