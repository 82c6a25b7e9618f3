"""The group of options about devices, adapters and overrides: every verb that loads a model passes them on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

import fake_core
from command_line import refusal
from darwin_neg_cpp.cli.loading_options import PASSED_ON, settings_that_answers_depend_on
from darwin_neg_cpp.cli.main import VERBS, build_parser, main
from darwin_neg_cpp.files.input_file import sha256_file
from tiny_gguf import write_adapter

LOADS = ("generate", "chat", "answer", "trace", "train-head", "calibrate", "eval", "batch", "bench")
TITLE = "devices, adapters and overrides"


def parsers() -> dict[str, argparse.ArgumentParser]:
    (verbs,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(verbs.choices)


def test_every_verb_that_loads_a_model_has_the_group_and_its_names_are_those_of_the_library() -> None:
    for verb, parser in parsers().items():
        groups = [group for group in parser._action_groups if group.title == TITLE]
        assert len(groups) == (verb in LOADS), verb
        for group in groups:
            assert {action.dest for action in group._group_actions} == set(PASSED_ON)
    assert set(LOADS) < set(VERBS)


def test_the_options_reach_the_engine(fake: type[fake_core.Engine], tiny_llama: Path, tmp_path: Path) -> None:
    lora = str(write_adapter(tmp_path / "a:b.gguf", {}))
    words = [
        "generate",
        "-m",
        str(tiny_llama),
        "--device",
        "CUDA0,CUDA1",
        "-ts",
        "3,1",
        "-sm",
        "row",
        "-mg",
        "1",
        "-nkvo",
        "--rpc",
        "a:1,b:2",
    ]
    words += ["--no-op-offload", "--no-swa-full", "--rope-scaling", "yarn", "--rope-freq-base", "1e4", "--mlock"]
    words += ["--rope-freq-scale", "0.5", "--yarn-orig-ctx", "64", "--yarn-ext-factor", "1", "--yarn-attn-factor", "2"]
    words += ["--yarn-beta-fast", "3", "--yarn-beta-slow", "4", "--lora", lora, "--lora-scaled", f"{lora}:0.5"]
    words += ["-ot", "exps=CPU,a=b=CUDA0", "-ot", "exps=CUDA1", "-ncmoe", "2", "--numa", "numactl"]
    words += [
        "--override-kv",
        r"a=int:3,b=str:x\,y=z",
        "--override-kv",
        "c=bool:true",
        "--override-kv",
        "d=float:2",
        "hello",
    ]
    assert main(words) == 0
    expected: dict[str, Any] = {
        "devices": ["CUDA0", "CUDA1"],
        "tensor_split": [3.0, 1.0],
        "split_mode": "row",
        "main_gpu": 1,
        "rpc_servers": ["a:1", "b:2"],
    }
    expected |= {"offload_kqv": False, "op_offload": False, "swa_full": False, "rope_scaling_type": "yarn"}
    expected |= {"rope_freq_base": 10_000.0, "rope_freq_scale": 0.5, "yarn_orig_ctx": 64, "yarn_ext_factor": 1.0}
    expected |= {
        "yarn_attn_factor": 2.0,
        "yarn_beta_fast": 3.0,
        "yarn_beta_slow": 4.0,
        "use_mlock": True,
        "n_cpu_moe": 2,
    }
    expected |= {"lora": [(lora, 1.0), (lora, 0.5)], "override_tensor": [("exps", "CPU"), ("a=b", "CUDA0")]}
    expected |= {"kv_overrides": [("a", 3), ("b", "x,y=z"), ("c", True), ("d", 2.0)], "numa": "numactl"}
    assert expected.keys() == set(PASSED_ON)
    assert {name: fake.last.options[name] for name in expected} == expected
    assert main(["generate", "-m", str(tiny_llama), "--device", "none", "--kv-offload", "hello"]) == 0
    plain = fake_core.ModelParams("").as_dict()
    assert {name: fake.last.options[name] for name in PASSED_ON} == {name: plain[name] for name in PASSED_ON} | {
        "devices": []
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-ts 3,x", "argument -ts/--tensor-split: give numbers, as in 3,1; got '3,x'"),
        ("--tensor-split=-1", "--tensor-split must be at least 0"),
        ("--lora-scaled nope", "argument --lora-scaled: give FILE:SCALE"),
        ("--lora-scaled nope:1:x", "argument --lora-scaled: give FILE:SCALE"),
        ("--lora nope", "nope: no such file"),
        ("-ot exps", "argument -ot/--override-tensor: give PATTERN=BUFFER"),
        ("-ot =CPU", "argument -ot/--override-tensor: give PATTERN=BUFFER"),
        ("--override-kv a=3", "argument --override-kv: give KEY=TYPE:VALUE"),
        ("--override-kv a=u8:3", "argument --override-kv: give KEY=TYPE:VALUE"),
        ("--override-kv a=int:x", "argument --override-kv: 'x' is not of type int"),
        ("--override-kv a=bool:1", "argument --override-kv: '1' is not of type bool"),
        ("--override-kv a=int:-1", "--override-kv: a must be between 0 and"),
        (
            "--override-kv llama.block_count=float:2",
            "--override-kv: llama.block_count is a uint32 in the file, got 2.0",
        ),
        ("--rope-freq-base 0.5", "--rope-freq-base must be at least 1, or 0"),
        ("--rope-freq-scale inf", "--rope-freq-scale must be a finite number"),
        ("--yarn-beta-slow -2", "--yarn-beta-slow must be at least -1"),
        ("--rpc here", "--rpc must be HOST:PORT"),
        ("-ncmoe -1", "--n-cpu-moe must be between 0"),
        ("-mg -1", "--main-gpu must be between 0"),
    ],
)
def test_an_error_names_the_flag(
    fake: type[fake_core.Engine], tiny_llama: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    command = ["generate", "-m", str(tiny_llama), *words.split(), "hello"]
    if message.startswith("argument "):  # argparse's own
        with pytest.raises(SystemExit, match="2"):
            main(command)
        said = capsys.readouterr().err
    else:
        said = refusal(capsys, *command)
    assert said.startswith(f"darwin-neg: error: {message}") and said.count("\n") == 1


def test_an_evaluation_records_what_answers_depend_on(tmp_path: Path) -> None:
    lora = write_adapter(tmp_path / "lora.gguf", {})
    words = [
        "--lora",
        str(lora),
        "--lora-scaled",
        f"{lora}:0.5",
        "--numa",
        "isolate",
        "--mlock",
        "--rope-freq-base",
        "9",
    ]
    words += ["--override-kv", "a=int:3"]
    parser = parsers()["eval"]
    args = parser.parse_args(words)
    expected = {"lora": [[sha256_file(lora), 1.0], [sha256_file(lora), 0.5]], "rope_freq_base": 9.0}
    assert settings_that_answers_depend_on(args) == expected | {"kv_overrides": {"a": 3}}
    assert settings_that_answers_depend_on(parser.parse_args([])) == {}
