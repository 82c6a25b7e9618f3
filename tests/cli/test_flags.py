"""Errors of the library name arguments; the command line shows them with the flags of the verb that was run."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from darwin_neg_cpp import RequestError, SamplingParams
from darwin_neg_cpp.cli import docs
from darwin_neg_cpp.cli.flags import Flag, flags_of, with_flags
from darwin_neg_cpp.cli.main import Parser, build_parser, main
from darwin_neg_cpp.cli.options import SAMPLING_OPTIONS, add_sampling_options, sampling_params

LEAVES = {parser.prog.removeprefix("darwin-neg "): parser for parser in docs._leaves(build_parser())}


@pytest.mark.parametrize(
    ("verb", "message", "shown"),
    [
        ("download", "a/b: has several GGUF files; choose one with quant= or file=: x, y",
         "a/b: has several GGUF files; choose one with --quant or --file: x, y"),
        ("convert", "a: holds no NEG head; pass neg=FILE, or without_neg=True",
         "a: holds no NEG head; pass --head FILE, or --no-head"),
        ("generate", "the model file has no chat template; pass chat_template=, or generate without it",
         "the model file has no chat template; pass --chat-template, or generate without it"),
        ("calibrate", "convert the file again, or load it with use_mmap=False",
         "convert the file again, or load it with --no-mmap"),
        ("convert", "out.gguf: exists already; pass force=True to replace it",
         "out.gguf: exists already; pass --force to replace it"),
        ("convert", "a: is not whole; leave the block out with mtp=False",
         "a: is not whole; leave the block out with --no-mtp"),
        ("quantize", "in.gguf: is quantized already; pass allow_requantize=True",
         "in.gguf: is quantized already; pass --allow-requantize"),
        ("quantize", "threads must be between 0 and 512, got 513", "--threads must be between 0 and 512, got 513"),
        ("generate", "n must be between 1 and 4096, got 0", "--samples must be between 1 and 4096, got 0"),
        ("generate", "neg.top_k must be at least 1, got 0", "--neg-top-k must be at least 1, got 0"),
        ("generate", "neg.use_temp_scale must be True", "--temp-scale must be True"),
        ("generate", "grammar and json_schema are both given; give one",
         "--grammar-file and --json-schema are both given; give one"),
        ("generate", "the prompt has 9 tokens, the context holds 8; raise n_ctx",
         "the prompt has 9 tokens, the context holds 8; raise --n-ctx"),
        ("chat", "top_p must be between 0 and 1, got 2.0", "--top-p must be between 0 and 1, got 2.0"),
        ("answer", "m.gguf: has no NEG head; switch the gate off with gate=False",
         "m.gguf: has no NEG head; switch the gate off with --no-gate"),
        ("info", "n_parallel must be at least 1, got 0", "--n-parallel must be at least 1, got 0"),
        ("info", "fit must be a size such as 8GB, got '8'", "--fit must be a size such as 8GB, got '8'"),
        ("neg attach", "m.gguf: carries a NEG head already; detach it first or pass replace=True",
         "m.gguf: carries a NEG head already; detach it first or pass --replace"),
        ("neg detach", "m.gguf: exists already; pass force=True", "m.gguf: exists already; pass --force"),
        ("trace", "max_tokens must be at least 0 (None: no limit), got -1",
         "--max-tokens must be at least 0 (None: no limit), got -1"),
        ("train-head", "own_temperature must be a number >= 0, got nan",
         "--self-temperature must be a number >= 0, got nan"),
        ("calibrate", "the gate is active nowhere; lower target_rate (0.5)",
         "the gate is active nowhere; lower --target-rate (0.5)"),
        ("eval", "in_flight=1 measures one question at a time", "--in-flight 1 measures one question at a time"),
        ("eval", "ledger.jsonl: was made with different settings; choose another folder or pass force=True",
         "ledger.jsonl: was made with different settings; choose another folder or pass --force"),
        ("batch", "a.jsonl: exists already; choose another file, or start again with force=True",
         "a.jsonl: exists already; choose another file, or start again with --force"),
        ("eval", "ray=h:1 cannot be used (no); check the address",
         "--ray h:1 cannot be used (no); check the address"),
        ("train-head", 'ray must be HOST:PORT or "auto", got x', '--ray must be HOST:PORT or "auto", got x'),
        ("bench", "out of memory; try a smaller n_ctx", "out of memory; try a smaller --n-ctx"),
        ("rpc-server", "devices must be named once each, and at least one",
         "--device must be named once each, and at least one"),
        ("doctor", "json must be True", "--json must be True"),
        ("serve", "side_car must be a file, and x is none; check the path",
         "--side-car must be a file, and x is none; check the path"),
    ],
)  # fmt: skip
def test_arguments_become_the_flags_of_the_verb(verb: str, message: str, shown: str) -> None:
    assert with_flags(message, flags_of(LEAVES[verb])) == shown


def test_every_verb_has_a_case_above() -> None:
    mark = test_arguments_become_the_flags_of_the_verb.pytestmark[0]
    assert {verb for verb, _, _ in mark.args[1]} | {"neg inspect"} == set(LEAVES)


@pytest.mark.parametrize(
    "message",
    [
        "/data/force=True/model.gguf: no such file",
        "runs/seed=1/n_ctx: no such file",
        "n_ctx.gguf: no such file",
        "model: no such file; check the path",
        "m.gguf: neg.top_k is missing; convert the checkpoint again",
        "m.gguf: 'n_ctx' is not a key of this file",
        "the seed is drawn and the stop is near",
        "rope.n_ctx is not known",
        "no model given; use --model FILE",
        "unknown_name=True is not ours",
        "ignore_eos=False is what it is",
    ],
)
def test_paths_keys_and_plain_words_stay_as_they_are(message: str) -> None:
    assert with_flags(message, flags_of(LEAVES["generate"])) == message


def test_a_flag_that_switches_off_stands_for_false_alone() -> None:
    parser = Parser()
    parser.add_argument("--no-verify", dest="verify", action="store_false")
    parser.add_argument("-q", dest="quiet", action="store_true")
    parser.add_argument("file")
    assert flags_of(parser)["verify"] == Flag(off="--no-verify") and set(flags_of(parser)) == {"verify", "help"}
    assert with_flags("verify=False, verify=True, file=x", flags_of(parser)) == "--no-verify, verify=True, file=x"


@pytest.mark.parametrize("verb", LEAVES)
def test_every_verb_shows_an_error_of_its_library_with_flags(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through main(), for an option of each verb, whatever it is called in the library."""
    parser = LEAVES[verb]
    dest, flag = next((dest, flag.on) for dest, flag in flags_of(parser).items() if flag.on and dest != "help")
    required = [a for a in parser._actions if a.required and not isinstance(a, argparse._SubParsersAction)]
    words = [word for action in required for word in (*action.option_strings[:1], "1")]

    def fail(_: Any) -> int:
        raise RequestError(f"{dest} must be something else")

    real = argparse.ArgumentParser.parse_args

    def parse(self: Any, *args: Any, **kwargs: Any) -> argparse.Namespace:
        found = real(self, *args, **kwargs)
        found.run = fail
        return found

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    assert main([*verb.split(), *words]) == 2
    assert capsys.readouterr().err == f"darwin-neg: error: {flag} must be something else\n"


