"""The command line: exit codes, one-line errors, pipes, colour, Ctrl-C. The engine is scripted (fake_core)."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import darwin_neg_cpp
import fake_core
from darwin_neg_cpp import ContextFullError, DarwinNEG, DarwinNegError, ModelFileError
from darwin_neg_cpp.cli import docs, generate
from darwin_neg_cpp.cli.main import VERBS, build_parser, main
from darwin_neg_cpp.cli.terminal import AnswerWriter, use_colour
from darwin_neg_cpp.results import Chunk, NegTrace

ROOT = Path(__file__).resolve().parents[2]
FAKE = [sys.executable, str(ROOT / "tests" / "fake_core.py")]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model file for the scripted engine, which is put in the place of the real one."""
    module = fake_core.module()
    monkeypatch.setattr(darwin_neg_cpp, "_core", module, raising=False)  # first: it loads what it will put back
    monkeypatch.setitem(sys.modules, "darwin_neg_cpp._core", module)
    monkeypatch.setenv("DARWIN_NEG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FAKE, *args], capture_output=True, text=True, timeout=60, check=False, **options)


def error_line(text: str) -> str:
    """The error, when it is exactly one line in the agreed form."""
    assert re.fullmatch(r"darwin-neg: error: [^\n]+\n", text), text
    return text


# --- usage


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: VERB"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["generate", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["generate", "--max", "3"], "unrecognized arguments"),
        (["generate", "-n", "x"], "invalid int value: 'x'"),
        (["generate", "--neg", "maybe"], "invalid choice: 'maybe'"),
        (["generate", "--chat", "--raw"], "not allowed with"),
        (["generate", "hello"], "no model given; use --model FILE, or --demo"),
        (["generate", "--demo", "-m", "x", "hello"], "--demo brings its own model"),
        (["generate", "-m", "/no/such.gguf", "hello"], "/no/such.gguf: no such file"),
        (["generate", "-m", "MODEL", "--temperature", "nan", "x"], "temperature must be a finite number"),
        (["generate", "-m", "MODEL", "-n", "-1", "x"], "--max-tokens must be between"),
        (["generate", "-m", "MODEL", "--samples", "0", "x"], "--samples must be between 1"),
        (["generate", "-m", "MODEL", "--neg-top-k", "0", "x"], "--neg-top-k must be"),
        (["generate", "-m", "MODEL", "--json-schema", "{", "x"], "--json-schema is not valid JSON"),
        (["generate", "-m", "MODEL", "--json-schema", "@/no/file", "x"], "/no/file: cannot be read"),
        (["generate", "-m", "MODEL", "--grammar-file", "/no/file", "x"], "/no/file: cannot be read"),
        (["generate", "-m", "MODEL", "-f", "/no/file"], "/no/file: cannot be read"),
        (["generate", "-m", "MODEL", "-f", "/no/file", "x"], "a prompt and --file are both given"),
        (["generate", "-m", "MODEL", "--stop", "", "x"], "stop holds an empty string"),
        (["generate", "-m", "MODEL", "--side-car", "/no/file", "x"], "/no/file: no such file"),
        (["bench", "-m", "MODEL", "--batch", "1,x"], "--batch must be whole numbers"),
        (["bench", "-m", "MODEL", "--batch", "0"], "--batch must be between 1 and 255"),
        (["bench", "-m", "MODEL", "--tokens", "1"], "--tokens at least 2"),
        (["chat", "-m", "/no/such.gguf"], "no such file"),
        (["chat", "-m", "MODEL", "--top-p", "2"], "--top-p must be between 0 and 1"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    model: str, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([model if arg == "MODEL" else arg for arg in args])
    except SystemExit as leaving:  # argparse leaves this way
        code = int(str(leaving.code))
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in error_line(err)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelFileError("bad"), 2),
        (DarwinNegError("failed"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "out.gguf"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "out.gguf"), 2),
        (MemoryError(), 3),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 1),
    ],
)
def test_exit_codes_tell_whose_fault_it_is(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(args: Any) -> int:
        raise error

    monkeypatch.setattr(os, "dup2", lambda *_: None)  # a broken pipe redirects the process's own stdout
    monkeypatch.setattr(generate, "run", fail)
    assert main(["generate"]) == code
    err = capfd.readouterr().err
    assert err == "" if isinstance(error, (KeyboardInterrupt, BrokenPipeError)) else error_line(err)


def test_an_error_line_shows_control_characters_and_does_not_obey_them(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "-m", "/no/\x1b[2J\nfile.gguf", "x"]) == 2
    assert "\x1b" not in error_line(capsys.readouterr().err)


