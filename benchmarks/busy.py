"""Decoding while other processes keep the cores busy: python benchmarks/busy.py [--model FILE] [--busy 0,1,2]

Compared are the default number of threads with the waiting that this package sets, the same with GNU OpenMP's own
waiting (which spins), the same asleep at once, and one thread. Each has a process of its own, since OpenMP reads its
settings when it is loaded; they take turns, and medians are reported. A measurement ends after --seconds, with the
tokens that there are by then. --realtime: with no busy process, measures under real-time scheduling, which keeps
everything else on the machine from running: what an idle machine would give. It needs root.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from darwin_neg_cpp import DarwinNEG, demo_model

VARIANTS: dict[str, tuple[dict[str, str], int]] = {
    "this package's waiting": ({}, 0),
    "GNU OpenMP's waiting": ({"GOMP_SPINCOUNT": "300000"}, 0),  # its default, where nothing is set
    "asleep at once": ({"OMP_WAIT_POLICY": "passive"}, 0),
    "one thread": ({}, 1),
}


def set_realtime(on: bool) -> None:
    policy, priority = (os.SCHED_RR, 1) if on else (os.SCHED_OTHER, 0)
    for task in os.listdir("/proc/self/task"):
        os.sched_setscheduler(int(task), policy, os.sched_param(priority))


def tokens_per_second(llm: DarwinNEG, seconds: float, *, realtime: bool) -> float:
    """Of one answer of 20 tokens, or of what there is of it in time."""
    text, options = "Once upon a time", {"max_tokens": 20, "temperature": 0.0, "ignore_eos": True}
    begin = time.perf_counter()
    if realtime:  # one that reads along would be a third thread with a claim to the cores
        n = len(llm.generate(text, **options).token_ids)
    else:
        n = 0
        with llm.stream(text, **options) as stream:
            for _ in stream:
                n += 1
                if time.perf_counter() - begin > seconds:
                    break
    return n / (time.perf_counter() - begin)


def serve(args: argparse.Namespace) -> None:
    """The measured process: one line of figures for each line that it reads."""
    with DarwinNEG(args.model, n_ctx=512, n_parallel=1, n_threads=args.threads) as llm:
        print(json.dumps({"n_threads": llm.info["n_threads"]}), flush=True)
        llm.generate("Once", max_tokens=2)  # starts the threads
        for line in sys.stdin:
            realtime = line.strip() == "realtime"
            if realtime:
                set_realtime(True)
            try:
                figure = tokens_per_second(llm, args.seconds, realtime=realtime)
            finally:
                if realtime:
                    set_realtime(False)
            print(json.dumps(figure), flush=True)


def start(args: argparse.Namespace, variant: str) -> subprocess.Popen[str]:
    environment, threads = VARIANTS[variant]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--model", args.model, "--seconds", str(args.seconds)]
    return subprocess.Popen(
        [*command, "--threads", str(threads), "--serve"],
        env=clean | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(process: subprocess.Popen[str], line: str) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", help="default: the demo model")
    parser.add_argument("--busy", default="0,1,2", metavar="N,N", help="numbers of busy processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or str(demo_model.model_path())
    if args.serve:
        return serve(args)
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, {datetime.date.today()}, load {os.getloadavg()[0]:.1f}")
    processes = {variant: start(args, variant) for variant in VARIANTS}
    try:
        for variant, process in processes.items():
            assert process.stdout is not None
            print(f"{variant}: {json.loads(process.stdout.readline())['n_threads']} threads")
        for n_busy in map(int, args.busy.split(",")):
            line = "realtime" if args.realtime and n_busy == 0 else "normal"
            found: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
            try:
                for _ in range(args.rounds):
                    for variant, process in processes.items():
                        found[variant].append(ask(process, line))
            finally:
                for other in busy:
                    other.kill()
                    other.wait()
            for variant, rates in found.items():
                each = ", ".join(f"{rate:.2f}" for rate in sorted(rates))
                print(f"{n_busy} busy: {variant}: {statistics.median(rates):.2f} tokens/s ({each})", flush=True)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return None


if __name__ == "__main__":
    main()
