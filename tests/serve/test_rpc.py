"""`darwin-neg serve --rpc` and `darwin-neg rpc-server`: a server that is lost, one that never was, and how it ends."""

from __future__ import annotations

import random
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import http_server
import rpc
from command_line import refusal
from darwin_neg_cpp.cli.main import main
from darwin_neg_cpp.server.rpc import choose_devices
from rpc import At, Proxy, RpcServer

ASK: Any = {
    "prompt": "the quick brown fox",
    "n_predict": 16,
    "temperature": 0,
    "ignore_eos": True,
    "cache_prompt": False,
}
OPTIONS = ("-t", "1", "-c", "512", "--n-parallel", "2", "--", "--no-warmup", "--no-ui", *http_server.EXACT)


@pytest.fixture(scope="module")
def lender() -> Iterator[RpcServer]:
    with RpcServer() as server:
        yield server


def test_requests_end_with_an_error_and_the_server_goes_on(
    lender: RpcServer, server_models: http_server.Models
) -> None:
    with http_server.Server("-m", server_models.neg, *OPTIONS, verb=("serve",)) as server:
        local = server.ok("/completion", {**ASK, "return_neg": True})
    watch = At("cut", n=4)
    with Proxy(lender.address, watch) as proxy:
        options = ("-m", server_models.neg, "--rpc", proxy.address, *OPTIONS)
        with http_server.Server(*options, verb=("serve",)) as server:
            assert proxy.counts["SET_TENSOR"] > 10, "the model lies there"
            remote = server.ok("/completion", {**ASK, "return_neg": True})
            assert remote["content"] == local["content"]
            assert remote["timings"]["neg"] == pytest.approx(local["timings"]["neg"], abs=1e-6)
            watch.armed = True
            gone = f"the RPC server {proxy.address} is gone (the connection was closed)"
            with server.opened("/completion", {**ASK, "stream": True}) as response:
                text = response.read().decode()
            assert gone in text and "error" in text
            for path, body in (
                ("/completion", ASK),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4}),
            ):
                answer = server.post(path, body)
                assert answer.status == 500 and gone in answer.message
            assert server.get("/health").status == 200 and server.process.poll() is None


def test_a_server_that_is_not_there_is_one_line(
    server_models: http_server.Models, capfd: pytest.CaptureFixture[str]
) -> None:
    closed = f"127.0.0.1:{http_server.free_port()}"
    said = refusal(capfd, "serve", "-m", str(server_models.neg), "--port", "0", "--rpc", closed, code=1)
    assert f"no RPC server answers at {closed} (Connection refused); correct --rpc, or start" in said
    said = refusal(capfd, "serve", "-m", str(server_models.neg), "--port", "0", "--rpc", "here")
    assert "--rpc must be HOST:PORT" in said
    # llama-server's own option says it too, among other lines
    assert main(["serve", "--raw", "-m", str(server_models.neg), "--rpc", closed]) != 0
    assert f"no RPC server answers at {closed}" in "".join(capfd.readouterr())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_how_it_ends(number: int, code: int, tmp_path: Path) -> None:
    with RpcServer("--cache", tmp_path / "a" / "b", "--device", "CPU") as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))):  # whoever it serves does not hold it up
            assert server.end(number) == (code, ""), "and says nothing of a loopback address"
    assert (tmp_path / "a" / "b").is_dir()