def test_help_of_every_verb_and_the_version_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--help"], ["--version"], *([verb, "--help"] for verb in VERBS), ["neg", "attach", "--help"]):
        with pytest.raises(SystemExit) as leaving:
            main(args)
        out, err = capsys.readouterr()
        assert (leaving.value.code, err) == (0, "") and out.startswith(("usage: darwin-neg", "darwin-neg "))


def test_every_option_has_help() -> None:
    for parser in docs._leaves(build_parser()):
        assert parser.description
        assert all(action.help for action in parser._actions), parser.prog


def test_cli_docs_are_those_of_the_code() -> None:
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert written == docs.document(), "run `python -m darwin_neg_cpp.cli.docs > docs/cli.md`"


def test_one_verb_does_not_load_the_others() -> None:
    code = "import sys; from darwin_neg_cpp.cli import main; main._verbs_needed(['doctor', '--json'])\n"
    code += "main.build_parser(main._verbs_needed(['doctor'])); print('darwin_neg_cpp.cli.neg' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


# --- generate


def test_the_answer_goes_to_stdout_and_the_figures_to_stderr(model: str) -> None:
    out = run("generate", "-m", model, "a b C d", "--seed", "5")
    assert (out.returncode, out.stdout) == (0, "a b C d \n")
    figures = r"\[4 tokens, 3\.0 tokens/s, gate active 25\.0%, mean predicted entropy 0\.50 nats, seed 5\]\n"
    assert re.fullmatch(figures, out.stderr)
    assert run("generate", "-m", model, "a b", "-q").stderr == ""


def test_the_prompt_comes_from_argument_file_or_standard_input(model: str, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("from file", "utf-8")
    assert run("generate", "-m", model, "-f", str(file)).stdout == "from file \n"
    assert run("generate", "-m", model, "-", input="from pipe").stdout == "from pipe \n"
    assert run("generate", "-m", model, input="from pipe").stdout == "from pipe \n"
    file.write_bytes(b"\xff")
    assert "is not UTF-8 text" in error_line(run("generate", "-m", model, "-f", str(file)).stderr)
    bad = subprocess.run([*FAKE, "generate", "-m", model, "-"], input=b"\xff", capture_output=True, check=False)
    assert bad.returncode == 2 and b"standard input is not UTF-8 text" in bad.stderr


def test_json_has_one_object_a_sample_and_nothing_else_on_stdout(model: str) -> None:
    out = run("generate", "-m", model, "a b", "--json", "--samples", "2", "--seed", "3")
    objects = [json.loads(line) for line in out.stdout.splitlines()]
    assert [one["choices"][0]["index"] for one in objects] == [0, 1] and out.stderr == ""
    for one in objects:
        assert {"id", "object", "created", "model", "seed", "choices", "usage"} <= set(one)
        assert {"text", "finish_reason", "neg"} <= set(one["choices"][0]) and one["seed"] == 3
        trace = one["choices"][0]["neg"]
        assert set(trace) == {"tokens", "entropy", "active", "activation_rate", "mean_entropy"}
        assert len(trace["tokens"]) == len(trace["entropy"]) == len(one["choices"][0]["token_ids"]) == 2
    chat = json.loads(run("generate", "-m", model, "--chat", "thinker", "--json").stdout)
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "42", "reasoning_content": "hm"}


