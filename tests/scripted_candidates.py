"""Questions about nothing, and candidates that vote for them as a test says: in random order, without a model."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from darwin_neg_cpp.protocols import Answer, ModeConfig, Plan, Question, Task, plan, run
from darwin_neg_cpp.protocols.question import LETTERS
from darwin_neg_cpp.protocols.sampler import Job, Output

SECOND = "Several attempts at the following"


def question(n: int = 4, id: str = "q") -> Question:
    return Question("Which one?", tuple(f"text of choice {i}" for i in range(n)), id)


def shown(prompt: str) -> list[str]:
    """The choices in the order in which a prompt shows them."""
    return [match[1] for match in re.finditer(r"^[A-Z][).] (.+)$", prompt, re.MULTILINE)]


def saying(job: Job, choice: str | None, *, reason: str = "Because of physics.") -> str:
    """A text that votes for a choice, whatever its letter in this prompt; None: one that cannot be read."""
    if choice is None:
        return "I cannot say."
    return f"{reason}\n\nAnswer: {LETTERS[shown(job.prompt).index(choice)]}"


class Scripted:
    """A sampler whose samples come to an end in random order and in random groups.

    text: of sample k of a job. late: share of cancelled samples that had come to an end already.
    """

    def __init__(self, text: Callable[[Job, int], str], seed: int = 0, late: float = 0.0, group: int = 3) -> None:
        self._text, self._random, self._late, self._group = text, random.Random(seed), late, group
        self.jobs: list[Job] = []
        self.cancelled: set[int] = set()
        self.closed = False
        self._running: list[tuple[int, int]] = []

    def start(self, jobs: Sequence[Job]) -> list[int]:
        handles = []
        for job in jobs:
            handles.append(len(self.jobs))
            self._running += [(len(self.jobs), k) for k in range(len(job.temperatures))]
            self.jobs.append(job)
        return handles

    def wait(self) -> list[tuple[int, int, Output]]:
        out: list[tuple[int, int, Output]] = []
        while not out:
            for _ in range(self._random.randint(1, self._group)):
                if self._running:
                    one = self._running.pop(self._random.randrange(len(self._running)))
                    out.append((*one, self._output(*one)))
        return out

    def _output(self, handle: int, k: int) -> Output:
        if handle in self.cancelled and self._random.random() >= self._late:
            return Output("Half a sent", self._random.choice([0, 3]), "cancelled", 100)
        return Output(self._text(self.jobs[handle], k), 10, "stop", 100)

    def cancel(self, handle: int) -> None:
        self.cancelled.add(handle)

    def close(self) -> None:
        self.closed = True


def answered(
    sampler: Scripted,
    mode: int | Plan = 3,
    asked: Question | None = None,
    *,
    early_stop: bool = True,
    config: ModeConfig | None = None,
) -> Answer:
    config = config or ModeConfig()
    the_plan = mode if isinstance(mode, Plan) else plan(mode, config)
    ((_, out),) = run(sampler, [Task(asked or question(), the_plan)], config, early_stop=early_stop)
    return out


def voters(order: str, second: str = "") -> Callable[[Job, int], str]:
    """Lets candidate j of the first round, in the order of numbers, vote for choice int(order[j]); "-" cannot be read.

    second: the same for the second opinions.
    """

    def text(job: Job, k: int) -> str:
        # candidates are numbered greedy first over all prompts, then the first samples over all prompts; a prompt's
        # seed is its number
        again = job.prompt.startswith(SECOND)
        j = job.seed - question().seed(0)
        vote = second[k * 2 + j - 4] if again else order[k * 4 + j]
        return saying(job, None if vote == "-" else f"text of choice {vote}", reason=f"Reason for {vote}.")

    return text
