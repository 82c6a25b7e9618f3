"""The page about what the gate does, and the script that measures it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from conftest import ROOT
from darwin_neg_cpp import DarwinNEG, Neg


def gate_effect() -> Any:
    spec = importlib.util.spec_from_file_location("gate_effect", ROOT / "benchmarks" / "gate_effect.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_the_page_are_those_of_its_figures() -> None:
    report = json.loads((ROOT / "docs" / "gate-effect.json").read_text("utf-8"))
    text = (ROOT / "docs" / "gate-effect.md").read_text("utf-8")
    assert gate_effect().render_tables(report) in text, "benchmarks/gate_effect.py --tables docs/gate-effect.json"
    assert f"{report['prompts']} prompts" in text and f"{report['tokens']} tokens" in text and report["date"] in text


def test_any_number_of_prompts_has_the_tasks_evenly() -> None:
    module = gate_effect()
    texts = module.list_texts()
    assert len(set(texts)) == len(texts) == len(module.TASKS) * len(module.SUBJECTS)
    for n in (6, 30, 48, 96):
        counts = [sum(text.startswith(task.partition("{")[0]) for text in texts[:n]) for task in module.TASKS]
        assert counts == [n // len(module.TASKS)] * len(module.TASKS)


def test_every_prompt_has_its_own_seed() -> None:
    """With one seed for all, the prompts would share their random numbers and be no independent draws."""
    seeds: list[int] = []

    class Model:
        def generate(self, prompt: list[int], *, seed: int, **_options: Any) -> None:
            seeds.append(seed)

    gate_effect().generate_answers(Model(), [[1], [2], [3]], 4, Neg())
    assert len(set(seeds)) == 3


def test_prompts_begin_with_the_models_start_token(tiny_llama: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with DarwinNEG(tiny_llama, n_ctx=64, n_parallel=1, chat_template=template) as llm:
        prompts = gate_effect().chat_prompts(llm, 2)
        assert [llm.detokenize(prompt, special=True) for prompt in prompts] == [
            f"<s>{text}" for text in gate_effect().list_texts()[:2]
        ]
