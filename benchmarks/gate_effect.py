"""What the gate does to sampled text, with the demo model: the gate off, mask, mask with temp_scale, action=sample.

    python benchmarks/gate_effect.py [--prompts N] [--tokens N] [--temperatures 0.7,1.0,1.3] [--threads N] [--json FILE]
    python benchmarks/gate_effect.py --tables FILE

Prompt i has seed i in every setting, so that the settings are paired and the prompts independent of each other. The
figures are means over prompts and, against the gate off, the mean paired difference with its 95 % interval (1.96
standard errors over prompts). log-likelihood: of the generated tokens under the model at temperature 1, per token.
repetition: share of 4-grams that stood in the answer before. distinct-2: different pairs of tokens over all pairs.
active: share of positions with a predicted entropy above the threshold; with the gate off nothing acts there. Greedy
decoding is shown beside it. --tables writes what --json has kept as the tables of docs/gate-effect.md.
The demo head has a temp_scale of 1, which would change nothing; that of the released head of Darwin-9B-NEG (0.598)
takes its place.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darwin_neg_cpp import DarwinNEG, Generation, Neg, demo_model
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg import formats as neg_format

RELEASED_TEMP_SCALE = 0.5983633399009705
SUBJECTS = (
    "the ocean", "bread", "a lighthouse", "bicycles", "the Roman Empire", "bees", "electricity", "the Moon", "chess",
    "libraries", "volcanoes", "tea", "railways", "birds", "mathematics", "friendship",
)  # fmt: skip
TASKS = (
    "Explain {} to a child.", "Write a short story about {}.", "List five facts about {}.", "Why is {} important?",
    "Write a poem about {}.", "Give me a plan for a lesson on {}.",
)  # fmt: skip
VARIANTS = {
    "off": Neg(enabled=False, action="off"),
    "mask": Neg(action="mask"),
    "mask + temp_scale": Neg(action="mask", use_temp_scale=True),
    "sample": Neg(action="sample"),
}
SAMPLING = {"temperature alone": {"top_k": 0, "top_p": 1.0, "min_p": 0.0}, "default truncation": {}}
FIGURES = ("log_likelihood", "repetition", "distinct_2", "active")


def list_texts() -> list[str]:
    """Every task with every subject, each once; any first part of them has tasks and subjects as evenly as it can."""
    n = len(TASKS) * len(SUBJECTS)
    # i runs through half of the pairs, those with task and subject both even or both odd, before it starts again
    return [TASKS[i % len(TASKS)].format(SUBJECTS[(i + i // (n // 2)) % len(SUBJECTS)]) for i in range(n)]


def measure_answer(answer: Generation, threshold: float) -> list[float]:
    """FIGURES of an answer."""
    ids = answer.token_ids.tolist()
    fours = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
    pairs = [tuple(ids[i : i + 2]) for i in range(len(ids) - 1)]
    assert answer.logprobs is not None and answer.neg is not None
    return [
        float(answer.logprobs.chosen.mean()),
        1 - len(set(fours)) / max(1, len(fours)),
        len(set(pairs)) / max(1, len(pairs)),
        float((answer.neg.entropy > np.float32(threshold)).mean()),
    ]


def generate_answers(
    llm: DarwinNEG, prompts: Sequence[list[int]], tokens: int, neg: Neg, **options: float
) -> list[Generation]:
    # one at a time: a quantized model rounds differently in a batch, and settings would differ by more than the gate;
    # all of one length, so that figures can be compared
    return [
        llm.generate(prompt, max_tokens=tokens, ignore_eos=True, seed=i, logprobs=0, neg=neg, **options)  # type: ignore[arg-type]
        for i, prompt in enumerate(prompts)
    ]


def chat_prompts(llm: DarwinNEG, count: int) -> list[list[int]]:
    """The first prompts as messages in the model's chat template."""
    return [llm.chat_tokens([{"role": "user", "content": text}]) for text in list_texts()[:count]]


def mean_and_interval(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 5), round(float(1.96 * values.std(ddof=1) / np.sqrt(len(values))), 5)]


def count_equal(a: list[Generation], b: list[Generation]) -> int:
    """How many answers are the same, token for token."""
    return sum(x.token_ids.tolist() == y.token_ids.tolist() for x, y in zip(a, b, strict=True))


def measure_greedy(llm: DarwinNEG, prompts: Sequence[list[int]], tokens: int) -> list[dict[str, Any]]:
    found = {name: generate_answers(llm, prompts, tokens, neg, temperature=0.0) for name, neg in VARIANTS.items()}
    rows = []
    for name, got in found.items():
        same = count_equal(got, found["off"])
        print(f"greedy, {name}: {same} of {len(prompts)} answers equal those with the gate off", flush=True)
        rows.append({"sampling": "greedy", "variant": name, "equal_to_off": same})
    return rows


