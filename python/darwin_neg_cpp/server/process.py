"""llama-server in this process, with its own arguments. Imported by child.py too, so that it needs little."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import DarwinNegError

CHILD = str(Path(__file__).with_name("child.py"))


def core() -> Any:
    """The compiled engine's module, which loads the backends of ggml."""
    return import_module(f"{__name__.partition('.')[0]}._core")


def check_rpc_servers_answer(servers: Sequence[str]) -> None:
    """Raises DarwinNegError for one that does not answer, which the server would say among many lines."""
    core().check_rpc_servers(servers)


def run_llama_server(arguments: Sequence[str]) -> int:
    """Runs llama-server with its own arguments, and returns its exit code."""
    # its router starts a server for each model: the program that runs here, which is Python, with this before the rest
    os.environ["LLAMA_APP_CMD"] = CHILD
    package = __name__.partition(".")[0]
    core()  # loads the backends that suit this machine, for the server too
    try:
        module = import_module(package)._server
    except AttributeError as error:
        raise DarwinNegError(
            f"this build has no server ({error}); build the package with -DDARWIN_NEG_BUILD_SERVER=ON, its default"
        ) from None
    code: int = module.llama_server(["llama-server", *arguments])
    return code
