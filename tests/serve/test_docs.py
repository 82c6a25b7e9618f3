"""What the pages about the server show runs as it stands, against a server of a tiny model."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from http_server import Models, Server

PAGES = sorted((ROOT / "docs").glob("serve*.md"))
ADDRESS = "http://127.0.0.1:8080"
# a random model would write broken characters otherwise
LETTERS = ("--grammar", "root ::= [a-z ]+")
# no program on the developer's machine reads these
CONFIGURATIONS = {"nginx", "caddy"}
TOKENS = 16  # of every answer in the pages


@pytest.fixture(scope="module")
def server(server_models: Models) -> Iterator[Server]:
    options = ("-m", server_models.neg, "-c", 2048, "-t", 1, "--", "--no-warmup", *LETTERS)
    with Server(*options, verb=("serve",)) as running:
        yield running


def blocks(language: str, page: Path | None = None) -> list[str]:
    """The fenced blocks of one page, or of all."""
    pages = PAGES if page is None else [page]
    pattern = rf"^```{language}\n(.*?)^```"
    return [text for each in pages for text in re.findall(pattern, each.read_text("utf-8"), re.DOTALL | re.MULTILINE)]


def at(server: Server, text: str) -> str:
    return text.replace(ADDRESS, f"http://127.0.0.1:{server.port}")


def test_every_block_of_code_is_one_that_is_run_here() -> None:
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) - CONFIGURATIONS == {"sh", "python", "json"}
    assert not re.search(r"\n\n    \S", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)), "fence it"
    for line in re.sub(r"\\\n", "", "".join(blocks("sh"))).splitlines():
        assert line.split()[0] in ("curl", "darwin-neg"), "tests/test_readme.py parses the second kind"


def test_curl_examples_are_answered(server: Server) -> None:
    commands = [text for text in blocks("sh") if "curl " in text]
    (both,) = commands
    first, second = re.split(r"^(?=curl )", both, flags=re.MULTILINE)[1:]
    whole = json.loads(run(at(server, first)))
    assert len(whole["choices"][0]["neg"]["entropy"]) == whole["usage"]["completion_tokens"] > 0
    events = [json.loads(line[6:]) for line in run(at(server, second)).splitlines() if line.startswith("data: ")]
    assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop"
    assert any(event["type"] == "content_block_delta" and event["neg"]["entropy"] >= 0 for event in events)


def run(script: str) -> str:
    command = ["sh", "-ec", f'curl() {{ command curl -sSf "$@"; }}\n{script}']
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_python_examples_run_one_after_another(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    shown = []
    packages = []
    for text in blocks("python"):
        packages += re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
        exec(compile(at(server, text), "docs/serve.md", "exec"), names)
        shown.append(capsys.readouterr().out)
    assert packages == ["openai", "anthropic", "langchain_openai"]
    openai, anthropic, langchain = shown
    assert re.search(r"(?m)^[a-z ]+ \[\d+\.\d+(, \d+\.\d+)*\]$", openai), "a text and its entropies"
    assert openai.count("{'entropy': ") >= 2, "newest tokens of a stream"
    assert re.search(r"(?m)^[a-z ]+ \d+\.\d+\n\Z", openai) and re.fullmatch(r"[a-z ]+ \d+\.\d+\n", anthropic)
    assert re.fullmatch(r"[a-z ]+ \{'entropy': \d+\.\d+, 'active': \w+\}\n", langchain)


def test_requests_in_json_are_taken(server: Server) -> None:
    (text,) = blocks("json")
    answer = server.ok("/completion", json.loads(text))
    assert len(answer["neg"]["entropy"]) == answer["tokens_predicted"] <= TOKENS


@pytest.mark.parametrize("language", sorted(CONFIGURATIONS))
def test_a_proxy_is_told_to_pass_chunks_and_where_the_server_is(language: str) -> None:
    (text,) = blocks(language)
    assert text.count("{") == text.count("}") > 0 and "127.0.0.1:8080" in text
    assert "proxy_buffering off" in text or "flush_interval -1" in text
