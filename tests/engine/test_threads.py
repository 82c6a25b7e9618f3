"""The engine's threads: how many there are by default, and that they let others work."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fake_core
from conftest import SmolLM2
from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli import doctor
from darwin_neg_cpp.engine import session
from darwin_neg_cpp.files.usable_cpus import UsableCpus

LOAD = "import os; before = dict(os.environ); from darwin_neg_cpp import _core; assert dict(os.environ) == before"


@pytest.mark.parametrize(
    ("cpus", "given", "passed"),
    [
        (UsableCpus(16, 4, None, 4), {}, 4),
        (UsableCpus(16, 16, 2.0, 16), {"n_threads": 0}, 2),
        (UsableCpus(16, 16, None, 16), {}, 0),
        (UsableCpus(16, 4, None, 4), {"n_threads": 9}, 9),
        (UsableCpus(4096, 4000, None, 4000), {}, 512),
    ],
)
def test_the_default_number_of_threads_keeps_to_what_the_process_may_use(
    fake: type[fake_core.Engine],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpus: UsableCpus,
    given: dict[str, int],
    passed: int,
) -> None:
    monkeypatch.setattr(session, "usable_cpus", lambda: cpus)
    with DarwinNEG(file, **given):  # type: ignore[arg-type]
        assert fake.last.options["n_threads"] == passed


def test_doctor_says_why_there_are_fewer_threads_than_cpus(
    fake: type[fake_core.Engine], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    for cpus, line in (
        (UsableCpus(16, 16, None, 8), "at most 8 by default"),
        (UsableCpus(16, 4, None, 4), "at most 4 by default (affinity mask of 4 CPUs)"),
        (UsableCpus(16, 16, 2.5, 8), "at most 2 by default (control group's quota of 2.5 CPUs)"),
        (
            UsableCpus(16, 4, 2.5, 4),
            "at most 2 by default (affinity mask of 4 CPUs, control group's quota of 2.5 CPUs)",
        ),
    ):
        monkeypatch.setattr(doctor, "usable_cpus", lambda cpus=cpus: cpus)
        assert doctor.run(argparse.Namespace(json=False)) == 0
        (shown,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("threads")]
        assert shown.split(maxsplit=1)[1] == line


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinity masks that Python can set")
def test_an_affinity_mask_is_obeyed_by_the_engine_and_shown_by_doctor(tiny_llama: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    code = f"""
import os
os.sched_setaffinity(0, {{{cpu}}})
from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.cli.doctor import examine
with DarwinNEG({str(tiny_llama)!r}, n_ctx=64, n_parallel=1) as llm:
    print(llm.info["n_threads"], examine()["usable_cpus"]["default_threads"])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["1", "1"]


@pytest.mark.skipif(platform.system() != "Linux", reason="GNU OpenMP is what gcc uses on Linux")
@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "GOMP_SPINCOUNT = '1000'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
        ({"OMP_WAIT_POLICY": "passive"}, "GOMP_SPINCOUNT = '0'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
    ],
)
def test_waiting_threads_fall_asleep_soon_unless_the_user_wants_otherwise(given: dict[str, str], shown: str) -> None:
    """OpenMP itself says with what it runs; and nobody else sees what was set for it."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    environment = clean | given | {"OMP_DISPLAY_ENV": "verbose"}
    result = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and shown in result.stderr, result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinity masks that Python can set")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where a limit of the stack sizes every thread's")
def test_an_engine_whose_thread_cannot_be_started_is_one_error(tiny_llama: Path) -> None:
    # no thread has room for a stack as large as all addresses; twice, since nothing of the first may be in the way
    script = """
import resource, sys
from darwin_neg_cpp import DarwinNEG, DarwinNegError
for _ in range(2):
    try:
        DarwinNEG(sys.argv[1], n_ctx=64, n_parallel=1, n_threads=1)
    except DarwinNegError as error:
        print(error)
"""
    command = f'ulimit -s {2**37}; exec "$@"'  # in kB
    shell = ["bash", "-c", command, "bash", sys.executable, "-c", script, str(tiny_llama)]
    result = subprocess.run(
        shell, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and all("a thread cannot be started" in line and "ulimit" in line for line in lines)


def test_decoding_does_not_collapse_on_busy_cores(smollm2: SmolLM2) -> None:
    """With threads that spin, 8 tokens take more than a minute here."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    pin = f"import os; os.sched_setaffinity(0, {set(cpus)})\n"
    code = f"""{pin}
import json, sys, time
from darwin_neg_cpp import DarwinNEG
with DarwinNEG({str(smollm2.model)!r}, n_ctx=64, n_parallel=1, n_threads={len(cpus)}) as llm:
    print("loaded", flush=True)
    sys.stdin.readline()
    begin = time.monotonic()
    n = len(llm.generate("Once", max_tokens=8, ignore_eos=True).token_ids)
    print(json.dumps([n, time.monotonic() - begin]))
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    busy = []
    with subprocess.Popen(
        [sys.executable, "-c", code], env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "loaded\n"
            busy = [subprocess.Popen([sys.executable, "-c", f"{pin}\nwhile True: pass"]) for _ in cpus]
            time.sleep(0.5)
            out, _ = child.communicate("\n", timeout=45)
        finally:
            child.kill()
            for other in busy:
                other.kill()
                other.wait()
    n, took = json.loads(out)
    assert n == 8 and took < 30
