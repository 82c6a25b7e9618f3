"""A model on machines of different networks: network namespaces with addresses of their own, on one bridge."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import http_server
from darwin_neg_cpp import DarwinNEG
from rpc import RpcServer

EXACT: Any = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off", "n_ctx": 256, "n_parallel": 2}
GREEDY: Any = {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True}
PROMPT = "the quick brown fox jumps over the lazy dog"

CHILD = """
import json, sys, time
from darwin_neg_cpp import DarwinNEG, DarwinNegError
model, servers, options, settings = json.loads(sys.argv[1])
start = time.monotonic()
try:
    llm = DarwinNEG(model, rpc_servers=servers, **options)
except DarwinNegError as error:
    sys.exit(f"{time.monotonic() - start:.0f} s: {error}")
with llm:
    found = llm.generate(*settings[:1], **settings[1])
    print(json.dumps([found.token_ids.tolist(), found.neg.entropy.tolist(), llm.info["devices"]]))
"""


@pytest.fixture(scope="module")
def namespaces() -> Iterator[dict[str, str]]:
    """Three networks, each with an address of its own, on one bridge: name -> address."""
    if shutil.which("ip") is None:
        pytest.fail("`ip` is missing; install iproute2 (`make test` does)")
    stem, bridge = f"neg{os.getpid()}", f"negbr{os.getpid()}"
    names = {f"{stem}-{i}": f"10.213.7.{i}" for i in (1, 2, 3)}

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(
                f"`ip {' '.join(words)}` failed ({done.stderr.strip()}); run the tests as root, or in a container with "
                "CAP_NET_ADMIN and CAP_SYS_ADMIN"
            )

    try:
        ip("netns", "add", f"{stem}-0")  # the bridge has one too, so that nothing of the machine is touched
        ip("-n", f"{stem}-0", "link", "add", bridge[:15], "type", "bridge")
        ip("-n", f"{stem}-0", "link", "set", bridge[:15], "up")
        for i, (name, address) in enumerate(names.items()):
            ip("netns", "add", name)
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{i}", "netns", f"{stem}-0")
            ip("-n", f"{stem}-0", "link", "set", f"port{i}", "master", bridge[:15], "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in (*names, f"{stem}-0"):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def test_between_networks_with_addresses_of_their_own(
    namespaces: dict[str, str], server_models: http_server.Models
) -> None:
    (here, own), *others = namespaces.items()
    inside = {name: ("ip", "netns", "exec", name) for name in namespaces}
    with DarwinNEG(server_models.neg, **EXACT) as llm:
        local = llm.generate(PROMPT, **GREEDY)
    assert local.neg is not None
    with (
        RpcServer(before=inside[others[0][0]], host=others[0][1]) as first,
        RpcServer(before=inside[others[1][0]], host=others[1][1]) as second,
    ):
        assert [s.address.rpartition(":")[0] for s in (first, second)] == [address for _, address in others]

        def run(servers: list[str]) -> subprocess.CompletedProcess[str]:
            words = json.dumps([str(server_models.neg), servers, EXACT, [PROMPT, GREEDY]])
            command = [*inside[here], sys.executable, "-c", CHILD, words]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

        done = run([first.address, second.address])
        assert done.returncode == 0, done.stderr
        tokens, entropies, devices = json.loads(done.stdout)
        assert tokens == local.token_ids.tolist()
        np.testing.assert_allclose(entropies, local.neg.entropy, rtol=0, atol=1e-6)
        assert len({*devices["layers"], devices["output"]}) == 2 and devices["neg"] == devices["output"]
        # nobody has this address in that network: known after the time for a connection, and no later
        done = run([first.address, "10.213.7.99:50052"])
        said = re.fullmatch(r"(\d+) s: no RPC server answers at 10\.213\.7\.99:50052 \(.*\); .*\n", done.stderr)
        assert done.returncode == 1 and said and int(said[1]) <= 8, done.stderr
        code, warning = second.end()
        assert code == 0
        assert f"RPC has neither password nor encryption: whoever reaches {second.address} can" in warning
    assert own not in (first.address, second.address)
