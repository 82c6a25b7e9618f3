"""`serve`: starts llama.cpp's server on a model, with what a laptop can bear, the head and the chat page."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..checks import check_integer, check_rpc_servers
from ..errors import ModelFileError, RequestError
from ..files.input_file import shown_path
from ..files.usable_cpus import usable_cpus
from ..gguf_file.preflight import check_runnable
from . import process

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parents[1] / "data" / "serve"
# llama-server keeps 32 checkpoints of a recurrent state for each slot, and 8 GiB of finished prompts
LAPTOP = ("--ctx-checkpoints", "8", "--cache-ram", "2048")

# options by which llama-server starts other programs, or lets clients do so; the last two are the same
STARTING_PROGRAMS = ("--tools", "--tools-runtime", "--mcp-servers-config", "--mcp-servers-json", "--agent", "-ag")
Text = str | os.PathLike[str]


def serve(
    model: Text,
    *,
    side_car: Text | None = None,
    neg: Literal["mask", "sample", "off"] | None = None,
    neg_threshold: float | None = None,
    neg_top_k: int | None = None,
    temp_scale: bool | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    api_key_file: Text | None = None,
    n_ctx: int = 16384,
    n_parallel: int = 4,
    n_threads: int = 0,
    n_gpu_layers: int = -1,
    mtp: int = 0,
    mmproj: Text | None = None,
    lora: Sequence[Text] = (),
    rpc: Sequence[str] = (),
    max_queue: int | None = None,
    open_page: bool = False,
    options: Sequence[str] = (),
) -> int:
    """Serves a model over HTTP until SIGINT or SIGTERM, and returns the server's exit code.

    The APIs are those of llama-server, with NEG in requests and answers (docs/serve-neg.md), and a chat page at `/`.
    A process runs one server at a time.

    model: GGUF file, or a repository OWNER/NAME, which is downloaded and converted at first use. side_car: head for a
        file without one. neg, neg_threshold (nats), neg_top_k, temp_scale: what the gate does where a request says
        nothing; by default what the head says. api_key: what clients must send; api_key_file: one to a line.
    n_ctx: tokens of all conversations together, 0 for the model's own; n_parallel: conversations side by side.
    mtp: tokens that the model's own MTP block drafts. mmproj: projector, for questions about images. lora: adapters.
    rpc: HOST:PORT of other machines. max_queue: requests that may wait; further ones are answered with 503.
    open_page: opens the page in the browser. options: llama-server's own, after all others.
    Errors: ModelFileError and RequestError before the server starts; KeyboardInterrupt at Ctrl-C.
    """
    check_integer("port", port, low=0, high=65535)
    check_integer("n_parallel", n_parallel, low=1)
    check_integer("n_ctx", n_ctx, low=0)
    check_integer("mtp", mtp, low=0)
    path, head = find_model(model, side_car)
    for warning in check_runnable(path):
        logger.warning("%s", warning)
    for name, file in (
        ("side_car", head),
        ("mmproj", mmproj),
        ("api_key_file", api_key_file),
        *(("lora", f) for f in lora),
    ):
        if file is not None and not os.path.isfile(file):
            raise RequestError(f"{name} must be a file, and {shown_path(os.fspath(file))} is none; check the path")
    port = check_port(host, port)
    servers = check_rpc_servers("rpc", rpc)
    if servers:
        process.check_rpc_servers_answer(servers)
    check_programs(options)
    if is_public(host) and not (api_key or api_key_file or has_key(options)):
        logger.warning(
            "other machines can use this server at %s, and no API key is asked for; set one, or listen on 127.0.0.1",
            host,
        )
    argv = ["-m", path, "--host", host, "--port", str(port), "--path", str(PAGE), "--kv-unified", *LAPTOP]
    argv += ["--alias", Path(path).stem]  # by default clients are told the whole path
    argv += ["--cors-origins", "localhost"]  # by default any page of the web may ask, through the user's own browser
    argv += ["-np", str(n_parallel), "-c", str(n_ctx), "-t", str(n_threads or usable_cpus().default_threads)]
    given: list[tuple[str, object]] = [
        ("--neg-file", head),
        ("--neg", neg),
        ("--neg-threshold", neg_threshold),
        ("--neg-top-k", neg_top_k),
        ("--api-key", api_key),
        ("--api-key-file", api_key_file),
        ("--mmproj", mmproj),
        ("--max-queue", max_queue),
        ("--rpc", ",".join(servers) or None),
        ("-ngl", n_gpu_layers if n_gpu_layers >= 0 else None),
        *(("--lora", adapter) for adapter in lora),
    ]
    for flag, value in given:
        if value is not None:
            argv += [flag, os.fspath(value) if isinstance(value, os.PathLike) else str(value)]
    if temp_scale is not None:
        argv.append("--temp-scale" if temp_scale else "--no-temp-scale")
    if mtp:
        argv += ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(mtp)]
    if open_page:
        _open_when_ready(page_url(host, port))
    return process.run_llama_server([*argv, *options])


def find_model(model: Text, side_car: Text | None) -> tuple[str, str | None]:
    """The file of a model, which may be a repository's, and its side-car."""
    path = os.fspath(model)
    head = None if side_car is None else os.fspath(side_car)
    if os.path.exists(path) or path.lower().endswith(".gguf"):
        if not os.path.isfile(path):
            raise ModelFileError(f"{shown_path(path)}: is not a file; check the path")
        return path, head
    from ..pretrained import fetch

    file, beside = fetch(path, side_car=head is None)
    return file, head or beside


def check_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises RequestError where nothing can listen, which the server would say among
    many lines."""
    if host.endswith(".sock"):
        return port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except socket.gaierror as error:
        raise RequestError(f"host must be an address of this machine, got {host!r} ({error.strerror})") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RequestError(f"port must be free, and {port} is in use on {host}; give another one") from None
        raise RequestError(f"host and port must be free to listen on, got {host}:{port} ({error.strerror})") from None


def is_public(host: str) -> bool:
    """Whether other machines may reach it. host: one that can be listened on."""
    if host.endswith(".sock"):
        return False
    addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    return not all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def has_key(options: Sequence[str]) -> bool:
    """Whether llama-server's own options, or its environment, ask for a key."""
    return bool({"--api-key", "--api-key-file"}.intersection(options)) or "LLAMA_API_KEY" in os.environ


def check_programs(options: Sequence[str]) -> None:
    """Raises RequestError where clients could start programs on this machine, by an option or a variable."""
    for flag in STARTING_PROGRAMS:
        variable = "LLAMA_ARG_" + flag.strip("-").replace("-", "_").upper()
        for name in (flag, flag.replace("-", "_").replace("__", "--", 1), variable):
            if name in (os.environ if name == variable else options):
                raise RequestError(f"{name} lets clients start programs on this machine; leave it out, or use --raw")


def page_url(host: str, port: int) -> str:
    """Where this machine finds the page; a server that listens everywhere is found at home."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _open_when_ready(url: str) -> None:

    def wait() -> None:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=5):
                    break
            except (OSError, urllib.error.URLError):
                time.sleep(0.3)
        webbrowser.open(f"{url}/")

    threading.Thread(target=wait, daemon=True).start()
