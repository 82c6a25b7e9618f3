"""What entropies tell of tokens: against scikit-learn, on made-up tokens with known answers, and from a model."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conftest import ROOT
from darwin_neg_cpp import DarwinNEG, NegTrace, Scores
from darwin_neg_cpp.training import corpus, token_report
from darwin_neg_cpp.training.token_confidence import DECILES, KINDS, Tokens, cells, collect, name_kind, summarize
from tiny_hybrid import write_tiny_hybrid
from training_runs import run, write_texts


def made_up(n: int = 3000, *, signal: float = 1.0, seed: int = 0) -> Tokens:
    """Tokens whose true entropy tells of being wrong, and whose predicted one is noise but for `signal`."""
    random = np.random.default_rng(seed)
    true = random.exponential(2, n)
    wrong = random.random(n) < 1 - np.exp(-true / 2)
    predicted = signal * true + (1 - signal) * random.exponential(2, n)
    return Tokens(
        predicted=predicted,
        true=true,
        likeliest=np.exp(-true / 2),
        wrong=wrong,
        kind=random.integers(0, len(KINDS), n),
        position=np.arange(n) % 512 + 1,
        document=np.arange(n) // 100,
    )


@pytest.mark.parametrize(
    ("before", "text", "kind"),
    [
        ("a", " the", "word start"),
        ("", "The", "word start"),
        ("\n", "The", "word start"),
        ("(", "see", "word start"),
        ("walk", "ing", "continuation"),
        ("don’", "t", "continuation"),
        ("1", "st", "continuation"),
        ("a", "\nNext", "word start"),
        (" ", "7", "digit"),
        ("a", " 7", "digit"),
        ("a", ".", "punctuation"),
        ("a", ' "', "punctuation"),
        ("a", "\n\n", "other"),
        ("a", "", "other"),
        ("a", "\ufffd", "other"),
        ("안", "녕", "continuation"),
        ("a", " 안녕", "word start"),
    ],
)
def test_kinds_of_tokens(before: str, text: str, kind: str) -> None:
    assert name_kind(before, text) == kind


def test_aurocs_are_scikit_learns_overall_and_in_every_part() -> None:
    tokens = made_up(signal=0.6)
    found = summarize(tokens, resamples=20)
    assert found["overall"]["predicted"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(tokens.wrong, tokens.predicted)
    )
    assert found["overall"]["likeliest"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(tokens.wrong, -tokens.likeliest)
    )
    for k, name in enumerate(KINDS):
        here = tokens.kind == k
        row = found["kinds"][name]
        assert row["true"]["auroc"]["value"] == pytest.approx(roc_auc_score(tokens.wrong[here], tokens.true[here]))
        assert (row["tokens"], row["wrong"]) == (here.sum(), tokens.wrong[here].sum())
    assert list(found["positions"]) == ["1-7", "8-31", "32-127", "128-"]
    assert sum(row["tokens"] for row in found["positions"].values()) == found["tokens"] == 3000
    first = tokens.position < 8
    assert found["positions"]["1-7"]["predicted"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(tokens.wrong[first], tokens.predicted[first])
    )


def test_noise_is_around_a_half_and_a_copy_adds_nothing() -> None:
    noise = summarize(made_up(signal=0.0), resamples=100)["overall"]
    assert noise["predicted"]["auroc"]["low"] < 0.5 < noise["predicted"]["auroc"]["high"]
    assert noise["predicted_less_true"]["auroc"]["high"] < 0 < noise["predicted_less_true"]["area"]["low"]
    copy = summarize(made_up(signal=1.0), resamples=50)["overall"]["predicted_less_true"]["auroc"]
    assert copy == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_deciles_are_tenths_and_say_what_is_so() -> None:
    tokens = made_up(signal=0.5)
    found = summarize(tokens, resamples=100)["deciles"]
    for name in ("predicted", "true"):
        rows = found[name]
        assert len(rows) == DECILES and [row["tokens"] for row in rows] == [300] * 10
        assert all(a["to"] <= b["from"] for a, b in itertools.pairwise(rows))
        order = np.argsort(tokens.signal(name), kind="stable")
        for k, row in enumerate(rows):
            part = order[300 * k : 300 * (k + 1)]
            assert row["wrong"]["value"] == pytest.approx(tokens.wrong[part].mean())
            assert row["expected"] == pytest.approx(1 - tokens.likeliest[part].mean())
            assert row["predicted"] == pytest.approx(tokens.predicted[part].mean())
    # the made-up model is calibrated: what is expected lies in nearly every interval
    inside = [row["wrong"]["low"] <= row["expected"] <= row["wrong"]["high"] for row in found["true"]]
    assert sum(inside) >= 8


@pytest.mark.parametrize("wrong", [True, False])
def test_a_text_without_right_or_wrong_tokens_has_no_auroc_and_a_report_all_the_same(
    wrong: bool, tmp_path: Path
) -> None:
    tokens = made_up(12)
    tokens.wrong[:] = wrong
    figures = json.loads(json.dumps(summarize(tokens, resamples=5), allow_nan=False))
    assert figures["overall"]["predicted"]["auroc"] == {"value": None, "low": None, "high": None}
    write(tmp_path, figures)
    assert "| predicted entropy | – |" in (tmp_path / "report.md").read_text("utf-8")


def write(folder: Path, figures: Any) -> None:
    agreement = {"r2": 0.5, "mae": 0.25}
    report = {"command": "darwin-neg calibrate", "model": "m.gguf", "head": "", "texts": ["a.txt"]}
    token_report.write(folder, {**report, "agreement": agreement, "figures": figures})


def test_the_report_has_every_figure_and_a_chart_that_is_well_formed(tmp_path: Path) -> None:
    figures = summarize(made_up(signal=0.5), resamples=20)
    write(tmp_path, figures)
    text = (tmp_path / "report.md").read_text("utf-8")
    for row in (*figures["kinds"].values(), *figures["positions"].values(), figures["overall"]):
        assert f"{row['predicted']['auroc']['value']:.3f}" in text
        assert f"{row['predicted_less_true']['auroc']['value']:+.3f}" in text
    chart = ET.parse(tmp_path / "report.svg").getroot()
    dots = chart.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(dots) == 2 * DECILES + 2 * len(figures["kinds"]) + 2
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["figures"] == figures


def test_each_token_is_held_against_the_distribution_before_it() -> None:
    texts = {0: b"a", 1: b" b", 2: b"c", 3: b"7"}
    session: Any = SimpleNamespace(detokenize_bytes=lambda ids: b"".join(texts[i] for i in ids))
    scores = [
        Scores(
            token_ids=np.array([0, 1, 2, 3], np.int32),
            entropy=np.array([1, 2, 3, 4], np.float32),
            neg=NegTrace(np.array([0.5, np.nan, 2.5, 9], np.float32), np.zeros(4, np.bool_)),
            logprobs=np.zeros(4, np.float32),
            top_ids=np.array([[1], [0], [0], [0]], np.int32),
            top_logprobs=np.log(np.array([[0.5], [0.4], [0.25], [0.1]], np.float32)),
        )
    ]
    found = collect(session, scores, [7])
    assert found.predicted.tolist() == [0.5, 2.5], "without the end, and what is not a number"
    assert found.true.tolist() == [1, 3] and found.wrong.tolist() == [False, True]
    assert [KINDS[k] for k in found.kind] == ["word start", "digit"]
    assert found.position.tolist() == [1, 3] and found.document.tolist() == [7, 7]
    assert found.likeliest == pytest.approx([0.5, 0.25])


def test_calibrate_writes_a_report_whose_figures_are_scikit_learns(tmp_path: Path) -> None:
    paths = write_texts(tmp_path, 6)
    model = write_tiny_hybrid(tmp_path / "tiny.gguf")
    folder = tmp_path / "out" / "report"
    args = ["calibrate", "-m", str(model), "--text", *map(str, paths), "--max-tokens", "3000", "--context", "256"]
    args += ["-t", "1", "--report", str(folder)]
    out = run(*args)
    assert out.returncode == 0, out.stderr
    report = json.loads((folder / "report.json").read_text("utf-8"))
    assert report["command"].startswith("darwin-neg calibrate -m tiny.gguf") and str(tmp_path) not in report["command"]
    predicted, true, wrong = [], [], []
    with DarwinNEG(model, n_ctx=256, n_parallel=1, n_threads=1) as llm:
        documents = corpus.read(paths, least_part=8000)
        ids = corpus.cut_sequences(llm.session, corpus.limit(corpus.tokenize(llm.session, documents), 3000, 0), 256)
        for scored in llm.score_many(ids, top=1):
            assert scored.neg is not None
            predicted += scored.neg.entropy[:-1].tolist()
            true += scored.entropy[:-1].tolist()
            wrong += (scored.top_ids[:-1, 0] != scored.token_ids[1:]).tolist()
    overall = report["figures"]["overall"]
    assert overall["tokens"] == len(wrong) and 0 < sum(wrong) < len(wrong)
    assert overall["predicted"]["auroc"]["value"] == pytest.approx(roc_auc_score(wrong, predicted), abs=1e-3)
    assert overall["true"]["auroc"]["value"] == pytest.approx(roc_auc_score(wrong, true), abs=1e-3)
    again = run(*args)
    assert again.returncode != 0 and "report.md: exists already" in again.stderr and "--force" in again.stderr
    out = run(*args[:-1], str(paths[0]), "--force")
    assert out.returncode != 0 and len(out.stderr.splitlines()) == 1 and paths[0].name in out.stderr


def test_the_table_of_the_documentation_is_that_of_the_committed_reports() -> None:
    text = (ROOT / "docs/confidence-tokens.md").read_text("utf-8")
    overall = [
        json.loads((ROOT / f"docs/confidence/tokens-{name}/report.json").read_text("utf-8"))["figures"]["overall"]
        for name in ("demo", "gemma")
    ]
    for signal, title in (
        ("predicted", "predicted entropy"),
        ("true", "true entropy"),
        ("likeliest", "minus log-probability of the likeliest token"),
    ):
        assert f"| {title} | {' | '.join(cells(one[signal]['auroc']) for one in overall)} |" in text
    paired = " | ".join(cells(one["predicted_less_true"]["auroc"]) for one in overall)
    assert f"| predicted less true, paired | {paired} |" in text