class Program:
    """Speaks the protocol by itself, with one tensor of 4,096 bytes on the server."""

    SIZE = 4096

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 30)
        assert self.ask("HELLO", bytes(24))[0] == 7, "version of the protocol"
        buffer, size = struct.unpack("<QQ", self.ask("ALLOC_BUFFER", struct.pack("<IQ", 0, self.SIZE)))
        assert size >= self.SIZE
        (data,) = struct.unpack("<Q", self.ask("BUFFER_GET_BASE", struct.pack("<Q", buffer)))
        n = self.SIZE // 4
        shape = (n, 1, 1, 1, 4, self.SIZE, self.SIZE, self.SIZE)
        self.tensor = struct.pack("<QIQ8II64xi80xQQQ64si", 1, 0, buffer, *shape, 0, 0, 0, 0, data, b"weights", 0)
        assert len(self.tensor) == 296

    def say(self, command: str, body: bytes) -> None:
        self.socket.sendall(struct.pack("<BQ", rpc.COMMANDS.index(command), len(body)) + body)

    def ask(self, command: str, body: bytes) -> bytes:
        self.say(command, body)
        (size,) = struct.unpack("<Q", rpc.receive(self.socket, 8))
        return rpc.receive(self.socket, size)

    def set(self, values: bytes, *, keep: bool) -> None:
        self.say("SET_TENSOR", self.tensor + struct.pack("<BQ", keep, 0) + values)

    def set_kept(self, values: bytes) -> bool:
        """Sets them to what the server keeps under the hash of these values, if it does."""
        number = 0xCBF29CE484222325
        for byte in values:
            number = (number ^ byte) * 0x100000001B3 % 2**64
        return bool(self.ask("SET_TENSOR_HASH", self.tensor + struct.pack("<QQ", 0, number))[0])

    def get(self) -> bytes:
        return self.ask("GET_TENSOR", self.tensor + struct.pack("<QQ", 0, self.SIZE))


def test_what_is_kept_of_a_model_is_used_only_when_it_is_whole(tmp_path: Path) -> None:
    values, zeros = random.Random(3).randbytes(Program.SIZE), bytes(Program.SIZE)
    with RpcServer("--cache", tmp_path) as server:
        program = Program(server.address)
        assert not program.set_kept(values)
        program.set(values, keep=True)
        program.set(zeros, keep=False)
        assert program.get() == zeros
        assert program.set_kept(values) and program.get() == values
        (file,) = tmp_path.iterdir()
        for damaged in (values[:-1], values[:-1] + bytes([values[-1] ^ 1]), b"", values + b"x"):
            file.write_bytes(damaged)
            program.set(zeros, keep=False)
            assert not program.set_kept(values) and program.get() == zeros
        program.set(values, keep=True)
        program.set(zeros, keep=False)
        assert program.set_kept(values) and program.get() == values
        program.socket.close()


def test_what_cannot_be_served_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, lender: RpcServer
) -> None:
    port = lender.address.rpartition(":")[2]
    for words, message in (
        (["--port", port], f"--port must be free, and {port} is in use on 127.0.0.1"),
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--host", "::1"], "--host must be an IPv4 address of this machine or its name, got '::1'"),
        (["--host", "192.0.2.1"], "host and --port must be free to listen on, got 192.0.2.1:50052"),
        (["--device", "CUDA9"], "--device must be of this machine, which has CPU"),
        (["--device", "CPU,CPU"], "--device must be named once each"),
        (["-t", "-1"], "--threads must be between 0 and 512"),
    ):
        assert message in refusal(capsys, "rpc-server", *words)
    (tmp_path / "file").write_text("")
    said = refusal(capsys, "rpc-server", "--port", "0", "--cache", str(tmp_path / "file"))
    assert "cannot be a folder to keep tensors in" in said


def test_which_devices_are_lent() -> None:
    known = [
        {"name": name, "type": kind} for name, kind in (("V0", "gpu"), ("I0", "igpu"), ("B", "accel"), ("CPU", "cpu"))
    ]
    assert choose_devices(None, known) == ["V0", "I0"] and choose_devices(None, known[2:]) == ["CPU"]
    assert choose_devices(["CPU", "V0"], known) == ["CPU", "V0"]


def test_all_machines_may_listen_with_a_warning() -> None:
    with RpcServer(host="0.0.0.0") as server:
        code, said = server.end()
    assert code == 0 and said.count("\n") == 1
    assert "RPC has neither password nor encryption: whoever reaches 0.0.0.0:" in said
