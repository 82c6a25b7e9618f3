"""Model files that tests share. What is slow to make is kept in the cache folder, keyed by what it is made from."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PIN = ROOT / "cmake" / "llama_pin.json"
sys.path.insert(0, str(TESTS))

import darwin_neg_cpp  # noqa: E402
import fake_core  # noqa: E402
import http_server  # noqa: E402
from darwin_neg_cpp import DarwinNEG  # noqa: E402
from darwin_neg_cpp.files.cache_folder import cache_root  # noqa: E402
from darwin_neg_cpp.neg import files as neg_files  # noqa: E402

# A shell's background job ignores SIGINT and its children inherit that: tests of Ctrl-C would wait forever.
signal.signal(signal.SIGINT, signal.default_int_handler)


def made(name: str, make: Callable[[Path], None], *sources: Path, versions: Sequence[str] = ()) -> Path:
    """A cached folder that `make` fills, keyed by its code, by the files that it works with and by versions.

    It is made under another name and renamed, so that an interrupted run leaves nothing half-made.
    """
    digest = hashlib.sha256(inspect.getsource(make).encode())
    for part in (*(path.read_bytes() for path in sources), *(version.encode() for version in versions)):
        digest.update(part)
    final = cache_root() / "tests" / f"{name}-{digest.hexdigest()[:16]}"
    if not final.is_dir():
        temp = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        shutil.rmtree(temp, ignore_errors=True)
        temp.mkdir(parents=True)
        make(temp)
        try:
            temp.rename(final)
        except OSError:
            if not final.is_dir():
                raise
            shutil.rmtree(temp)  # another worker was quicker
    return final


@pytest.fixture(scope="session")
def llama_tree() -> Path:
    """The pinned llama.cpp without the patch, with its converter and test vocabulary."""
    command = [sys.executable, str(ROOT / "cmake" / "llama_source.py"), "--pristine", "--with-tests"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


@dataclass(frozen=True)
class TinyQwen:
    """checkpoint: folder in the released layout. base: F32 GGUF by llama.cpp's converter. model: with the head."""

    checkpoint: Path
    base: Path
    model: Path


@pytest.fixture(scope="session")
def tiny_qwen(llama_tree: Path) -> TinyQwen:
    def make(folder: Path) -> None:
        from oracles import tiny_qwen35

        checkpoint = folder / "checkpoint"
        tiny_qwen35.write_checkpoint(checkpoint, llama_tree)
        tiny_qwen35.convert(checkpoint, folder / "base.gguf", llama_tree)
        neg_files.attach(folder / "base.gguf", checkpoint / "neg_modules.safetensors", folder / "model.gguf")

    oracles = TESTS / "oracles"
    sources = [oracles / name for name in ("tiny_qwen35.py", "qwen_tokenizer.py", "neg_reference.py")]
    folder = made("tiny-qwen35", make, *sources, PIN)
    return TinyQwen(folder / "checkpoint", folder / "base.gguf", folder / "model.gguf")


@dataclass(frozen=True)
class SmolLM2:
    """base: the Q4_1 file. model: with a seeded random head in the released layout (`head`). f32: dequantised."""

    base: Path
    head: Path
    model: Path
    f32: Path


@pytest.fixture(scope="session")
def smollm2() -> SmolLM2:
    from darwin_neg_cpp import demo_model

    base = demo_model.model_path()

    def make(folder: Path) -> None:
        from oracles import neg_reference
        from oracles import smollm2 as oracle

        neg_reference.random_released_head(folder / "neg_modules.safetensors", demo_model.HIDDEN, 9, 1.0)
        neg_files.attach(base, folder / "neg_modules.safetensors", folder / "model.gguf")
        oracle.dequantized(base, folder / "f32-base.gguf")
        neg_files.attach(folder / "f32-base.gguf", folder / "neg_modules.safetensors", folder / "f32.gguf")
        (folder / "f32-base.gguf").unlink()

    oracles = TESTS / "oracles"
    folder = made("smollm2", make, oracles / "smollm2.py", oracles / "neg_reference.py")
    return SmolLM2(base, folder / "neg_modules.safetensors", folder / "model.gguf", folder / "f32.gguf")


@pytest.fixture(scope="session")
def smol(smollm2: SmolLM2) -> Iterator[DarwinNEG]:
    """SmolLM2 with its random head, loaded once; tests must leave no request behind.

    It keeps no prefixes: tests compare runs of one prompt, which rounding must not tell apart.
    """
    with DarwinNEG(smollm2.model, n_ctx=2048, n_parallel=8, prefix_cache=0) as llm:
        yield llm


@pytest.fixture(scope="session")
def byte_models(llama_tree: Path, tiny_qwen: TinyQwen) -> dict[str, Path]:
    """Model files by architecture: llama sees all tokens, gemma3 a window, qwen35 and qwen35moe keep a state too."""

    def make(folder: Path) -> None:
        from oracles import byte_models

        byte_models.write_all(folder, llama_tree, tiny_qwen.base)

    oracles = TESTS / "oracles"
    sources = [oracles / name for name in ("byte_models.py", "tiny_qwen35.py", "neg_reference.py")]
    folder = made("byte-models", make, *sources, TESTS / "tiny_gguf.py", PIN)
    return {file.stem: file for file in sorted(folder.iterdir())}


def pytest_configure() -> None:
    """Gives each of several workers a core of its own: engines that share cores wait for each other's threads."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that two workers end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def tiny_llama(tmp_path: Path) -> Path:
    """A fresh tiny model file (a few hundred kB) that loads and generates."""
    from tiny_gguf import write_tiny_llama

    return write_tiny_llama(tmp_path / "tiny.gguf")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[fake_core.Engine]:
    """The scripted engine, in the place of the compiled one."""
    module = fake_core.module()
    monkeypatch.setattr(darwin_neg_cpp, "_core", module, raising=False)  # first: it loads what it will put back
    monkeypatch.setitem(sys.modules, "darwin_neg_cpp._core", module)
    return fake_core.Engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model file for the scripted engine."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def llm(fake: type[fake_core.Engine], file: Path) -> Iterator[DarwinNEG]:
    """A model of the scripted engine."""
    with DarwinNEG(file) as model:
        yield model


@pytest.fixture(scope="session")
def server_models(tmp_path_factory: pytest.TempPathFactory) -> http_server.Models:
    return http_server.write_models(tmp_path_factory.mktemp("server-models"))


@pytest.fixture(scope="module")
def start_server() -> Iterator[Callable[..., http_server.Server]]:
    """start_server(*options) -> the server that runs with these options, started where it does not run yet."""
    running: dict[tuple[str, ...], http_server.Server] = {}

    def start(*options: object) -> http_server.Server:
        key = tuple(map(str, options))
        if key not in running:
            running[key] = http_server.Server(*http_server.SMALL, *options)
        return running[key]

    yield start
    assert {server.close() for server in running.values()} <= {0, http_server.ENDED}


# for one module, not for the session: while playwright runs, its event loop counts as the running one of this thread,
# and asyncio.run refuses to start another
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium on this machine; `make browser` installs Debian's"
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """open(html, **context options) -> page; it must not write to the console or request anything from the network."""
    said: list[str] = []
    contexts = []

    def open_page(html: str, **options: Any) -> Any:
        (tmp_path / "opened.html").write_text(html, "utf-8")
        contexts.append(browser.new_context(viewport={"width": 1000, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.on(
            "request",
            lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        tab.goto((tmp_path / "opened.html").as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
