"""What `mypy --strict` says about a user's program: every call of the README has a type, and none is Any."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from conftest import ROOT

CASES = """
from darwin_neg_cpp import DarwinNEG, Neg, Question, RemoteEngine, SamplingParams, load_darwin_neg

llm = load_darwin_neg("model.gguf")
params = SamplingParams(temperature=0.0)
user = [{"role": "user", "content": "hello"}]
n: int = 3

def questions() -> list[Question]:
    return []

reveal_type(llm)  # DarwinNEG
reveal_type(DarwinNEG("model.gguf"))  # DarwinNEG
reveal_type(DarwinNEG.from_pretrained("a/b"))  # DarwinNEG
reveal_type(llm.generate("a"))  # Generation
reveal_type(llm.generate([1, 2], temperature=0.5, neg=Neg()))  # Generation
reveal_type(llm.generate(llm.generate("a").token_ids))  # Generation
reveal_type(llm.generate("a", n=1))  # Generation
reveal_type(llm.generate("a", params, n=1))  # Generation
reveal_type(llm.generate("a", params))  # Generation | list[Generation]
reveal_type(llm.generate("a", n=16, temperature=0.8))  # list[Generation]
reveal_type(llm.generate("a", params, n=2))  # list[Generation]
reveal_type(llm.generate("a", n=n))  # Generation | list[Generation]
reveal_type(llm.generate(["a", "b"]))  # list[Generation]
reveal_type(llm.generate([[1], [2]]))  # list[Generation]
reveal_type(llm.generate(["a", "b"], n=4))  # list[list[Generation]]
reveal_type(llm.generate(["a", "b"], n=n))  # list[Generation] | list[list[Generation]]
reveal_type(llm.generate("a").neg)  # NegTrace | None
reveal_type([chunk for chunk in llm.stream("a")])  # list[Chunk]
reveal_type(llm.chat(user))  # ChatReply
reveal_type(llm.chat(user, enable_thinking=True, temperature=0.2))  # ChatReply
reveal_type(llm.chat(user, params, n=1))  # ChatReply
reveal_type(llm.chat(user, params))  # ChatReply | list[ChatReply]
reveal_type(llm.chat(user, n=8))  # list[ChatReply]
reveal_type([chunk for chunk in llm.stream_chat(user)])  # list[ChatChunk]
reveal_type(llm.score("a"))  # Scores
reveal_type([scores for scores in llm.score_many(["a", [1, 2]])])  # list[Scores]
reveal_type(llm.answer(questions()[0]))  # Answer
reveal_type(llm.answer(questions()))  # list[Answer]
reveal_type(RemoteEngine("http://a").answer(questions()[0], 3))  # Answer
reveal_type(RemoteEngine(["http://a"]).answer(questions()))  # list[Answer]
reveal_type(llm.tokenize("a"))  # list[int]
reveal_type(llm.chat_tokens(user))  # list[int]
reveal_type(llm.session.path)  # str

async def main() -> None:
    reveal_type(await llm.agenerate("a"))  # Generation
    reveal_type(await llm.agenerate("a", params, n=1))  # Generation
    reveal_type(await llm.agenerate("a", n=3))  # list[Generation]
    reveal_type(await llm.agenerate(["a"]))  # list[Generation]
    reveal_type([chunk async for chunk in llm.astream("a")])  # list[Chunk]
    reveal_type(await llm.achat(user))  # ChatReply
    reveal_type(await llm.achat(user, params, n=1))  # ChatReply
    reveal_type(await llm.achat(user, n=8, continue_final_message=True))  # list[ChatReply]
    reveal_type(await llm.achat(user, params))  # ChatReply | list[ChatReply]
    reveal_type([chunk async for chunk in llm.astream_chat(user, temperature=0.2)])  # list[ChatChunk]
"""
REFUSED = """
from darwin_neg_cpp import DarwinNEG

llm = DarwinNEG("model.gguf", n_context=3)  # call-arg
llm.generate("a", temprature=0.5)  # call-overload
llm.generate("a", mirostat="2")  # call-overload
llm.chat([{"role": "user"}], enable_thinking="yes")  # call-overload
llm.stream("a", samplers=["top_q"])  # list-item
llm.score("a").text  # attr-defined
"""


CONFIG = f"""
[mypy]
strict = True
python_version = 3.10
mypy_path = {ROOT / "python"}
[mypy-gguf.*,huggingface_hub.*,torch.*]
follow_imports = skip
ignore_missing_imports = True
"""
NAMES = re.compile(r"^\s*(\w+) = |for (\w+) in", re.MULTILINE)


def readme() -> str:
    """The README's example, which also reveals everything that it gives a name to."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    names = sorted({"".join(found) for found in NAMES.findall(code)})
    assert names == ["answers", "chunk", "out", "reply"]
    return str(code) + "\n" + "".join(f"    reveal_type({name})\n" for name in names)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """mypy's lines about each program."""
    folder = tmp_path_factory.mktemp("types")
    programs = {"cases.py": CASES, "refused.py": REFUSED, "readme.py": readme()}
    for name, code in programs.items():
        (folder / name).write_text(code)
    (folder / "mypy.ini").write_text(CONFIG)
    # the package's own files are checked by `make lint`
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--follow-imports=silent", "--no-error-summary"]
    result = subprocess.run([*command, *programs], capture_output=True, text=True, check=False, cwd=folder)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    return {name: [line for line in lines if line.startswith(f"{name}:")] for name in programs}


def expected(code: str) -> dict[int, str]:
    """The comment at the end of each line that has one, by line number."""
    lines = enumerate(code.splitlines(), start=1)
    return {number: line.partition("  # ")[2] for number, line in lines if "  # " in line}


def revealed(lines: list[str]) -> dict[int, str]:
    """Types by line number, without the modules they come from."""
    assert not [line for line in lines if "error:" in line]
    found = (re.match(r'\S+?:(\d+): note: Revealed type is "(.*)"', line) for line in lines)
    return {int(match[1]): re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", match[2]) for match in found if match}


@pytest.mark.slow
def test_every_call_has_the_type_of_its_result(output: dict[str, list[str]]) -> None:
    assert revealed(output["cases.py"]) == expected(CASES)


@pytest.mark.slow
def test_the_example_of_the_readme_passes_and_nothing_in_it_is_any(output: dict[str, list[str]]) -> None:
    assert list(revealed(output["readme.py"]).values()) == ["list[Generation]", "Chunk", "Generation", "ChatReply"]


@pytest.mark.slow
def test_a_wrong_option_is_an_error(output: dict[str, list[str]]) -> None:
    found = (re.match(r"\S+?:(\d+): error: .*\[(.*)\]$", line) for line in output["refused.py"])
    assert {int(match[1]): match[2] for match in found if match} == expected(REFUSED)
