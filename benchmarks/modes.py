"""Compares modes 2 and 3 with one greedy answer and with 20 separate calls, with the prefix cache and without it.

    python benchmarks/modes.py [--model FILE] [--side-car FILE] [--rounds N] [--max-tokens N]
    python benchmarks/random_qwen35.py /tmp/q.gguf && python benchmarks/modes.py --model /tmp/q.gguf

Wall time and prompt tokens decoded, medians of interleaved rounds; each measurement has an engine of its own, which has
seen nothing but one short prompt before. Every candidate has the same max_tokens. The random model has neither an
opinion nor a head: it runs with the gate off, and its answers cannot be read, so that nothing is decided early, no
second opinion is asked for and mode 3 is 16 inferences. `20 separate calls` are what a loop over `llm.chat` (or
`generate`) would do: the prompts of mode 3 one after another, 4 greedy and 16 sampled.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darwin_neg_cpp import Answer, DarwinNEG, ModeConfig, Neg, Question, SamplingParams, demo_model
from darwin_neg_cpp.protocols.prompts import PROMPTS
from darwin_neg_cpp.protocols.question import orderings

# of this project; a small model has a clear opinion on some and none on others
QUESTIONS = (
    Question("Which planet is nearest to the sun?", ("Venus", "Mercury", "Mars", "Earth"), "planet"),
    Question("Which gas do green plants take in to make sugar?", ("Carbon dioxide", "Helium", "Oxygen", "Neon"), "gas"),
    Question("What is the square root of 144?", ("11", "12", "13", "14"), "root"),
)
SEPARATE_CALLS = 20


def greedy(llm: DarwinNEG, question: Question, config: ModeConfig) -> Answer:
    return llm.answer(question, mode=1, config=config)


def mode_2(llm: DarwinNEG, question: Question, config: ModeConfig) -> Answer:
    return llm.answer(question, mode=2, config=config, early_stop=False)


def mode_3(llm: DarwinNEG, question: Question, config: ModeConfig) -> Answer:
    return llm.answer(question, mode=3, config=config)


def mode_3_full(llm: DarwinNEG, question: Question, config: ModeConfig) -> Answer:
    return llm.answer(question, mode=3, config=config, early_stop=False)


def separate_calls(llm: DarwinNEG, question: Question, config: ModeConfig) -> None:
    neg = None if llm.neg is None else Neg(enabled=config.gate)
    shown = orderings(question, config.orderings, config.seed)
    for i in range(SEPARATE_CALLS):
        prompt = PROMPTS[config.prompt](question, shown[i % len(shown)])
        options = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=0.0 if i < len(shown) else config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            seed=i,
            neg=neg,
        )
        if llm.info["chat_template"]:
            llm.chat([{"role": "user", "content": prompt}], options, enable_thinking=config.thinking)
        else:  # as in the modes, a model without one continues the prompt
            llm.generate(prompt, options)


VARIANTS: dict[str, Callable[[DarwinNEG, Question, ModeConfig], Answer | None]] = {
    "one greedy answer": greedy,
    "mode 2": mode_2,
    "mode 3": mode_3,
    "mode 3, full": mode_3_full,
    f"{SEPARATE_CALLS} separate calls": separate_calls,
}


CACHES = {"": {}, ", no cache": {"prefix_cache": 0}}  # what is said of a variant, and how its engine is opened


@dataclass(frozen=True)
class Measured:
    seconds: float
    prompt_tokens: int  # decoded
    reused: int  # prompt tokens that had been decoded before
    answers: Sequence[Answer]


def measure(llm: DarwinNEG, variant: Callable[..., Answer | None], config: ModeConfig, questions: Any) -> Measured:
    """Measures a variant on all questions, one after another."""
    llm.generate("Once", max_tokens=2)  # starts the threads
    before = llm.stats()
    begin = time.perf_counter()
    out = [variant(llm, question, config) for question in questions]
    seconds = time.perf_counter() - begin
    decoded, reused = (llm.stats()[name] - before[name] for name in ("n_prompt_decoded", "n_prompt_reused"))
    return Measured(seconds, decoded, reused, [answer for answer in out if answer is not None])


def describe(name: str, runs: Sequence[Measured], reference: float) -> str:
    seconds = statistics.median(run.seconds for run in runs)
    decoded, reused = (statistics.median(getattr(run, key) for run in runs) for key in ("prompt_tokens", "reused"))
    planned, finished, tokens = (
        sum(getattr(answer.cost, field) for answer in runs[-1].answers)
        for field in ("planned", "finished", "completion_tokens")
    )
    inferences = f", {finished} of {planned} inferences finished, {tokens} tokens" if runs[-1].answers else ""
    return (
        f"{name:<28} {seconds:8.2f} s  {seconds / reference:6.2f}x one greedy answer, {decoded:.0f} prompt tokens "
        f"decoded, {reused:.0f} reused{inferences}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="GGUF (default: the demo model with its head)")
    parser.add_argument("--side-car", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), choices=range(1, len(QUESTIONS) + 1))
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--n-parallel", type=int, default=16)
    args = parser.parse_args()
    model, side_car = (args.model, args.side_car) if args.model else demo_model.model_and_head()
    options: dict[str, Any] = {"n_ctx": args.n_parallel * (args.max_tokens + 512), "n_parallel": args.n_parallel}
    found: dict[str, list[Measured]] = {name + said: [] for name in VARIANTS for said in CACHES}
    with DarwinNEG(model, n_ctx=512, n_parallel=1) as llm:
        print(
            f"{model.name}, {platform.machine()}, {llm.info['n_threads']} threads, {datetime.date.today()}, "
            f"{args.questions} questions, {args.rounds} rounds, {args.max_tokens} tokens at most, "
            f"{args.n_parallel} side by side",
            flush=True,
        )
    for _ in range(args.rounds):
        for name, variant in VARIANTS.items():
            for said, cache in CACHES.items():
                with DarwinNEG(model, side_car, **options, **cache) as llm:
                    config = ModeConfig(max_tokens=args.max_tokens, gate=llm.neg is not None)
                    found[name + said].append(measure(llm, variant, config, QUESTIONS[: args.questions]))
    medians = {name: statistics.median(run.seconds for run in runs) for name, runs in found.items()}
    for name, runs in found.items():
        print(describe(name, runs, medians["one greedy answer"]))
    for mode in ("mode 2", "mode 3, full"):
        decoded = {said: statistics.median(run.prompt_tokens for run in found[mode + said]) for said in CACHES}
        print(
            f"{mode}: {100 * decoded[''] / decoded[', no cache']:.1f} % of the prompt tokens decoded without the cache"
        )
    separate = f"{SEPARATE_CALLS} separate calls"
    for said in CACHES:
        print(f"mode 3, full, takes {medians['mode 3, full'] / medians[separate + said]:.3f} of {separate}{said}")


if __name__ == "__main__":
    main()
