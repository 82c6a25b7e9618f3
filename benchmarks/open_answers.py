"""Says how sure a model is of short answers that it writes itself, to questions of graded difficulty.

    python benchmarks/open_answers.py                                       the demo model
    python benchmarks/open_answers.py --model darwin-9b-neg.gguf --out open-9b
    python benchmarks/open_answers.py --report-only --out docs/confidence/open-demo

The small models at hand choose between letters no better than by guessing (confidence.py), but they can add, spell and
name capitals, some better than others. Every question is asked once, greedily, after five answered ones and without a
chat template, so that base models are asked as others are. An answer is right where its line is the known one, but for
case, accents, spaces and a full stop. In --out, `answers.jsonl` has every answer with its signals, `report.md` and
`report.json` what these are worth.

Harder kinds of questions have other kinds of answers (longer ones, say), which a signal can tell without telling right
from wrong. So AUROC is also given within kinds: over pairs of a wrong and a right answer of one kind. Intervals are
95 % bootstraps over questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from open_questions import EACH, is_right, prompt, questions

from darwin_neg_cpp import DarwinNEG, Generation, demo_model
from darwin_neg_cpp.confidence.bootstrap import Estimate, compare, draw_weights, percentile_interval, rate
from darwin_neg_cpp.confidence.crossfit import cross_fit
from darwin_neg_cpp.confidence.selection import COVERAGES, make_curves
from darwin_neg_cpp.eval.rating import choose_for, describe, describe_fit
from darwin_neg_cpp.eval.rating_tables import with_interval
from darwin_neg_cpp.eval.statistics import wilson
from darwin_neg_cpp.files.output_file import replacing

# the larger, the less sure; of all tokens that were generated, the line end among them
SIGNALS = {
    "mean": "mean predicted entropy",
    "max": "maximum predicted entropy",
    "first": "predicted entropy at the first token",
    "true_mean": "mean true entropy",
    "true_max": "maximum true entropy",
    "true_first": "true entropy at the first token",
    "logprob": "minus log-probability of the whole answer",
    "first_logprob": "minus log-probability of the first token",
    "tokens": "number of tokens",
}
PAIRS = (("mean", "true_mean"), ("max", "true_max"), ("first", "true_first"), ("mean", "logprob"), ("mean", "tokens"))
RESAMPLES = 2000
LEAST = 5  # right and wrong answers of a kind, to say something about it alone
ANSWERS, JSON, MARKDOWN = "answers.jsonl", "report.json", "report.md"

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Kinds = npt.NDArray[np.str_]


def ask(llm: DarwinNEG, made: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    for number, one in enumerate(made, 1):
        out = llm.generate(
            prompt(one["question"]), max_tokens=16, temperature=0.0, stop=["\n"], logprobs=0, true_entropy=True
        )
        yield {**one, "text": out.text, "is_right": is_right(out.text, one["right"]), "signals": signals(out)}
        if sys.stderr.isatty():
            print(f"\r{number} of {len(made)}", end="", file=sys.stderr)


def signals(out: Generation) -> dict[str, float]:
    assert out.neg is not None and out.true_entropy is not None and out.logprobs is not None
    predicted, true = np.asarray(out.neg.entropy, np.float64), np.asarray(out.true_entropy, np.float64)
    logprobs = np.asarray(out.logprobs.chosen, np.float64)
    values = {
        "mean": predicted.mean(),
        "max": predicted.max(),
        "first": predicted[0],
        "true_mean": true.mean(),
        "true_max": true.max(),
        "true_first": true[0],
        "logprob": -logprobs.sum(),
        "first_logprob": -logprobs[0],
        "tokens": len(predicted),
    }
    return {name: round(float(value), 5) for name, value in values.items()}


def summarize(answers: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """All figures, JSON-ready."""
    wrong = np.array([not one["is_right"] for one in answers])
    kind = np.array([one["kind"] for one in answers])
    columns = {name: np.array([one["signals"][name] for one in answers], np.float64) for name in SIGNALS}
    return {
        **settings,
        "answers": len(answers),
        "wrong": int(wrong.sum()),
        "kinds": {name: _kind(wrong[kind == name]) for name in dict.fromkeys(kind.tolist())},
        "signals": {name: _rate(column, wrong, kind) for name, column in columns.items()},
        "differences": [{"a": a, "b": b, **_compare(columns[a], columns[b], wrong, kind)} for a, b in PAIRS],
    }


def _kind(wrong: Flags) -> dict[str, Any]:
    right = int((~wrong).sum())
    return {"questions": len(wrong), "right": right, "interval": list(wilson(right, len(wrong)))}


def _rate(column: Floats, wrong: Flags, kind: Kinds) -> dict[str, Any]:
    rating = rate(column, wrong, coverages=(), resamples=RESAMPLES)
    alone = {name: kind == name for name in dict.fromkeys(kind.tolist())}
    return {
        "auroc": describe(rating.auroc),
        "area": describe(rating.area),
        "auroc_within_kinds": describe(within([column], wrong, kind)),
        "auroc_of_kinds": {
            name: describe(rate(column[here], wrong[here], resamples=RESAMPLES).auroc)
            for name, here in alone.items()
            if min(wrong[here].sum(), (~wrong[here]).sum()) >= LEAST
        },
        "accuracy_at": {
            f"{coverage:g}": describe_fit(cross_fit(column, wrong, choose_for(coverage))) for coverage in COVERAGES
        },
    }


def _compare(a: Floats, b: Floats, wrong: Flags, kind: Kinds) -> dict[str, Any]:
    difference = compare(a, b, wrong, resamples=RESAMPLES)
    return {
        "auroc": describe(difference.auroc),
        "auroc_within_kinds": describe(within([a, b], wrong, kind)),
    }


def within(columns: Sequence[Floats], wrong: Flags, kind: Kinds) -> Estimate:
    """AUROC over pairs of one kind; of two columns, the first less the second."""
    exact = _within(columns, wrong, kind, np.ones((1, len(wrong))))
    drawn = [_within(columns, wrong, kind, weights) for weights in draw_weights(len(wrong), resamples=RESAMPLES)]
    return Estimate(float(exact[0]), percentile_interval(drawn))


def _within(columns: Sequence[Floats], wrong: Flags, kind: Kinds, weights: Floats) -> Floats:
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for name in np.unique(kind):
        here = kind == name
        curves = [make_curves(column[here], wrong[here], weights[:, here]) for column in columns]
        bad, every = curves[0].wrong[:, -1], curves[0].items[:, -1]
        aurocs = [curve.auroc() for curve in curves]
        value = aurocs[0] if len(aurocs) == 1 else aurocs[0] - aurocs[1]
        won += np.where(bad * (every - bad) > 0, value * bad * (every - bad), 0)
        pairs += bad * (every - bad)
    share: Floats = np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return share


def render(report: Mapping[str, Any]) -> str:
    right = report["answers"] - report["wrong"]
    kinds = [name for name, one in report["kinds"].items() if LEAST <= one["right"] <= one["questions"] - LEAST]
    lines = [
        "# Confidence in short answers",
        "",
        f"Model `{report['model']}`, head: `{report['head']}`. {right} of {report['answers']} answers are right.",
        "",
        "```",
        report["command"],
        "```",
        "",
        "| questions | right | of | 95 % interval |",
        "|---|---:|---:|---|",
        *(
            f"| {name} | {one['right']} | {one['questions']} | {_percent(one['interval'])} |"
            for name, one in report["kinds"].items()
        ),
        "",
        "AUROC: how likely a wrong answer has the larger uncertainty than a right one; 0.5 is chance. Within kinds: "
        "over pairs of answers to questions of one kind. Area: under the risk-coverage curve, the smaller the better. "
        "95 % bootstrap intervals over questions.",
        "",
        "| | AUROC | AUROC within kinds | area |",
        "|---|---:|---:|---:|",
        *(
            f"| {SIGNALS[name]} | {with_interval(one['auroc'])} | {with_interval(one['auroc_within_kinds'])} "
            f"| {with_interval(one['area'])} |"
            for name, one in report["signals"].items()
        ),
        "",
        "At a coverage: accuracy where about that share is answered, with the threshold from one half of the questions "
        "and the figure from the other, both ways; Wilson's interval; the share that was really answered.",
        "",
        "| | " + " | ".join(f"at {coverage:.0%}".replace("%", " %") for coverage in COVERAGES) + " |",
        "|---|" + "---:|" * len(COVERAGES),
        *(
            f"| {SIGNALS[name]} | " + " | ".join(_accuracy(fit) for fit in one["accuracy_at"].values()) + " |"
            for name, one in report["signals"].items()
        ),
        "",
        "Differences of AUROC on the same answers, paired. Where the interval holds 0, these questions do not tell "
        "the two apart. Not corrected for the number of comparisons.",
        "",
        "| the first less the second | AUROC | AUROC within kinds |",
        "|---|---:|---:|",
        *(
            f"| {SIGNALS[one['a']]} less {SIGNALS[one['b']]} | {with_interval(one['auroc'], '+.3f')} "
            f"| {with_interval(one['auroc_within_kinds'], '+.3f')} |"
            for one in report["differences"]
        ),
        "",
        f"AUROC of each kind alone, where at least {LEAST} answers are right and {LEAST} wrong.",
        "",
        "| | " + " | ".join(kinds) + " |",
        "|---|" + "---:|" * len(kinds),
        *(
            f"| {SIGNALS[name]} | " + " | ".join(with_interval(one["auroc_of_kinds"][kind]) for kind in kinds) + " |"
            for name, one in report["signals"].items()
        ),
        "",
    ]
    return "\n".join(lines)


def _percent(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _accuracy(fit: Mapping[str, Any]) -> str:
    if fit["accuracy"] is None:
        return "–"
    return f"{100 * fit['accuracy']:.1f} % ({_percent(fit['interval'])}) of {100 * fit['coverage']:.0f} %"


def _write(path: Path, text: str) -> None:
    with replacing(path) as (file, _):
        file.write(text.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", help="model with a head (default: the demo model)")
    parser.add_argument("--side-car", metavar="FILE", help="its head, where the model's file has none")
    parser.add_argument("--out", default="open-demo", metavar="DIR", help="folder of answers and report")
    parser.add_argument("--each", type=int, default=EACH, metavar="N", help=f"of each kind drawn (default {EACH})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the set (default 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: all cores")
    parser.add_argument("--report-only", action="store_true", help="from the answers that are in --out")
    args = parser.parse_args()
    out = Path(args.out)
    if args.report_only:
        settings = {name: json.loads((out / JSON).read_text("utf-8"))[name] for name in ("model", "head", "command")}
        answers = [json.loads(line) for line in (out / ANSWERS).read_text("utf-8").splitlines()]
    else:
        model, head = (args.model, args.side_car) if args.model else demo_model.model_and_head()
        with DarwinNEG(model, head, n_ctx=1024, n_parallel=1, n_threads=args.threads) as llm:
            if llm.neg is None:
                parser.error(f"{Path(model).name} has no NEG head; give one with --side-car")
            answers = list(ask(llm, questions(args.seed, args.each)))
        names = {"model": Path(model).name, "head": Path(head or model).name}
        given = [f"--seed {args.seed} --each {args.each}"] if (args.seed, args.each) != (0, EACH) else []
        if args.model:
            given = [f"--model {names['model']}", *([f"--side-car {names['head']}"] if head else []), *given]
        settings = {**names, "command": " ".join(["python benchmarks/open_answers.py", *given])}
    report = summarize(answers, settings)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / ANSWERS, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers))
    _write(out / JSON, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write(out / MARKDOWN, text := render(report))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
