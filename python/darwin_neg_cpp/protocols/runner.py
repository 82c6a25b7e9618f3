"""Runs plans: all candidates of a question, and of several questions, side by side; votes; stops when the answer cannot change any more."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ContextFullError, RequestError
from . import voting
from .extract import Extracted, How, extract, reasoning_extract
from .modes import ModeConfig, Plan, plan
from .prompts import PROMPTS, second_opinion
from .question import LETTERS, Ordering, Question, choice_at, letters, orderings
from .sampler import Job, Output, Sampler
from .voting import Pending, Vote

Watch = Callable[[object, "Candidate"], None]


def answer(
    sampler: Sampler,
    question: Question,
    mode: int,
    *,
    config: ModeConfig | None = None,
    early_stop: bool = True,
    watch: Watch | None = None,
) -> Answer:
    """Answers one question; see Answer and ModeConfig. Closes the sampler."""
    return answer_many(sampler, [question], mode, config=config, early_stop=early_stop, watch=watch)[0]


def answer_many(
    sampler: Sampler,
    questions: Sequence[Question],
    mode: int,
    *,
    config: ModeConfig | None = None,
    early_stop: bool = True,
    in_flight: int = 4,
    watch: Watch | None = None,
) -> list[Answer]:
    """Answers questions, in order; works on `in_flight` of them at once. Closes the sampler.

    watch: called with the index of a question and each of its candidates as they come to an end.
    Errors: NegHeadError; RequestError, ContextFullError, which name the question.
    """
    config = config or ModeConfig()
    the_plan = plan(mode, config)
    tasks = (Task(question, the_plan, i) for i, question in enumerate(questions))
    found: dict[object, Answer] = {}
    settled = run(sampler, tasks, config, early_stop=early_stop, in_flight=in_flight, watch=watch)
    with contextlib.closing(settled):
        found.update(settled)
    return [found[i] for i in range(len(questions))]


def run(
    sampler: Sampler,
    tasks: Iterable[Task],
    config: ModeConfig,
    *,
    early_stop: bool = True,
    in_flight: int = 1,
    watch: Watch | None = None,
) -> Generator[tuple[object, Answer], None, None]:
    """(key, answer) of each task as it is settled, `in_flight` tasks at a time. Leaving the loop cancels what runs.

    tasks: taken from one by one, as places become free. watch: called with a task's key and each candidate that has come to an end.
    """
    if isinstance(in_flight, bool) or not isinstance(in_flight, int) or in_flight < 1:
        raise RequestError(f"in_flight must be a whole number of at least 1, got {in_flight!r}")
    return _settled(sampler, tasks, config, early_stop, in_flight, watch)


def _settled(
    sampler: Sampler, tasks: Iterable[Task], config: ModeConfig, early_stop: bool, in_flight: int, watch: Watch | None
) -> Generator[tuple[object, Answer], None, None]:
    waiting = iter(tasks)
    running: dict[int, _Run] = {}  # by handle
    active = 0
    try:
        while True:
            while active < in_flight and (task := next(waiting, None)) is not None:
                one = _Run(task, config, sampler, early_stop)
                running.update((handle, one) for handle in one.handles)
                active += 1
            if not active:
                return
            for handle, sample, output in sampler.wait():
                one = running[handle]
                candidate = one.take(handle, sample, output)
                if handle not in one.handles:
                    del running[handle]
                running.update((new, one) for new in one.handles)
                if watch is not None:
                    watch(one.task.key, candidate)
                if not one.handles:
                    active -= 1
                    yield one.task.key, one.answer()
    finally:
        sampler.close()


@dataclass(frozen=True)
class Candidate:
    """One inference. number: in the order that ties look at. ordering: choices by letter. seed, sample: what its text depends on, beside the prompt.

    letter: as read from the text, "" when none could be. choice: the index that stands for, None without a letter. how: by which rule it was read.
    mean_entropy (nats), activation_rate: predicted, None without a head.
    counted: whether it took part in the vote, with or without a letter; not when it was cancelled, nor when it ended after the answer was certain.
    """

    number: int
    kind: Literal["first", "second opinion"]
    ordering: Ordering
    temperature: float
    seed: int
    sample: int
    text: str
    letter: str
    choice: int | None
    how: How
    tokens: int
    finish_reason: str
    mean_entropy: float | None
    activation_rate: float | None
    token_ids: tuple[int, ...] = ()
    counted: bool = True


@dataclass(frozen=True)
class Cost:
    """planned: inferences of the full protocol. started: of them, those that generated anything. finished: those that came to their own end.

    prompt_tokens: each prompt once, of those that were begun. completion_tokens: of cancelled candidates too. seconds: of wall time, from the
    question's start to its answer; questions that run side by side share the machine.
    """

    planned: int
    started: int
    finished: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @property
    def saved(self) -> int:
        """Inferences of the full protocol that were not run to their end."""
        return self.planned - self.finished


@dataclass(frozen=True)
class Answer:
    """choice: index of the winner, None when no candidate could be read. votes: of each choice. tied: whether equal numbers of votes had to be resolved.

    margin: votes between the first and the second. second_opinions: how many were asked for. stopped: "complete", or "certain" when the rest was
    cancelled because it could not change the winner; votes, tied and margin are then those that made it certain.
    """

    question: Question
    mode: str
    choice: int | None
    votes: tuple[int, ...]
    tied: bool
    margin: int
    candidates: tuple[Candidate, ...]
    second_opinions: int
    stopped: Literal["complete", "certain"]
    cost: Cost

    @property
    def text(self) -> str | None:
        """The winning choice."""
        return None if self.choice is None else self.question.choices[self.choice]

    @property
    def letter(self) -> str:
        """Of the winning choice, in the order in which the question lists them; "" without an answer."""
        return "" if self.choice is None else LETTERS[self.choice]

    @property
    def unparsed(self) -> int:
        """Candidates that came to an end and could not be read."""
        return sum(one.choice is None for one in self.candidates if one.finish_reason != "cancelled")

    @property
    def fallbacks(self) -> int:
        """Candidates that were read by the fallback."""
        return sum(one.how == "fallback" for one in self.candidates)

    @property
    def truncated(self) -> int:
        """Candidates that ran into max_tokens or the end of the context."""
        return sum(one.finish_reason == "length" for one in self.candidates)

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Numbers that are not finite become None."""
        out = dataclasses.asdict(self)
        for one in out["candidates"]:
            for name in ("mean_entropy", "activation_rate"):
                one[name] = one[name] if one[name] is not None and math.isfinite(one[name]) else None
        names = ("question", "mode", "choice")
        return {name: out.pop(name) for name in names} | {
            "letter": self.letter,
            "text": self.text,
            **out,
            "unparsed": self.unparsed,
            "fallbacks": self.fallbacks,
            "truncated": self.truncated,
            "cost": {**out["cost"], "saved": self.cost.saved},
        }