# --- one spelling


def test_a_flag_is_spelled_and_typed_alike_in_every_verb() -> None:
    meanings: dict[str, set[tuple[Any, ...]]] = {}
    for parser in LEAVES.values():
        for action in parser._actions:
            for name in action.option_strings:
                meanings.setdefault(name, set()).add((action.nargs == 0, action.type, action.const))
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    "verb", ["convert", "quantize", "neg attach", "neg detach", "trace", "train-head", "calibrate", "batch", "eval"]
)
def test_every_verb_that_writes_takes_out(verb: str) -> None:
    (action,) = (action for action in LEAVES[verb]._actions if "--out" in action.option_strings)
    assert action.option_strings[:2] == ["-o", "--out"]
    # the name that llama.cpp's users type, in the verbs that have a counterpart there
    assert ("--outfile" in action.option_strings) == (verb in ("convert", "quantize"))


def test_neg_is_an_action_and_n_a_number_of_tokens_wherever_they_are_taken() -> None:
    for verb, parser in LEAVES.items():
        options = {name: action for action in parser._actions for name in action.option_strings}
        if "--neg" in options:
            assert options["--neg"].choices == ("mask", "sample", "off"), verb
        if "-n" in options:
            assert options["-n"] is options["--max-tokens"], verb
        assert not {"--n", "--sidecar", "--sidecar-only", "--no-neg"} & set(options), verb


