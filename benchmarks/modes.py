"""Compares mode 3, with and without early stop, with one greedy answer and with 20 separate calls.

    python benchmarks/modes.py [--model FILE] [--side-car FILE] [--rounds N] [--max-tokens N]
    python benchmarks/random_qwen35.py /tmp/q.gguf && python benchmarks/modes.py --model /tmp/q.gguf

Wall time, medians of interleaved rounds. Every candidate has the same max_tokens. The random model has neither an
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
from pathlib import Path

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
    "mode 3": mode_3,
    "mode 3, full": mode_3_full,
    f"{SEPARATE_CALLS} separate calls": separate_calls,
}


def measure(
    llm: DarwinNEG, config: ModeConfig, rounds: int, questions: Sequence[Question]
) -> dict[str, tuple[float, list[Answer]]]:
    """Measures each variant on all questions, one after another.

    Returns the median over rounds of the seconds that it took, and the last round's answers.
    """
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    answers: dict[str, list[Answer]] = {}
    greedy(llm, questions[0], config)  # warms up
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            begin = time.perf_counter()
            out = [variant(llm, question, config) for question in questions]
            seconds[name].append(time.perf_counter() - begin)
            answers[name] = [answer for answer in out if answer is not None]
    return {name: (statistics.median(seconds[name]), answers[name]) for name in VARIANTS}


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
    n_ctx = args.n_parallel * (args.max_tokens + 512)
    with DarwinNEG(model, side_car, n_ctx=n_ctx, n_parallel=args.n_parallel) as llm:
        config = ModeConfig(max_tokens=args.max_tokens, gate=llm.neg is not None)
        print(
            f"{model.name}, {platform.machine()}, {llm.info['n_threads']} threads, {datetime.date.today()}, "
            f"{args.questions} questions, {args.rounds} rounds, {args.max_tokens} tokens at most, "
            f"{args.n_parallel} side by side"
        )
        found = measure(llm, config, args.rounds, QUESTIONS[: args.questions])
    reference = found["one greedy answer"][0]
    for name, (median, answers) in found.items():
        planned, finished, tokens = (
            sum(getattr(answer.cost, field) for answer in answers)
            for field in ("planned", "finished", "completion_tokens")
        )
        inferences = f", {finished} of {planned} inferences finished, {tokens} tokens" if answers else ""
        print(f"{name:<18} {median:8.2f} s  {median / reference:6.2f}x one greedy answer{inferences}")
    full = found["mode 3, full"][0]
    separate = found[f"{SEPARATE_CALLS} separate calls"][0]
    print(f"{SEPARATE_CALLS} separate calls take {separate / full:.2f}x as long as full mode 3")


if __name__ == "__main__":
    main()