def measure_sampled(
    llm: DarwinNEG, prompts: Sequence[list[int]], tokens: int, sampling: str, temperature: float, threshold: float
) -> list[dict[str, Any]]:
    print(f"\n{sampling}, temperature {temperature}")
    found: dict[str, list[Generation]] = {}
    values: dict[str, np.ndarray] = {}
    rows = []
    for name, neg in VARIANTS.items():
        found[name] = generate_answers(llm, prompts, tokens, neg, temperature=temperature, **SAMPLING[sampling])
        values[name] = np.array([measure_answer(answer, threshold) for answer in found[name]])
        row: dict[str, Any] = {"sampling": sampling, "temperature": temperature, "variant": name}
        row |= {key: round(float(mean), 5) for key, mean in zip(FIGURES, values[name].mean(axis=0), strict=True)}
        line = f"{name:<18}" + "".join(f" {key} {row[key]:.4f}" for key in FIGURES)
        if name != "off":
            changes = values[name] - values["off"]
            row["against_off"] = {key: mean_and_interval(changes[:, k]) for k, key in enumerate(FIGURES)}
            line += "  against off:" + "".join(
                f" {key} {m:+.4f} ± {i:.4f}" for key, (m, i) in row["against_off"].items()
            )
        if name == "sample":
            row["equal_to_mask"] = count_equal(found[name], found["mask"])
            line += f"  {row['equal_to_mask']} answers equal those of mask"
        print(line, flush=True)
        rows.append(row)
    return rows


def measure(n_prompts: int, tokens: int, temperatures: Sequence[float], threads: int) -> dict[str, Any]:
    """The settings of the run, and a row for each way of sampling."""
    model, side_car = demo_model.model_and_head()
    head = dataclasses.replace(neg_format.read_head(side_car), temp_scale=RELEASED_TEMP_SCALE)
    with tempfile.TemporaryDirectory() as folder:
        neg_files.write_side_car(head, model, Path(folder) / "head.gguf")
        with DarwinNEG(
            model, Path(folder) / "head.gguf", n_ctx=tokens + 64, n_parallel=1, n_threads=threads, prefix_cache=0
        ) as llm:
            prompts = chat_prompts(llm, n_prompts)
            about = {
                "model": demo_model.MODEL, "machine": platform.machine(), "date": str(datetime.date.today()),
                "prompts": len(prompts), "tokens": tokens, "threshold": round(float(head.threshold), 4),
                "top_k": head.top_k, "temp_scale": RELEASED_TEMP_SCALE,
            }  # fmt: skip
            print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
            rows = measure_greedy(llm, prompts, tokens)
            for sampling in SAMPLING:
                for temperature in temperatures:
                    rows += measure_sampled(llm, prompts, tokens, sampling, temperature, float(head.threshold))
    return {**about, "rows": rows}


def json_text(report: dict[str, Any]) -> str:
    """One line per row."""
    about = {key: value for key, value in report.items() if key != "rows"}
    rows = ",\n".join("  " + json.dumps(row) for row in report["rows"])
    return json.dumps(about, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'


def render_tables(report: dict[str, Any]) -> str:
    """Markdown. A change is bold where its interval leaves out 0."""

    def change(pair: list[float]) -> str:
        text = f"{pair[0]:+.3f} ± {pair[1]:.3f}"
        return f"**{text}**" if abs(pair[0]) > pair[1] else text

    rows = [row for row in report["rows"] if row["sampling"] == "greedy"]
    parts = ["**greedy**", "", "| setting | answers equal to those with the gate off |", "|---|---|"]
    parts += [f"| {row['variant']} | {row['equal_to_off']} of {report['prompts']} |" for row in rows]
    for sampling in SAMPLING:
        parts += ["", f"**{sampling}**", ""]
        parts += [
            "| temperature | setting | active | log-likelihood | change | repeated 4-grams, change "
            "| distinct pairs, change | active, change |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in (row for row in report["rows"] if row["sampling"] == sampling):
            # with a temperature above 0 both draw from the kept tokens, and the rows are the same
            if row["variant"] == "sample" and row["equal_to_mask"] == report["prompts"]:
                continue
            off = row["variant"] == "off"
            cells = [
                str(row["temperature"]) if off else "",
                row["variant"],
                f"{row['active']:.2%}",
                f"{row['log_likelihood']:.3f}",
            ]
            cells += ["" if off else change(row["against_off"][key]) for key in FIGURES]
            parts.append("| " + " | ".join(cells) + " |")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--temperatures", default="0.7,1.0,1.3")
    parser.add_argument(
        "--threads", type=int, default=0, help="1 on a machine that others use: threads wait for each other"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures")
    parser.add_argument("--tables", type=Path, metavar="FILE", help="print kept figures as Markdown; nothing is run")
    args = parser.parse_args()
    if args.tables:
        print(render_tables(json.loads(args.tables.read_text("utf-8"))), end="")
        return
    report = measure(args.prompts, args.tokens, [float(text) for text in args.temperatures.split(",")], args.threads)
    if args.json:
        args.json.write_text(json_text(report), "utf-8")


if __name__ == "__main__":
    main()
