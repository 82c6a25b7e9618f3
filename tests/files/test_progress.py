"""Progress bars: on a terminal only, one at a time, and gone when the work is done."""

from __future__ import annotations

import io
import sys
import time

import pytest

from darwin_neg_cpp.files.progress import ProgressBar, step_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest puts its own stderr back between fixtures and test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_bar_shows_its_title_its_note_and_what_is_done_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    with ProgressBar("converting", unit=" tensors") as progress:
        progress(0, 8)
        time.sleep(0.6)
        progress(6, 8, "mode 0 50 %")
        shown = terminal.getvalue().split("\r")[-1]
        assert "converting" in shown and "6.00/8.00" in shown and " tensors" in shown and "mode 0 50 %" in shown
    assert terminal.getvalue().rstrip("\r").split("\r")[-1].strip() == ""


def test_what_was_done_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    with ProgressBar("evaluating", unit=" answers") as progress:
        progress(1_000_000, 1_000_010)
        time.sleep(0.6)
        progress(1_000_001, 1_000_010)
        assert "1.00M/1.00M" in terminal.getvalue() and "M answers/s" not in terminal.getvalue()


def test_steps_have_one_bar_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    with step_bars({"train": " epochs"}) as progress:
        for step in ("capture", "train"):
            progress(step, 0, 4)
            time.sleep(0.6)
            progress(step, 2, 4)
    shown = terminal.getvalue()
    assert shown.index("capture") < shown.index("train") and shown.count(" epochs") == 1
    assert "capture" not in shown[shown.index("train") :]


def test_nothing_is_drawn_into_a_pipe_or_for_quick_work(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, quick = io.StringIO(), Terminal()
    for stream, wait in ((pipe, 0.6), (quick, 0.0)):
        monkeypatch.setattr(sys, "stderr", stream)
        with ProgressBar("converting") as progress:
            progress(0, 8)
            time.sleep(wait)
            progress(8, 8)
    assert pipe.getvalue() == "" and quick.getvalue().strip() == ""