@dataclass(frozen=True)
class Task:
    """A question to be answered by a plan. key: anything, given back with the answer."""

    question: Question
    plan: Plan
    key: object = None


@dataclass(frozen=True)
class _Asked:
    """One prompt: the ordering it shows, and what to generate from it."""

    prompt: str
    ordering: Ordering
    temperatures: tuple[float, ...]
    seed: int


@dataclass(frozen=True)
class _Slot:
    """A candidate that has been started."""

    number: int
    kind: Literal["first", "second opinion"]
    ordering: Ordering
    temperature: float
    seed: int
    sample: int

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class _Run:
    """One question on its way through a plan: first all candidates of the orderings, then, where they have not decided, second opinions."""

    def __init__(self, task: Task, config: ModeConfig, sampler: Sampler, early_stop: bool) -> None:
        self.task = task
        self._question = task.question
        self._n_choices = len(task.question.choices)
        self._config = config
        self._sampler = sampler
        self._early_stop = early_stop
        self._begin = time.perf_counter()
        self._slots: dict[tuple[int, int], _Slot] = {}  # not finished, by handle and sample
        self._candidates: list[Candidate] = []
        self._votes: list[Vote] = []
        self._planned = 0
        self._prompt_tokens: dict[int, int] = {}  # by handle
        self._certain = False
        self._second_opinions = 0
        shown = orderings(task.question, task.plan.orderings, config.seed)
        self._seed = task.question.seed(config.seed)
        self._first_second_seed = self._seed + len(shown)
        render = PROMPTS[config.prompt]
        self._start(
            "first",
            [
                _Asked(render(task.question, ordering), ordering, task.plan.temperatures, self._seed + j)
                for j, ordering in enumerate(shown)
            ],
        )

    @property
    def handles(self) -> set[int]:
        """Of what still runs; empty when the question is settled."""
        return {handle for handle, _ in self._slots}

    def take(self, handle: int, sample: int, output: Output) -> Candidate:
        """A candidate that has come to an end. Cancels the rest, or asks for second opinions, as the case may be."""
        slot = self._slots.pop((handle, sample))
        candidate = _read(slot, output, counted=not self._certain and output.finish_reason != "cancelled")
        self._candidates.append(candidate)
        if output.tokens:
            self._prompt_tokens[handle] = output.prompt_tokens
        if candidate.counted:
            self._votes.append(Vote(slot.number, candidate.choice, slot.greedy))
        if self._certain:
            return candidate
        outstanding = [*(Pending(one.number, one.greedy) for one in self._slots.values()), *self._possible()]
        if not self._slots:
            self._ask_again_unless_decided(outstanding)
        elif self._early_stop and voting.decided(self._votes, outstanding, self._n_choices):
            self._certain = True
            for running in self.handles:
                self._sampler.cancel(running)
        return candidate

    def answer(self) -> Answer:
        """When nothing runs any more."""
        ended = [one for one in self._candidates if one.finish_reason != "cancelled"]
        return Answer(
            question=self._question,
            mode=self.task.plan.name,
            choice=voting.winner(self._votes, self._n_choices),
            votes=voting.counts(self._votes, self._n_choices),
            tied=voting.tied(self._votes, self._n_choices),
            margin=voting.margin(self._votes, self._n_choices),
            candidates=tuple(sorted(self._candidates, key=lambda one: one.number)),
            second_opinions=self._second_opinions,
            stopped="certain" if self._certain else "complete",
            cost=Cost(
                planned=self._planned,
                started=sum(one.tokens > 0 or one.finish_reason != "cancelled" for one in self._candidates),
                finished=len(ended),
                prompt_tokens=sum(self._prompt_tokens.values()),
                completion_tokens=sum(one.tokens for one in self._candidates),
                seconds=time.perf_counter() - self._begin,
            ),
        )

    def _start(self, kind: Literal["first", "second opinion"], asked: list[_Asked]) -> None:
        plan = self.task.plan
        key = (self.task.key, plan.name)
        jobs = [Job(one.prompt, one.temperatures, one.seed, plan.neg, self._config, key) for one in asked]
        try:
            handles = self._sampler.start(jobs)
        except (RequestError, ContextFullError) as error:
            name = self._question.id
            raise type(error)(f"question {name!r}: {error}" if name else str(error)) from error
        # the greedy candidates of all prompts have the lowest numbers, then come the first samples of all prompts, and so on
        places = sorted((k, j) for j, one in enumerate(asked) for k in range(len(one.temperatures)))
        for number, (k, j) in enumerate(places, self._planned):
            one = asked[j]
            self._slots[handles[j], k] = _Slot(number, kind, one.ordering, one.temperatures[k], one.seed, k)
        self._planned += len(places)

    def _possible(self) -> list[Pending]:
        """Second opinions that may still be asked for, numbered as _start would."""
        if self._second_opinions:
            return []
        rows = self.task.plan.second_opinion_temperatures(self._config)
        temperatures = [row[k] for k in range(len(rows[0]) if rows else 0) for row in rows if k < len(row)]
        return [Pending(self._planned + i, greedy=temperature == 0) for i, temperature in enumerate(temperatures)]

    def _ask_again_unless_decided(self, possible: list[Pending]) -> None:
        leaders = voting.ranking(self._votes, self._n_choices)[:2]
        if len(leaders) < 2 or voting.decided(self._votes, possible, self._n_choices):
            return
        self._second_opinions = len(possible)
        characters = self._config.extract_characters
        while True:
            try:
                self._start("second opinion", self._opposed(leaders, characters))
                return
            except ContextFullError:
                if not characters:
                    raise
                characters //= 2

    def _opposed(self, leaders: list[int], characters: int) -> list[_Asked]:
        """The prompts of the second opinions, with extracts of at most so many characters."""
        asked = []
        for j, temperatures in enumerate(self.task.plan.second_opinion_temperatures(self._config)):
            pair = tuple(leaders if j == 0 else reversed(leaders))
            extracts = [self._argument(choice, characters) for choice in pair]
            prompt = second_opinion(self._question, pair, extracts)
            asked.append(_Asked(prompt, pair, temperatures, self._first_second_seed + j))
        return asked

    def _argument(self, choice: int, characters: int) -> str:
        """What the candidate with the lowest number that voted for a choice said for it."""
        mine = min((one for one in self._candidates if one.choice == choice), key=lambda one: one.number)
        return reasoning_extract(mine.text, characters)


def _read(slot: _Slot, output: Output, *, counted: bool) -> Candidate:
    found = Extracted("", "none")
    if output.finish_reason != "cancelled":
        found = extract(output.text, letters(slot.ordering), truncated=output.finish_reason == "length")
    return Candidate(
        number=slot.number,
        kind=slot.kind,
        ordering=slot.ordering,
        temperature=slot.temperature,
        seed=slot.seed,
        sample=slot.sample,
        text=output.text,
        letter=found.letter,
        choice=choice_at(slot.ordering, found.letter),
        how=found.how,
        tokens=output.tokens,
        finish_reason=output.finish_reason,
        mean_entropy=output.mean_entropy,
        activation_rate=output.activation_rate,
        token_ids=output.token_ids,
        counted=counted,
    )
