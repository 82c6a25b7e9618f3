"""Progress: the callback that long work takes, and the bar that a command draws from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

# amount done and total, in the same unit
Progress = Callable[[int, int], None]
# name of the step, and its progress
StepProgress = Callable[[str, int, int], None]


def no_progress(done: int, total: int) -> None:
    """The callback for work that nobody watches."""


class ProgressBar:
    """A bar on stderr, drawn on a terminal only and only for work that takes longer than half a second.

    Calling it with (done, total) moves it; `note` is shown after the figures. It closes at the end of a `with` block.
    """

    def __init__(self, title: str, unit: str = "B") -> None:
        self._title = title
        self._unit = unit
        self._shown = sys.stderr.isatty()
        self._bar: Any = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if not self._shown:
            return
        if self._bar is None:
            from tqdm import tqdm

            # what was done before the first call says nothing about how long the rest takes
            self._bar = tqdm(
                total=total, initial=done, desc=self._title, unit=self._unit, unit_scale=True, leave=False, delay=0.5
            )
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Removes the bar. Safe to call twice."""
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def step_bars(units: dict[str, str]) -> Iterator[StepProgress]:
    """Yields a callback (step, done, total) that draws one bar after another. units: of the steps that have one."""
    bar = ProgressBar("")
    current = ""

    def progress(step: str, done: int, total: int) -> None:
        nonlocal bar, current
        if step != current:
            bar.close()
            bar, current = ProgressBar(step, units.get(step, "")), step
        bar(done, total)

    try:
        yield progress
    finally:
        bar.close()
