"""Answers questions under protocols, and writes every answer to the ledger before it waits for the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from ..errors import ContextFullError
from ..protocols import runner
from ..protocols.modes import ModeConfig, Plan
from ..protocols.prompts import PROMPTS, second_opinion
from ..protocols.question import Question, orderings
from ..protocols.sampler import Job, Sampler
from .data import Item
from .kept import KeptSampler
from .ledger import Ledger
from .source import Source

# (answers in the ledger, answers in total, (right, answered) so far by name of the protocol)
Progress = Callable[[int, int, dict[str, tuple[int, int]]], None]


def run(
    sampler: Sampler,
    items: Sequence[Item],
    plans: Sequence[Plan],
    config: ModeConfig,
    ledger: Ledger,
    *,
    early_stop: bool = True,
    in_flight: int | Callable[[], int] = 1,
    progress: Progress = lambda _done, _total, _right: None,
) -> None:
    """Answers what the ledger lacks, using the calls that it already holds.

    Works question by question, each under all plans, so that an unfinished run compares the same questions.
    Errors: those of the sampler; what is in the ledger stays there.
    """
    total = len(items) * len(plans)
    done = sum((i, plan.protocol) in ledger.done for i in range(len(items)) for plan in plans)

    def report_progress() -> None:
        progress(done, total, {plan.name: ledger.right.get(plan.protocol, (0, 0)) for plan in plans})

    report_progress()
    tasks = _open_tasks(items, plans, ledger)
    kept = KeptSampler(sampler, ledger)
    with contextlib.closing(runner.run(kept, tasks, config, early_stop=early_stop, in_flight=in_flight)) as settled:
        for key, answer in settled:
            assert isinstance(key, int)
            ledger.add(key, items[key].domain, items[key].right, answer)
            done += 1
            report_progress()


def _open_tasks(items: Sequence[Item], plans: Sequence[Plan], ledger: Ledger) -> Iterator[runner.Task]:
    for number, item in enumerate(items):
        for plan in plans:
            if (number, plan.protocol) not in ledger.done:
                yield runner.Task(item.question, plan, number)


def check_fits(source: Source, items: Sequence[Item], plans: Sequence[Plan], config: ModeConfig) -> None:
    """Refuses, before hours of work, a context in which some question does not fit.

    A second opinion's prompt depends on answers that do not exist yet; it is counted without extracts, which are cut
    until they fit. Errors: ContextFullError naming the question.
    """
    n_ctx = source.info["n_ctx"]
    render = PROMPTS[config.prompt]
    asks_again = any(plan.second_opinions for plan in plans)
    for item in items:
        prompts = [render(item.question, orderings(item.question, 1, config.seed)[0])]
        if asks_again:
            prompts.append(second_opinion(item.question, _longest_pair(item.question), ["", ""]))
        need = max(source.count_tokens(Job(prompt, (0.0,), 0, False, config)) for prompt in prompts)
        if need >= n_ctx:
            raise ContextFullError(
                f"question {item.question.id!r}: needs about {need} tokens, the context has {n_ctx}; "
                f"{source.more_context}"
            )


def _longest_pair(question: Question) -> tuple[int, int]:
    order = sorted(range(len(question.choices)), key=lambda i: len(question.choices[i]))
    return order[-1], order[-2]