LLAMA_CPP = [
    (["--temp", "0.5"], {"temperature": 0.5}),
    (["--top-k", "5", "--top-p", "0.5", "--min-p", "0.1"], {"top_k": 5, "top_p": 0.5, "min_p": 0.1}),
    (["--typical-p", "0.5"], {"typical_p": 0.5}),
    (["--top-nsigma", "1.5"], {"top_n_sigma": 1.5}),
    (["--top-n-sigma", "1.5", "--min-keep", "2"], {"top_n_sigma": 1.5, "min_keep": 2}),
    (["--xtc-probability", "0.5", "--xtc-threshold", "0.2"], {"xtc_probability": 0.5, "xtc_threshold": 0.2}),
    (["--dynatemp-range", "0.5", "--dynatemp-exp", "2"], {"dynatemp_range": 0.5, "dynatemp_exponent": 2.0}),
    (["--mirostat", "2", "--mirostat-ent", "4", "--mirostat-lr", "0.2"],
     {"mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2}),
    (["--repeat-penalty", "1.1", "--repeat-last-n", "-1"], {"repeat_penalty": 1.1, "repeat_last_n": -1}),
    (["--frequency-penalty", "0.1", "--presence-penalty", "0.2"], {"frequency_penalty": 0.1, "presence_penalty": 0.2}),
    (["--dry-multiplier", "0.8", "--dry-base", "2", "--dry-allowed-length", "3", "--dry-penalty-last-n", "99"],
     {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "dry_penalty_last_n": 99}),
    (["--dry-sequence-breaker", "x", "--dry-sequence-breaker", "y"], {"dry_sequence_breakers": ["x", "y"]}),
    (["--dry-sequence-breaker", "none"], {"dry_sequence_breakers": []}),
    (["--samplers", "top_k; temperature"], {"samplers": ["top_k", "temperature"]}),
    (["--reasoning-budget", "100"], {"reasoning_budget_tokens": 100}),
    (["--reasoning-budget", "-1"], {}),
    (["-n", "7", "--seed", "3", "--ignore-eos"], {"max_tokens": 7, "seed": 3, "ignore_eos": True}),
]  # fmt: skip


@pytest.mark.parametrize(("words", "fields"), LLAMA_CPP, ids=" ".join)
def test_sampling_options_have_the_names_of_llama_cpps_tools(words: list[str], fields: dict[str, Any]) -> None:
    parser = Parser()
    add_sampling_options(parser)
    assert sampling_params(parser.parse_args(words)) == SamplingParams(**fields)


def test_those_names_are_in_llama_cpps_own_source(llama_tree: Path) -> None:
    known = set(re.findall(r'"(--?[a-z][\w-]*)"', (llama_tree / "common" / "arg.cpp").read_text("utf-8")))
    ours = {flag for option in SAMPLING_OPTIONS for flag in option.flags.split()}
    # llama.cpp's tools have --predict, no option for the minimum of kept tokens, and stop at --reverse-prompt
    assert ours - known == {"--max-tokens", "--min-keep", "--stop"}


def test_every_sampling_option_sets_a_field_and_leaves_its_default_alone() -> None:
    parser = Parser()
    add_sampling_options(parser)
    assert sampling_params(parser.parse_args([])) == SamplingParams()
    fields = [option.field for option in SAMPLING_OPTIONS]
    assert len(set(fields)) == len(fields) and set(fields) <= set(SamplingParams.__dataclass_fields__)
    # offered in Python only, or by an option that is not one value of one field
    assert set(SamplingParams.__dataclass_fields__) - set(fields) == {
        "n",
        "logprobs",
        "top_logprobs",
        "true_entropy",
        "logit_bias",
        "ignore_eos",
        "neg",
    }
