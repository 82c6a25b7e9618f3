"""What the gate does to sampled text: the demo model with the gate off, with mask, with mask and temp_scale, and with action=sample.

    python benchmarks/gate_effect.py [--prompts N] [--tokens N] [--temperatures 0.7,1.0,1.3] [--json FILE]

Every setting answers the same prompts with the same seeds; given are means over prompts and, against the gate off, the mean paired difference
with its 95 % interval (1.96 standard errors over prompts). log-likelihood: of the generated tokens under the model at temperature 1, a token.
repetition: share of 4-grams that stood in the answer before. distinct-2: different pairs of tokens over all pairs. Greedy decoding beside it.
The demo head has a temp_scale of 1, which would change nothing; that of the released head of Darwin-9B-NEG (0.598) is put in its place.
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

import numpy as np

from darwin_neg_cpp import DarwinNEG, Generation, Neg, demo, neg_files, neg_format

RELEASED_TEMP_SCALE = 0.5983633399009705
SUBJECTS = (
    "the ocean", "bread", "a lighthouse", "bicycles", "the Roman Empire", "bees", "electricity", "the Moon", "chess", "libraries", "volcanoes", "tea",
    "railways", "birds", "mathematics", "friendship",
)  # fmt: skip
TASKS = (
    "Explain {} to a child.", "Write a short story about {}.", "List five facts about {}.", "Why is {} important?", "Write a poem about {}.",
    "Give me a plan for a lesson on {}.",
)  # fmt: skip
VARIANTS = {
    "off": Neg(enabled=False, action="off"),
    "mask": Neg(action="mask"),
    "mask + temp_scale": Neg(action="mask", use_temp_scale=True),
    "sample": Neg(action="sample"),
}
SAMPLING = {"temperature alone": {"top_k": 0, "top_p": 1.0, "min_p": 0.0}, "default truncation": {}}


def figures(one: Generation) -> list[float]:
    """log-likelihood, repetition, distinct-2, activation rate of an answer."""
    ids = one.token_ids.tolist()
    fours = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
    pairs = [tuple(ids[i : i + 2]) for i in range(len(ids) - 1)]
    assert one.logprobs is not None and one.neg is not None
    return [
        float(one.logprobs.chosen.mean()),
        1 - len(set(fours)) / max(1, len(fours)),
        len(set(pairs)) / max(1, len(pairs)),
        one.neg.activation_rate,
    ]


def answers(llm: DarwinNEG, prompts: Sequence[list[int]], tokens: int, neg: Neg, **options: float) -> list[Generation]:
    # one seed for all prompts, the same in every variant; answers of one length, so that figures can be compared
    return list(
        llm.generate(prompts, max_tokens=tokens, ignore_eos=True, seed=7, logprobs=0, neg=neg, **options)  # type: ignore[arg-type]
    )


def interval(values: np.ndarray) -> str:
    return f"{values.mean():+.4f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--temperatures", default="0.7,1.0,1.3")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model, side_car = demo.model_and_head()
    head = dataclasses.replace(neg_format.read_head(side_car), temp_scale=RELEASED_TEMP_SCALE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        neg_files.write_side_car(head, model, Path(folder) / "head.gguf")
        with DarwinNEG(model, Path(folder) / "head.gguf", n_ctx=16 * (args.tokens + 64), n_parallel=16) as llm:
            texts = [task.format(subject) for task in TASKS for subject in SUBJECTS][: args.prompts]
            prompts = [
                llm.tokenize(llm.apply_chat_template([{"role": "user", "content": text}]), add_special=False)
                for text in texts
            ]
            print(
                f"{demo.MODEL}, {platform.machine()}, {datetime.date.today()}: {len(prompts)} prompts, {args.tokens} tokens each, "
                f"threshold {head.threshold:.3f} nats, top {head.top_k}"
            )
            greedy = {
                name: [one.token_ids.tolist() for one in answers(llm, prompts, args.tokens, neg, temperature=0.0)]
                for name, neg in VARIANTS.items()
            }
            for name, found in greedy.items():
                same = sum(a == b for a, b in zip(found, greedy["off"], strict=True))
                print(f"greedy, {name}: {same} of {len(prompts)} answers equal those with the gate off", flush=True)
                rows.append({"sampling": "greedy", "variant": name, "equal": same, "prompts": len(prompts)})
            for sampling, options in SAMPLING.items():
                for temperature in map(float, args.temperatures.split(",")):
                    print(f"\n{sampling}, temperature {temperature}")
                    base = None
                    for name, neg in VARIANTS.items():
                        got = answers(llm, prompts, args.tokens, neg, temperature=temperature, **options)
                        values = np.array([figures(one) for one in got])
                        base = values if base is None else base
                        mean = values.mean(axis=0)
                        line = f"{name:<18} log-lik {mean[0]:.3f}  repetition {mean[1]:.3f}  distinct-2 {mean[2]:.3f}  active {mean[3]:.2%}"
                        changes = {}
                        if name != "off":
                            changes = {
                                key: interval(values[:, k] - base[:, k])
                                for k, key in enumerate(("log-lik", "repetition", "distinct-2"))
                            }
                            line += "  against off: " + ", ".join(f"{key} {value}" for key, value in changes.items())
                        print(line, flush=True)
                        rows.append(
                            {
                                "sampling": sampling, "temperature": temperature, "variant": name, "log_likelihood": mean[0], "repetition": mean[1],
                                "distinct_2": mean[2], "active": mean[3], "against_off": changes,
                            }
                        )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), "utf-8")


if __name__ == "__main__":
    main()
