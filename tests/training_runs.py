"""Texts, settings and small runs that the tests of training share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from darwin_neg_cpp import DarwinNEG
from darwin_neg_cpp.training import train as command
from darwin_neg_cpp.training.head import Recipe

CLI = [sys.executable, "-m", "darwin_neg_cpp"]
# prose of many lengths, in several languages, all of it written for these tests
SENTENCES = [
    "The committee met on Tuesday and decided, after a long discussion, to postpone the vote.",
    "Water boils at a lower temperature on a mountain because the air pressure is lower there.",
    "def area(radius): return 3.14159 * radius ** 2  # of a circle",
    "Der Zug nach Hamburg fährt heute von Gleis sieben ab und hält nicht in Lüneburg.",
    "She opened the old box and found a letter, a key, and a photograph of a lighthouse.",
    "오늘은 날씨가 맑고 바람이 조금 불어서 산책하기에 좋습니다.",
    "In 1969 three astronauts flew to the Moon; two of them walked on its surface.",
    "Mix the flour with two eggs, add milk slowly, and let the dough rest for an hour.",
    "The function returns None when the key is missing, so callers must check for it.",
    "If all cats are mammals and all mammals are animals, then all cats are animals.",
]


# a message as it is, without the start token that the vocabulary wants
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# one that takes a message as it is, so that what is put into one can be seen
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}{% endfor %}"


OUTPUTS = ["head.gguf", "head.neg_modules.safetensors", "head.report.json", "head.report.md", "head.report.svg"]


class Stopped(Exception):
    pass


def write_texts(folder: Path, count: int, words: int = 160) -> list[Path]:
    rng = np.random.default_rng(5)
    paths = []
    for k in range(count):
        text = ""
        while len(text.split()) < words:
            text += SENTENCES[rng.integers(len(SENTENCES))] + (" " if rng.random() < 0.8 else "\n\n")
        paths.append(folder / f"text-{k}.txt")
        paths[-1].write_text(text, "utf-8")
    return paths


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, *args], capture_output=True, text=True, timeout=900, check=False, **options)  # type: ignore[call-overload, no-any-return]


def tiny(path: Path) -> DarwinNEG:
    return DarwinNEG(path, n_ctx=512, n_parallel=8, n_threads=1, prefix_cache=0, chat_template=TEMPLATE)


def settings(folder: Path, text: list[Path] | None = None, **changes: object) -> command.Settings:
    given = {"own_texts": 40, "own_tokens": 60, "recipe": Recipe(reduced=8, epochs=3), **changes}
    return command.Settings(text=tuple(text or ()), out=folder / "head.gguf", **given)


def go(path: Path, given: command.Settings, progress: object = lambda *_: None) -> dict[str, object]:
    with tiny(path) as llm:
        return command.run(llm, given, command="", progress=progress)


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("head*"))


def stop_at(step: str) -> object:
    def progress(at: str, *_: int) -> None:
        if at == step:
            raise Stopped

    return progress
