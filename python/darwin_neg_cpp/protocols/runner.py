"""Runs plans: all candidates of a question, and of several questions, side by side.

Counts their votes, and stops when the answer cannot change any more.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

from ..checks import check_integer
from ..errors import ContextFullError, RequestError
from . import escalation, voting
from .answer import Answer, Candidate, Cost, Round
from .extract import Extracted, extract, reasoning_extract
from .modes import Mode, ModeConfig, Plan, plan
from .prompts import PROMPTS, second_opinion
from .question import Ordering, Question, choice_at, letters, orderings
from .sampler import Job, Output, Sampler
from .signals import DEFAULT
from .voting import Pending, Vote

# called with the key of a task and each of its candidates as they end
Watch = Callable[[object, Candidate], None]


@dataclass(frozen=True)
class Task:
    """A question to be answered by a plan. key: any value, returned with the answer."""

    question: Question
    plan: Plan
    key: object = None


@dataclass(frozen=True)
class _Prompt:
    """One prompt: the ordering it shows, and what to generate from it. only: see Job."""

    text: str
    ordering: Ordering
    temperatures: tuple[float, ...]
    seed: int
    only: int | None = None


@dataclass(frozen=True)
class _Slot:
    """A candidate that has been started."""

    number: int
    kind: Round
    ordering: Ordering
    temperature: float
    seed: int
    sample: int

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class _Run:
    """One question on its way through a plan.

    The stages of its plan run one after the other (all but mode auto have one), then second opinions if the candidates
    have not decided. Mode auto ends after the first stage of which it is sure.
    """

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
        self._prompt_tokens: dict[int, int] = {}  # by seed, which each prompt has one of
        self._certain = False
        self._second_opinions = 0
        shown = orderings(task.question, task.plan.orderings, config.seed)
        self._seed = task.question.seed(config.seed)
        self._first_second_seed = self._seed + len(shown)
        render = PROMPTS[config.prompt]
        self._prompts = [
            _Prompt(render(task.question, ordering), ordering, task.plan.temperatures, self._seed + j)
            for j, ordering in enumerate(shown)
        ]
        self._reached = 1  # the stage that runs, from 1
        self._waiting = task.plan.stages(len(shown))[1:]
        self._start("first", self._first_stage())

    @property
    def handles(self) -> set[int]:
        """Handles of the jobs that still run; empty when the question is settled."""
        return {handle for handle, _ in self._slots}

    def take(self, handle: int, sample: int, output: Output) -> Candidate:
        """Takes a candidate that has ended.

        Cancels the others if the answer is certain; if none is left, goes on to what could still change the answer.
        """
        slot = self._slots.pop((handle, sample))
        candidate = _read(slot, output, counted=not self._certain and _is_answer(output))
        self._candidates.append(candidate)
        if output.tokens:
            self._prompt_tokens[slot.seed] = output.prompt_tokens
        if candidate.counted:
            self._votes.append(Vote(slot.number, candidate.choice, slot.greedy))
        if self._certain:
            return candidate
        outstanding = [*(Pending(other.number, other.greedy) for other in self._slots.values()), *self._unstarted()]
        if not self._slots:
            self._go_on(outstanding)
        elif self._early_stop and voting.decided(self._votes, outstanding, self._n_choices):
            self._certain = True
            for running in self.handles:
                self._sampler.cancel(running)
        return candidate

    def answer(self) -> Answer:
        """Returns the answer, once nothing runs any more."""
        finished = [candidate for candidate in self._candidates if candidate.finish_reason != "cancelled"]
        return Answer(
            question=self._question,
            protocol=self.task.plan.protocol,
            choice=self._winner(),
            votes=voting.counts(self._votes, self._n_choices),
            tied=voting.tied(self._votes, self._n_choices),
            margin=voting.margin(self._votes, self._n_choices),
            candidates=tuple(sorted(self._candidates, key=lambda candidate: candidate.number)),
            second_opinions=self._second_opinions,
            stopped="certain" if self._certain else "complete",
            cost=Cost(
                planned=self._planned,
                started=sum(
                    candidate.tokens > 0 or candidate.finish_reason != "cancelled" for candidate in self._candidates
                ),
                finished=len(finished),
                prompt_tokens=sum(self._prompt_tokens.values()),
                completion_tokens=sum(candidate.tokens for candidate in self._candidates),
                seconds=time.perf_counter() - self._begin,
            ),
        )

    def _first_stage(self) -> list[_Prompt]:
        return [self._sample(0, 0)] if self.task.plan.protocol.is_auto else self._prompts

    def _sample(self, j: int, k: int) -> _Prompt:
        """Sample k of prompt j by itself."""
        prompt = self._prompts[j]
        return replace(prompt, temperatures=prompt.temperatures[k : k + 1], only=k)

    def _go_on(self, outstanding: list[Pending]) -> None:
        """Starts the next stage, or second opinions, unless the answer stands."""
        if self._waiting:
            if escalation.is_sure(self._reached, self._winner(), self._candidates, self._config):
                return
            if self._early_stop and voting.decided(self._votes, outstanding, self._n_choices):
                self._certain = True
                return
        while self._waiting:
            self._reached += 1
            if stage := self._waiting.pop(0):
                self._start("first", [self._sample(j, k) for j, k in stage])
                return
        self._ask_again_unless_decided(self._possible())

    def _winner(self) -> int | None:
        return voting.winner(self._votes, self._n_choices)

    def _start(self, kind: Round, prompts: list[_Prompt]) -> None:
        plan = self.task.plan
        key = (self.task.key, plan.protocol)
        jobs = [
            Job(
                prompt.text,
                prompt.temperatures,
                prompt.seed,
                plan.neg,
                self._config,
                key,
                only=prompt.only,
                letters=letters(prompt.ordering),
            )
            for prompt in prompts
        ]
        try:
            handles = self._sampler.start(jobs)
        except (RequestError, ContextFullError) as error:
            name = self._question.id
            raise type(error)(f"question {name!r}: {error}" if name else f"question: {error}") from error
        # the greedy candidates of all prompts have the lowest numbers, then the first samples of all prompts, and so on
        places = sorted((k, j) for j, prompt in enumerate(prompts) for k in range(len(prompt.temperatures)))
        for number, (k, j) in enumerate(places, self._planned):
            prompt = prompts[j]
            sample = k if prompt.only is None else prompt.only
            self._slots[handles[j], k] = _Slot(
                number, kind, prompt.ordering, prompt.temperatures[k], prompt.seed, sample
            )
        self._planned += len(places)

    def _unstarted(self) -> list[Pending]:
        """Returns the candidates of stages that may still be reached, and the second opinions."""
        greedy = [k == 0 for stage in self._waiting for _, k in stage]
        return [*(Pending(self._planned + i, one) for i, one in enumerate(greedy)), *self._possible(len(greedy))]

    def _possible(self, before: int = 0) -> list[Pending]:
        """Returns the second opinions that may still be asked for, numbered as _start would number them.

        before: number of candidates that come before them.
        """
        if self._second_opinions:
            return []
        rows = self.task.plan.second_opinion_temperatures(self._config)
        temperatures = [row[k] for k in range(len(rows[0]) if rows else 0) for row in rows if k < len(row)]
        return [
            Pending(self._planned + before + i, greedy=temperature == 0) for i, temperature in enumerate(temperatures)
        ]

    def _ask_again_unless_decided(self, possible: list[Pending]) -> None:
        leaders = voting.ranking(self._votes, self._n_choices)[:2]
        if len(leaders) < 2 or voting.decided(self._votes, possible, self._n_choices):
            return
        self._second_opinions = len(possible)
        characters = self._config.extract_characters
        while True:
            try:
                self._start("second opinion", self._opposing_prompts(leaders, characters))
                return
            except ContextFullError:
                if not characters:
                    raise
                characters //= 2

    def _opposing_prompts(self, leaders: list[int], characters: int) -> list[_Prompt]:
        """Makes the prompts of the second opinions, with extracts of at most `characters` characters."""
        prompts = []
        for j, temperatures in enumerate(self.task.plan.second_opinion_temperatures(self._config)):
            pair = tuple(leaders if j == 0 else reversed(leaders))
            extracts = [self._argument(choice, characters) for choice in pair]
            text = second_opinion(self._question, pair, extracts)
            prompts.append(_Prompt(text, pair, temperatures, self._first_second_seed + j))
        return prompts

    def _argument(self, choice: int, characters: int) -> str:
        """Extracts the argument of the lowest-numbered candidate that voted for a choice."""
        voters = (candidate for candidate in self._candidates if candidate.choice == choice)
        first = min(voters, key=lambda candidate: candidate.number)
        return reasoning_extract(first.text, characters)


def answer(
    sampler: Sampler,
    question: Question,
    mode: Mode,
    *,
    config: ModeConfig | None = None,
    early_stop: bool = True,
    watch: Watch | None = None,
) -> Answer:
    """Answers one question; see Answer and ModeConfig. Closes the sampler."""
    return answer_many(sampler, [question], mode, config=config, early_stop=early_stop, watch=watch)[0]


def answer_any(
    sampler: Sampler,
    question: object,
    mode: Mode,
    *,
    config: ModeConfig | None = None,
    early_stop: bool = True,
    in_flight: int = 4,
    abstain_above: float | None = None,
    abstain_signal: str = DEFAULT,
) -> Answer | list[Answer]:
    """Answers a question, or a list of them: an answer, or a list. Closes the sampler. Errors: those of answer_many."""
    several = isinstance(question, (list, tuple))
    items: list[Question] = []
    for item in question if isinstance(question, (list, tuple)) else [question]:
        if not isinstance(item, Question):
            raise RequestError(f"question must be a Question or a list of them, got {type(item).__name__}")
        items.append(item)
    answers = answer_many(
        sampler,
        items,
        mode,
        config=config,
        early_stop=early_stop,
        in_flight=in_flight,
        abstain_above=abstain_above,
        abstain_signal=abstain_signal,
    )
    return answers if several else answers[0]


def answer_many(
    sampler: Sampler,
    questions: Sequence[Question],
    mode: Mode,
    *,
    config: ModeConfig | None = None,
    early_stop: bool = True,
    in_flight: int = 4,
    watch: Watch | None = None,
    abstain_above: float | None = None,
    abstain_signal: str = DEFAULT,
) -> list[Answer]:
    """Answers questions, in order; works on `in_flight` of them at once. Closes the sampler.

    watch: called with the index of a question and each of its candidates as they end. abstain_above: withhold answers
    whose uncertainty, the signal `abstain_signal` (see signals), lies above this.
    Errors: NegHeadError; RequestError, ContextFullError, which name the question.
    """
    config = config or ModeConfig()
    the_plan = plan(mode, config)
    above, signal = escalation.check_abstaining(abstain_above, abstain_signal)
    tasks = (Task(question, the_plan, i) for i, question in enumerate(questions))
    settled = run(sampler, tasks, config, early_stop=early_stop, in_flight=in_flight, watch=watch)
    with contextlib.closing(settled):
        # as they come, so that a signal that is not known is an error of the first answer
        answers = {key: _withhold(answer, above, signal) for key, answer in settled}
    return [answers[i] for i in range(len(questions))]


def _withhold(answer: Answer, above: float | None, signal: str) -> Answer:
    if above is None:
        return answer
    reason = escalation.reason_to_abstain(answer.choice, answer.candidates, above, signal)
    return answer if reason is None else replace(answer, choice=None, abstained=reason)


def run(
    sampler: Sampler,
    tasks: Iterable[Task],
    config: ModeConfig,
    *,
    early_stop: bool = True,
    in_flight: int | Callable[[], int] = 1,
    watch: Watch | None = None,
) -> Generator[tuple[object, Answer], None, None]:
    """Yields (key, answer) of each task as it is settled; works on `in_flight` tasks at a time.

    Leaving the loop cancels what runs and closes the sampler. in_flight: a function where that may change meanwhile.
    tasks: taken one by one, as places become free. watch: called with a task's key and each candidate that has ended.
    """
    if callable(in_flight):
        return _settle(sampler, tasks, config, early_stop, in_flight, watch)
    places = check_integer("in_flight", in_flight, low=1)
    return _settle(sampler, tasks, config, early_stop, lambda: places, watch)


def _settle(
    sampler: Sampler,
    tasks: Iterable[Task],
    config: ModeConfig,
    early_stop: bool,
    in_flight: Callable[[], int],
    watch: Watch | None,
) -> Generator[tuple[object, Answer], None, None]:
    waiting = iter(tasks)
    runs: dict[int, _Run] = {}  # by handle
    active = 0
    try:
        while True:
            while active < in_flight() and (task := next(waiting, None)) is not None:
                run = _Run(task, config, sampler, early_stop)
                runs.update((handle, run) for handle in run.handles)
                active += 1
            if not active:
                return
            for handle, sample, output in sampler.wait():
                run = runs[handle]
                candidate = run.take(handle, sample, output)
                if handle not in run.handles:
                    del runs[handle]
                runs.update((new, run) for new in run.handles)
                if watch is not None:
                    watch(run.task.key, candidate)
                if not run.handles:
                    active -= 1
                    yield run.task.key, run.answer()
    finally:
        sampler.close()


def _is_answer(output: Output) -> bool:
    return output.finish_reason not in ("cancelled", "error")


def _read(slot: _Slot, output: Output, *, counted: bool) -> Candidate:
    extracted = Extracted("", "none")
    if _is_answer(output):
        extracted = extract(output.text, letters(slot.ordering), truncated=output.finish_reason == "length")
    return Candidate(
        number=slot.number,
        kind=slot.kind,
        ordering=slot.ordering,
        temperature=slot.temperature,
        seed=slot.seed,
        sample=slot.sample,
        text=output.text,
        letter=extracted.letter,
        choice=choice_at(slot.ordering, extracted.letter),
        how=extracted.how,
        tokens=output.tokens,
        finish_reason=output.finish_reason,
        mean_entropy=output.mean_entropy,
        activation_rate=output.activation_rate,
        token_ids=output.token_ids,
        counted=counted,
        error=output.error,
        signals=output.signals,
    )