def test_options_reach_the_engine(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["-n", "9", "--temp", "0", "--top-k", "7", "--stop", "a", "--stop", "b", "--n-ctx", "99", "-t", "2"]
    options += ["--neg", "sample", "--neg-threshold", "0.5", "--neg-top-k", "4", "--temp-scale", "--ignore-eos"]
    assert main(["generate", "-m", model, "x", *options]) == 0
    engine = fake_core.Engine.last
    assert (engine.options["n_ctx"], engine.options["n_threads"]) == (99, 2)
    sent = next(value for name, value in engine.calls if name == "submit")
    assert (sent["max_tokens"], sent["temperature"], sent["top_k"], sent["stop"]) == (9, [0.0], 7, [b"a", b"b"])
    assert (sent["neg_action"].name, sent["neg_threshold"], sent["neg_top_k"]) == ("sample", 0.5, 4)
    assert (sent["neg_use_temp_scale"], sent["ignore_eos"]) == (1, True)


def test_neg_off_is_granted_to_a_model_without_a_head_and_other_gate_options_are_not(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake_core.Engine, "with_neg", False)
    assert main(["generate", "-m", model, "x", "--neg", "off"]) == 0
    assert "no NEG head" in capsys.readouterr().err
    assert main(["generate", "-m", model, "x", "--neg", "mask"]) == 2
    assert "has no NEG head" in error_line(capsys.readouterr().err)


def test_a_reader_that_goes_away_ends_the_program_quietly(model: str) -> None:
    process = subprocess.Popen(
        [*FAKE, "generate", "-m", model, "endless"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(2) == "x "
    process.stdout.close()
    assert process.wait(20) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_ctrl_c_ends_generate_at_once_with_130(model: str) -> None:
    for extra in ([], ["--samples", "2"]):
        process = subprocess.Popen(
            [*FAKE, "generate", "-m", model, "endless", *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        if extra:
            time.sleep(1.5)
        else:
            assert process.stdout.read(2) == "x "
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130 and time.monotonic() - begin < 2
        assert "Traceback" not in err


# --- on a terminal


def on_terminal(args: list[str], *, env: dict[str, str] | None = None) -> Any:
    import pexpect

    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | (env or {})
    return pexpect.spawn(FAKE[0], [*FAKE[1:], *args], env=environment, encoding="utf-8", timeout=20)


def all_of(child: Any) -> str:
    import pexpect

    child.expect(pexpect.EOF)
    child.close()
    return str(child.before)


def test_gated_tokens_are_coloured_on_a_terminal_unless_no_color_or_color_say_otherwise(model: str) -> None:
    args = ["generate", "-m", model, "a B c", "-q"]
    assert all_of(on_terminal(args)) == "a \x1b[33mB \x1b[0mc \r\n"
    for plain in (on_terminal([*args, "--color", "never"]), on_terminal(args, env={"NO_COLOR": "1"})):
        assert all_of(plain) == "a B c \r\n"
    assert run(*args).stdout == "a B c \n"
    assert run(*args, "--color", "always").stdout == "a \x1b[33mB \x1b[0mc \n"


def test_control_characters_of_the_model_are_shown_and_not_obeyed_on_a_terminal(model: str) -> None:
    shown = all_of(on_terminal(["generate", "-m", model, "hostile", "--color", "never", "-q"]))
    assert r"safe\x1b[2J\x07\u202e\x9b\r" in shown and "\x1b" not in shown and "\x07" not in shown
    # a pipe gets the bytes as they are
    piped = subprocess.run([*FAKE, "generate", "-m", model, "hostile", "-q"], capture_output=True, check=True)
    assert piped.stdout.decode() == "safe\x1b[2J\x07\u202e\x9b\r\n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(model: str) -> None:
    child = on_terminal(["chat", "-m", model])
    child.expect("> ")
    child.sendline("endless")
    child.expect("x x x ")
    child.sendintr()
    child.expect(r"tokens/s.*\]")
    child.expect("> ")
    child.sendline("hello again")
    child.expect("hello again \r\n")
    child.expect("> ")
    child.sendintr()  # at the prompt
    child.expect("leaves")
    child.expect("> ")
    child.sendeof()
    all_of(child)
    assert child.exitstatus == 0


def test_chat_remembers_lines_in_a_history_file_that_only_the_user_can_read(model: str, tmp_path: Path) -> None:
    child = on_terminal(["chat", "-m", model])
    child.expect("> ")
    child.sendline("remember me")
    child.expect("remember me \r\n")
    child.expect("> ")
    child.sendline("/exit")
    all_of(child)
    history = tmp_path / "cache" / "chat_history"
    assert "remember me" in history.read_text() and history.stat().st_mode & 0o077 == 0


# --- chat


def chat(model: str, lines: str, *args: str) -> subprocess.CompletedProcess[str]:
    return run("chat", "-m", model, *args, input=lines)


def test_chat_takes_a_pipe_and_obeys_commands(model: str) -> None:
    out = chat(model, "one\n\n/neg off\n/neg\n/neg maybe\n/nonsense\n/help\n/reset\ntwo\n/exit\nthree\n", "-q")
    assert (out.returncode, out.stdout) == (0, "one \ntwo \n")
    for expected in ("The gate is off.", "/neg takes on, off", "/nonsense: no such command", "/help", "is forgotten"):
        assert expected in out.stderr


def test_chat_keeps_the_conversation_and_leaves_reasoning_out_of_it(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("thinker\none \\\n two\n/neg sample\nagain\n"))
    assert main(["chat", "-m", model, "--system", "be brief", "-q"]) == 0
    templates = [value["messages"] for name, value in fake_core.Engine.last.calls if name == "template"]
    assert templates[2] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "thinker"},
        {"role": "assistant", "content": "42"},
        {"role": "user", "content": "one \n two"},
        {"role": "assistant", "content": "one two "},
        {"role": "user", "content": "again"},
    ]
    sent = [value["neg_action"] for name, value in fake_core.Engine.last.calls if name == "submit"]
    assert sent == [None, None, fake_core.NegAction.sample]


def test_a_message_that_cannot_be_answered_is_dropped_and_the_chat_goes_on(model: str) -> None:
    out = chat(model, "boom\nfine\n", "-q")
    assert out.returncode == 0 and "the sampler gave up; /reset forgets" in out.stderr
    assert out.stdout.endswith("fine \n")


def test_an_error_in_a_chat_names_flags(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ContextFullError("the context is full; raise n_ctx")

    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    monkeypatch.setattr(DarwinNEG, "stream_chat", refuse)
    assert main(["chat", "-m", model, "-q"]) == 0
    assert "the context is full; raise --n-ctx; /reset forgets" in capsys.readouterr().err


# --- terminal


def chunk(pieces: list[str], active: list[bool]) -> Chunk:
    trace = NegTrace(np.zeros(len(pieces), np.float32), np.array(active))
    return Chunk(text="".join(pieces), token_ids=np.zeros(len(pieces), np.int32), pieces=tuple(pieces), neg=trace)


def test_exactly_the_gated_tokens_are_coloured() -> None:
    out = io.StringIO()
    writer = AnswerWriter(out, colour=True)
    writer.add(chunk(["a", "b", "c"], [False, True, False]))
    writer.add(chunk(["d"], [True]))
    writer.end()
    assert out.getvalue() == "a\x1b[33mb\x1b[0mc\x1b[33md\x1b[0m\n"


def test_colours_stay_with_their_tokens_when_a_template_takes_marks_out() -> None:
    out = io.StringIO()
    writer = AnswerWriter(out, colour=True)
    writer.add(chunk(["<t>", "why", "</t>"], [True, False, True]), "", "why")
    writer.add(chunk(["4", "2"], [False, True]), "4")
    writer.add(chunk([], []), "2")
    assert out.getvalue() == "4\x1b[33m2\x1b[0m"  # a pipe gets no reasoning


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert use_colour(Terminal()) and not use_colour(io.StringIO())
    assert use_colour(io.StringIO(), "always") and not use_colour(Terminal(), "never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not use_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not use_colour(Terminal())


# --- doctor and bench


def test_doctor_says_when_the_engine_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(darwin_neg_cpp, "_core", raising=False)
    monkeypatch.setitem(sys.modules, "darwin_neg_cpp._core", None)
    assert main(["doctor"]) == 1
    assert "cannot be loaded" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"version", "python", "platform", "packages", "cache", "core", "build", "devices"} <= set(found)


def test_doctor_describes_the_real_engine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["build"]["llama_cpp_commit"] and any(device["type"] == "cpu" for device in found["devices"])
    assert main(["doctor"]) == 0
    assert "CPU features" in capsys.readouterr().out


def test_bench_compares_gate_on_and_off_at_every_batch(model: str) -> None:
    args = ["bench", "-m", model, "--batch", "1,2", "--tokens", "4", "--prompt-tokens", "3", "--rounds", "2"]
    out = run(*args, "--json")
    report = json.loads(out.stdout)
    assert [(row["test"], row["batch"], row["variant"]) for row in report["rows"]] == [
        ("prompt", 1, "gate on"),
        ("prompt", 1, "gate off"),
        ("generate", 1, "gate on"),
        ("generate", 1, "gate off"),
        ("generate", 2, "gate on"),
        ("generate", 2, "gate off"),
    ]
    assert all(len(row["rounds"]) == 2 for row in report["rows"])
    assert report["ratios"]["generate batch 2: gate on / gate off"] == 1.0
    assert "gate off" in run(*args).stdout
