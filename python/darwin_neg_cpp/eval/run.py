"""Questions through protocols, with every answer in the ledger before the next is waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ..errors import ContextFullError
from ..protocols import runner
from ..protocols.modes import ModeConfig, Plan
from ..protocols.prompts import PROMPTS, second_opinion
from ..protocols.question import Question, orderings
from ..protocols.sampler import EngineSampler, Job, Sampler
from .data import Item
from .kept import KeptSampler
from .ledger import Ledger

if TYPE_CHECKING:
    from ..llm import DarwinNEG

# (answers in the ledger, of so many, right and answered so far by protocol)
Progress = Callable[[int, int, dict[str, tuple[int, int]]], None]


def run(
    sampler: Sampler,
    items: Sequence[Item],
    plans: Sequence[Plan],
    config: ModeConfig,
    ledger: Ledger,
    *,
    early_stop: bool = True,
    in_flight: int = 1,
    progress: Progress = lambda _done, _total, _right: None,
) -> None:
    """Answers what the ledger lacks, with the calls that it holds already: question by question, each under all plans, so that an unfinished run compares the same questions.

    Errors: those of the sampler; what is in the ledger stays there.
    """
    names = [plan.name for plan in plans]
    total = len(items) * len(plans)
    done = sum((i, name) in ledger.done for i in range(len(items)) for name in names)

    def tell() -> None:
        progress(done, total, {name: ledger.right.get(name, (0, 0)) for name in names})

    tell()
    tasks = _tasks(items, plans, ledger)
    kept = KeptSampler(sampler, ledger)
    with contextlib.closing(runner.run(kept, tasks, config, early_stop=early_stop, in_flight=in_flight)) as settled:
        for key, answer in settled:
            assert isinstance(key, int)
            ledger.add(key, items[key].domain, items[key].right, answer)
            done += 1
            tell()


def _tasks(items: Sequence[Item], plans: Sequence[Plan], ledger: Ledger) -> Iterator[runner.Task]:
    for number, item in enumerate(items):
        for plan in plans:
            if (number, plan.name) not in ledger.done:
                yield runner.Task(item.question, plan, number)


def check_fits(llm: DarwinNEG, items: Sequence[Item], plans: Sequence[Plan], config: ModeConfig) -> None:
    """Refuses, before hours of work, a context in which some question of the set would not fit. Errors: ContextFullError naming the question.

    A second opinion's prompt depends on answers that are not there yet; it is taken without extracts, which are cut until it fits.
    """
    sampler = EngineSampler(llm.session)
    n_ctx = llm.info["n_ctx"]
    asks_again = any(plan.second_opinions for plan in plans)
    for item in items:
        need = _tokens(
            sampler, PROMPTS[config.prompt](item.question, orderings(item.question, 1, config.seed)[0]), config
        )
        if asks_again:
            pair = _longest_pair(item.question)
            need = max(need, _tokens(sampler, second_opinion(item.question, pair, ["", ""]), config))
        if need >= n_ctx:
            raise ContextFullError(
                f"question {item.question.id!r}: needs about {need} tokens, the context has {n_ctx}; raise --n-ctx"
            )


def _tokens(sampler: EngineSampler, prompt: str, config: ModeConfig) -> int:
    return len(sampler.prompt_tokens(Job(prompt, (0.0,), 0, False, config)))


def _longest_pair(question: Question) -> tuple[int, int]:
    order = sorted(range(len(question.choices)), key=lambda i: len(question.choices[i]))
    return order[-1], order[-2]
