"""Ctrl-C at any moment leaves nothing running.

With the scripted engine (fake_core) an interrupt comes before every single instruction of ours, from the moment at
which requests exist. With the compiled engine, SIGINT comes at random moments.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import darwin_neg_cpp
import fake_core
from darwin_neg_cpp import DarwinNEG, ModeConfig
from darwin_neg_cpp.protocols.sampler import EngineSampler, Job

PACKAGE = str(Path(darwin_neg_cpp.__file__).parent)
INTERRUPTED = (PACKAGE, str(contextlib.__file__))
MESSAGES = [{"role": "user", "content": "thinker"}]


class Interrupter:
    """Raises KeyboardInterrupt before instruction number `at` that runs after requests have been submitted."""

    def __init__(self, at: int) -> None:
        self.at, self.seen, self.submitted = at, 0, False
        self.last: tuple[CodeType, int] | None = None

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(INTERRUPTED):
            return None  # the scripted engine stands for C++, which no interrupt divides
        if file.endswith(("checks.py", "sampling.py")):
            return None  # they have come to their end before anything is submitted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and self.submitted and not _is_cleanup(frame):
            if self.seen == self.at:
                self.last = (frame.f_code, frame.f_lineno)
                raise KeyboardInterrupt
            self.seen += 1
        return self._step


def _is_cleanup(frame: FrameType) -> bool:
    """Whether the next instruction ends an `except` block: Python handles no signal there, and would lose count."""
    name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
    return frame.f_lineno is None or name in ("POP_EXCEPT", "RERAISE")


def _generate(llm: DarwinNEG) -> None:
    llm.generate(["a b", "c"], n=2)


def _stream(llm: DarwinNEG) -> None:
    for _ in llm.stream("a b"):
        pass


def _chat(llm: DarwinNEG) -> None:
    llm.chat(MESSAGES)


def _stream_chat(llm: DarwinNEG) -> None:
    for _ in llm.stream_chat(MESSAGES):
        pass


def _agenerate(llm: DarwinNEG) -> None:
    asyncio.run(llm.agenerate(["a b", "c"]))


def _astream(llm: DarwinNEG) -> None:
    async def main() -> None:
        async for _ in llm.astream("a b"):
            pass

    asyncio.run(main())


def _sampler(llm: DarwinNEG) -> None:
    sampler = EngineSampler(llm.session)
    sampler.start([Job(f"question {k}", (0.0, 1.0), k, True, ModeConfig()) for k in range(2)])
    while sampler.wait():
        pass


@pytest.mark.slow
# an interrupt between the call of Queue.get and its await, as any coroutine may meet
@pytest.mark.filterwarnings("ignore:coroutine 'Queue.get' was never awaited:RuntimeWarning")
@pytest.mark.parametrize("run", [_generate, _stream, _chat, _stream_chat, _agenerate, _astream, _sampler])
def test_an_interrupt_before_any_instruction_leaves_no_request(
    llm: DarwinNEG, monkeypatch: pytest.MonkeyPatch, run: Callable[[DarwinNEG], None]
) -> None:
    engine = fake_core.Engine.last
    submit = fake_core.Engine.submit
    interrupter: Interrupter

    def noted(*args: Any, **options: Any) -> Any:
        interrupter.submitted = True
        return submit(*args, **options)

    monkeypatch.setattr(fake_core.Engine, "submit", noted)
    at = 0
    while True:
        interrupter = Interrupter(at)
        interrupted = False
        try:
            with interrupter.tracing():
                run(llm)
        except KeyboardInterrupt:
            interrupted = True
        if engine.requests:
            gc.collect()
        assert not engine.requests, f"interrupted at instruction {at}, in {interrupter.last}"
        engine.calls.clear()
        if not interrupted:
            break
        at += 1
    assert at > 50
    assert llm.generate("still works").text == "still works "


SIGNALS = 200
CHILD = """
import sys
from darwin_neg_cpp import DarwinNEG

def use(llm, kind):
    if kind == "generate":
        llm.generate(["hello", "world"], n=3, max_tokens=400, ignore_eos=True, seed=1)
    else:
        for chunk in llm.stream("hello", n=2, max_tokens=400, ignore_eos=True, seed=1):
            pass

with DarwinNEG(sys.argv[1], n_ctx=512, n_parallel=8, n_threads=1) as llm:
    done = 0
    while done < int(sys.argv[2]):
        kind = ("generate", "stream")[done % 2]
        try:
            print("ready", flush=True)
            while True:
                use(llm, kind)
        except KeyboardInterrupt:
            done += 1
    # what has been cancelled is let go of by the engine's own thread, within a step
    import time
    for _ in range(500):
        stats = llm.stats()
        if stats["n_seq_used"] == stats["n_running"] == stats["n_waiting"] == 0:
            break
        time.sleep(0.01)
    print("used", stats["n_seq_used"], stats["n_running"], stats["n_waiting"], flush=True)
    print("text", len(llm.generate("hello", max_tokens=3, ignore_eos=True).token_ids), flush=True)
"""


@pytest.mark.slow
def test_two_hundred_signals_at_random_moments_leave_no_place_in_use(tiny_llama: Path) -> None:
    rng = random.Random(5)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tiny_llama), str(SIGNALS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None and child.stderr is not None
        killer = threading.Timer(300, child.kill)
        killer.start()
        for _ in range(SIGNALS):
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            time.sleep(rng.random() * 0.05)  # also before anything is submitted, and during submit
            os.kill(child.pid, signal.SIGINT)
        out, err = child.communicate()
        killer.cancel()
    assert (child.returncode, out) == (0, "used 0 0 0\ntext 3\n"), err


def test_an_interrupt_ends_a_wait_within_a_tenth_of_a_second(tiny_llama: Path) -> None:
    with DarwinNEG(tiny_llama, n_ctx=512, n_parallel=1, n_threads=1) as llm:
        stream = llm.stream("hello", max_tokens=500, ignore_eos=True)  # keeps the only place
        waits = []
        for _ in range(5):
            sent = [0.0]

            def interrupt(sent: list[float] = sent) -> None:
                sent[0] = time.perf_counter()
                os.kill(os.getpid(), signal.SIGINT)

            threading.Timer(0.05, interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                llm.session.open_inbox().wait()  # nothing will ever come
            waits.append(time.perf_counter() - sent[0])
        stream.close()
        assert sorted(waits)[2] < 0.15, waits
