"""The command line: exit codes, one-line errors, pipes, colour, Ctrl-C. The engine is scripted (fake_core)."""

from __future__ import annotations

import argparse
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
from darwin_neg_cpp.cli import docs, generate, options
from darwin_neg_cpp.cli.answer import read_questions
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
        (["bench", "-m", "MODEL", "--tokens", "1"], "--tokens must be between 2 and 2147483647, got 1"),
        (["bench", "-m", "MODEL", "--rounds", "0"], "--rounds must be between 1 and 2147483647, got 0"),
        (["bench", "-m", "MODEL", "--prompt-tokens", "-1"], "--prompt-tokens must be between 1"),
        (["calibrate", "-m", "MODEL", "--text", "x", "--context", "1"], "--context must be between 16"),
        (["calibrate", "-m", "MODEL", "--text", "x", "--max-tokens", "10"], "--max-tokens must be between 1000"),
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


@pytest.mark.parametrize(
    ("words", "piped", "prompt"),
    [
        ([], "Say OK", "Say OK"),
        ([], "", generate.DEMO_PROMPT),
        ([], "\n", generate.DEMO_PROMPT),
        (["-"], "Say OK", "Say OK"),
        (["an argument"], "Say OK", "an argument"),
    ],
)
def test_the_demo_takes_a_prompt_from_a_pipe_and_else_has_one_of_its_own(
    model: str, monkeypatch: pytest.MonkeyPatch, words: list[str], piped: str, prompt: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
    monkeypatch.setattr(generate, "load_model", lambda _: DarwinNEG(model))
    assert main(["generate", "--demo", *words]) == 0
    (value,) = fake_core.calls("template")
    assert value["messages"] == [{"role": "user", "content": prompt}]


def test_without_a_standard_input_the_demo_has_its_own_prompt(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(generate, "load_model", lambda _: DarwinNEG(model))
    assert main(["generate", "--demo"]) == 0
    assert fake_core.calls("template")[0]["messages"][0]["content"] == generate.DEMO_PROMPT


@pytest.mark.parametrize(
    "args",
    [["generate", "-"], ["generate", "-f", "-"], ["chat"], ["trace", "-"], ["answer", "-", "--choice", "a"]],
    ids=" ".join,
)
def test_a_closed_standard_input_is_named_as_that(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([*args, "-m", model]) == 2
    assert "error: standard input is closed; pipe something in" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["-"]])
def test_trace_and_answer_take_a_prompt_from_a_pipe(
    model: str, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    traced: list[str] = []
    monkeypatch.setattr("darwin_neg_cpp.trace.trace_generation", lambda _llm, prompt, _params: traced.append(prompt))
    monkeypatch.setattr("darwin_neg_cpp.cli.trace._write", lambda *_: None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Say OK\n")))
    assert main(["trace", "-m", model, *words]) == 0 and traced == ["Say OK"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Which?\n")))
    given = argparse.Namespace(question=None, stem=next(iter(words), None), choice=["a", "b"])
    assert read_questions(given)[0].stem == "Which?"


@pytest.mark.parametrize("lines", [b"caf\xe9\n", b"fine\n\xff\xfeh\x00i\x00\n\x00"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_line_of_a_pipe_that_is_not_utf8_is_blamed_on_the_pipe(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lines: bytes, errors: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8", errors))
    assert main(["chat", "-m", model, "-q"]) == 2
    assert "error: standard input is not UTF-8 text; convert it" in capsys.readouterr().err


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        (b"say so\n", "say so"),
        (b"say so\n\n", "say so\n"),
        (b"say\r\nso\r\n", "say\nso"),
        (b" say so ", " say so "),
        (MARK + b"say so\n", "say so"),
        (MARK + MARK + b"say so", "\ufeffsay so"),
    ],
)
@pytest.mark.parametrize("way", ["file", "pipe", "-"])
def test_a_prompt_loses_its_last_newline_and_its_byte_order_mark(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, content: bytes, prompt: str
) -> None:
    (tmp_path / "prompt.txt").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    args = {"file": ["-f", str(tmp_path / "prompt.txt")], "pipe": [], "-": ["-"]}[way]
    assert main(["generate", "-m", model, "--chat", *args]) == 0
    assert fake_core.calls("template")[-1]["messages"][-1]["content"] == prompt


def test_every_text_of_the_command_line_is_read_without_a_byte_order_mark(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.gbnf").write_bytes(MARK + b'root ::= "a"')
    assert main(["generate", "-m", model, "x", "--grammar-file", str(tmp_path / "a.gbnf")]) == 0
    assert fake_core.calls("submit")[-1]["grammar"] == 'root ::= "a"'
    (tmp_path / "a.json").write_bytes(MARK + b"{}")
    assert main(["generate", "-m", model, "x", "--json-schema", f"@{tmp_path / 'a.json'}"]) == 0
    (tmp_path / "a.jinja").write_bytes(MARK + b"{{ x }}\n")
    assert main(["generate", "-m", model, "--chat", "x", "--chat-template", str(tmp_path / "a.jinja")]) == 0
    assert fake_core.Engine.last.options["chat_template"] == "{{ x }}\n"
    (tmp_path / "q.json").write_bytes(MARK + b'{"stem": "s", "choices": ["a", "b"]}')
    assert read_questions(argparse.Namespace(question=str(tmp_path / "q.json"), stem=None, choice=[]))[0].stem == "s"
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffhello\nyou\n"))
    assert main(["chat", "-m", model]) == 0
    assert [call["messages"][-1]["content"] for call in fake_core.calls("template")] == ["hello", "you"]
    capsys.readouterr()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_text_in_another_encoding_is_named_as_that(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffhello".encode(encoding) if encoding.endswith("be") else "hello".encode(encoding))
    assert main(["generate", "-m", model, "-f", str(path)]) == 2
    assert f"{path}: is {encoding[:6].upper()} text, not UTF-8; convert it" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize("verb", ["generate", "chat", "trace", "answer", "eval", "bench", "train-head", "calibrate"])
def test_every_verb_that_loads_a_model_can_do_without_mmap(
    model: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Loaded(Exception):
        pass

    def load(path: str, side_car: str | None, **options: Any) -> DarwinNEG:
        raise Loaded(options["use_mmap"])

    monkeypatch.setattr("darwin_neg_cpp.llm.DarwinNEG", load)
    parser = build_parser((verb,))
    required = [action for action in next(docs._leaves(parser))._actions if action.required and action.option_strings]
    words = [word for action in required for word in (action.option_strings[0], model)]
    for flags, mapped in ([], True), (["--no-mmap"], False):
        args = parser.parse_args([verb, *words, *([] if "-m" in words else ["-m", model]), *flags])
        with pytest.raises(Loaded) as raised:
            options.load_text_model(args, n_ctx=1, n_parallel=1)
        assert raised.value.args == (mapped,)


@pytest.mark.parametrize("verb", ["generate", "chat", "trace", "answer", "eval"])
def test_every_verb_that_renders_conversations_takes_a_template(verb: str) -> None:
    assert build_parser((verb,)).parse_args([verb, "--chat-template", "a.jinja"]).chat_template == "a.jinja"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "x", "--chat-template", "FILE"], "--chat-template acts on conversations alone; pass --chat"),
        (["trace", "x", "--chat-template", "FILE"], "--chat-template acts on conversations alone; pass --chat"),
        (["trace", "--text", "x", "--chat-template", "FILE"], "--chat-template acts on conversations alone"),
        (["generate", "--chat", "x", "--chat-template", "/no/file"], "/no/file: cannot be read"),
        (["chat", "--chat-template", "FILE"], "--chat-template is empty; pass a Jinja template"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(
    model: str, tmp_path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.jinja").write_text(" \n", "utf-8")
    args = [str(tmp_path / "empty.jinja") if arg == "FILE" else arg for arg in args]
    assert main([args[0], "-m", model, *args[1:]]) == 2
    assert message in error_line(capsys.readouterr().err)


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


def test_a_sample_that_fails_is_named_and_the_others_are_printed(model: str) -> None:
    out = run("generate", "-m", model, "half", "--samples", "3")
    assert out.returncode == 1 and out.stdout == "--- sample 0\none \n--- sample 1\none \n--- sample 2\none \n"
    assert out.stderr == "sample 1 failed: the sampler gave up\n"


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
    out = chat(model, "one\n\n/neg off\n/neg\n/help\n/reset\ntwo\n/exit\nthree\n", "-q")
    assert (out.returncode, out.stdout) == (0, "one \ntwo \n")
    for expected in ("The gate is off.", "/help", "is forgotten"):
        assert expected in out.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/no_think Say hi", "/no_think Say hi"),
        ("/etc/hosts: what is it?", "/etc/hosts: what is it?"),
        ("/exits are where?", "/exits are where?"),
        ("/Exit", "/Exit"),
        ("/", "/"),
        ("//help", "/help"),
        ("//exit now", "/exit now"),
        ("///", "//"),
        (" /exit", " /exit"),
        ("/usr \\\n/exit", "/usr \n/exit"),
    ],
)
def test_a_line_that_is_no_known_command_is_a_message(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\n"))
    assert main(["chat", "-m", model, "-q"]) == 0
    (value,) = fake_core.calls("template")
    assert value["messages"] == [{"role": "user", "content": message}]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("line", ["/neg maybe", "/neg on off", "/exit now", "/help me", "/reset all", "boom"])
def test_a_line_of_a_pipe_that_cannot_be_obeyed_or_answered_gives_an_exit_code(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{line}\nfine\n"))
    assert main(["chat", "-m", model, "-q"]) == 2
    out, err = capsys.readouterr()
    assert out.endswith("fine \n") and ("// to send it as a message" in err or line == "boom")
    assert [value["messages"][-1]["content"] for value in fake_core.calls("template")][-1] == "fine"


def test_a_command_without_a_head_to_act_on_gives_an_exit_code(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fake_core.Engine, "with_neg", False)
    monkeypatch.setattr(sys, "stdin", io.StringIO("/neg off\n"))
    assert main(["chat", "-m", model, "-q"]) == 2
    assert "this model has no NEG head" in capsys.readouterr().err


def test_on_a_terminal_a_line_that_was_refused_does_not_change_the_exit_code(model: str) -> None:
    child = on_terminal(["chat", "-m", model])
    child.expect("> ")
    child.sendline("/neg maybe")
    child.expect("/neg takes on, off")
    child.expect("> ")
    child.sendline("/no_think hi")
    child.expect("/no_think hi \r\n")
    child.expect("> ")
    child.sendline("/exit")
    all_of(child)
    assert child.exitstatus == 0


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
    assert out.returncode == 2 and "the sampler gave up; /reset forgets" in out.stderr
    assert out.stdout.endswith("fine \n")


def test_an_error_in_a_chat_names_flags(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ContextFullError("the context is full; raise n_ctx")

    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    monkeypatch.setattr(DarwinNEG, "stream_chat", refuse)
    assert main(["chat", "-m", model, "-q"]) == 2
    assert "the context is full; raise --n-ctx; /reset forgets" in capsys.readouterr().err


# --- uncertain stretches


def test_generate_lists_uncertain_stretches_on_stderr(model: str) -> None:
    out = run("generate", "-m", model, "--uncertain-spans", "one TWO THREE four \x9b FIVE")
    assert out.stdout == "one TWO THREE four \x9b FIVE \n"
    lines = out.stderr.splitlines()
    assert lines[0] == "[2 uncertain stretches above 1 nats: 15 of 26 characters]"
    assert [line.split() for line in lines[1:3]] == [
        ["4-14", "mean", "2.00,", "max", "2.00", "nats", '"TWO', "THREE", '"'],
        ["21-26", "mean", "2.00,", "max", "2.00", "nats", '"FIVE', '"'],
    ]
    out = run("generate", "-m", model, "-q", "--uncertain-spans", "--neg-threshold", "2", "one TWO")
    assert out.stderr == "[0 uncertain stretches above 2 nats: 0 of 8 characters]\n"


def test_uncertain_stretches_of_samples_json_and_chats(model: str) -> None:
    out = run("generate", "-m", model, "--uncertain-spans", "--json", "--samples", "2", "one TWO")
    for line in out.stdout.splitlines():
        (span,) = json.loads(line)["choices"][0]["uncertain_spans"]
        assert (span["start"], span["end"], span["text"], span["max_entropy"]) == (4, 8, "TWO ", 2.0)
    out = run("generate", "-m", model, "--uncertain-spans", "--samples", "2", "one TWO")
    assert out.stderr.count('"TWO "') == 2
    assert "uncertain_spans" not in run("generate", "-m", model, "--json", "one TWO").stdout
    out = run("chat", "-m", model, "-q", "--uncertain-spans", input="thinker\nnow SHOUT\n")
    assert out.stderr.splitlines()[:2] == [
        "[0 uncertain stretches above 1 nats: 0 of 2 characters]",
        "[1 uncertain stretch above 1 nats: 6 of 10 characters]",
    ]


@pytest.mark.parametrize("verb", ["generate", "chat"])
def test_uncertain_stretches_need_a_head(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setattr(fake_core.Engine, "with_neg", False)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    assert main([verb, "-m", model, "--uncertain-spans", *(["x"] if verb == "generate" else [])]) == 2
    assert "--uncertain-spans needs a NEG head" in error_line(capsys.readouterr().err)


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
