"""Loads files with the engine, or quantizes them, in a child process.

A file on which llama.cpp aborts is then one failure with its name, and not the end of the test run.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60  # for one file


@dataclass(frozen=True)
class Load:
    """What to load: a model, and a head for it.

    generate: also generate two tokens, if it loads. quantize: quantize the model instead of loading it.
    """

    model: Path
    neg: Path | None = None
    generate: bool = False
    quantize: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a load.

    error: the name of the exception's class, "" when the file was accepted, "died" when the process died. message: the
    exception's text.
    """

    error: str
    message: str = ""


def outcomes(loads: Sequence[Load], folder: Path) -> list[Outcome]:
    """One for each load, in order; as few processes as there are deaths, and one."""
    done: list[Outcome] = []
    listed, said, complained = folder / "loads.json", folder / "outcomes.txt", folder / "stderr.txt"
    # no backtrace: ggml calls gdb for it, which takes seconds
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    while len(done) < len(loads):
        rest = [
            [str(load.model), None if load.neg is None else str(load.neg), load.generate, load.quantize]
            for load in loads[len(done) :]
        ]
        listed.write_text(json.dumps(rest))
        with said.open("w") as out, complained.open("w") as err:
            command = [sys.executable, __file__, str(listed)]
            code = subprocess.run(command, stdout=out, stderr=err, check=False, env=environment).returncode
        done += [Outcome(*json.loads(line)) for line in said.read_text().splitlines()]
        if code != 0:
            text = complained.read_text(errors="replace")
            why = re.search(r".*(GGML_ASSERT|GGML_ABORT|Error|what\(\)).*", text)
            done.append(Outcome("died", f"exit code {code}: {why[0] if why else text[-500:]}"))
    return done


def main() -> None:
    from darwin_neg_cpp import DarwinNEG, DarwinNegError
    from darwin_neg_cpp.convert.quantize import quantize

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for model, neg, generate, quantized in json.loads(Path(sys.argv[1]).read_text()):
        signal.alarm(SECONDS)
        error, message = "", ""
        try:
            if quantized:
                quantize(model, f"{model}.out", "q8_0", force=True)
            else:
                with DarwinNEG(model, neg, n_ctx=64, n_parallel=1, n_threads=1) as llm:
                    if generate:
                        llm.generate("a", max_tokens=2, temperature=0)
        except DarwinNegError as raised:
            error, message = type(raised).__name__, str(raised)
        except Exception as raised:
            error, message = type(raised).__name__, repr(raised)
        print(json.dumps([error, message]), flush=True)


if __name__ == "__main__":
    main()
