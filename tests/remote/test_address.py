"""Addresses as people write them, connections that are encrypted or are not what they seem, and what a key may be."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from darwin_neg_cpp import Question, RemoteEngine, RequestError
from darwin_neg_cpp.remote import exchange
from darwin_neg_cpp.remote.address import read_address, read_addresses
from scripted_server import ScriptedServer

CERTIFICATE = Path(__file__).with_name("loopback.pem")  # of 127.0.0.1, valid for a hundred years, used here alone


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("localhost", "http://localhost"),
        ("http://localhost:80/", "http://localhost"),
        ("https://a.example:443", "https://a.example"),
        ("https://a.example/llama/v1/", "https://a.example/llama"),
        ("http://a:8080/v1", "http://a:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        (" http://A:1 ", "http://a:1"),
    ],
)
def test_addresses_are_read(text: str, shown: str) -> None:
    assert str(read_address(text)) == shown


@pytest.mark.parametrize(
    "text",
    ["ftp://a", "http://", "http://a:x", "http://a:0", "http://a:99999", "http://a b", "http://a?x=1", "http://a#x",
     "/tmp/x.sock", "http://é", "http://a/\r\nX: y", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(RequestError, match=r"is not the address of a server; write it like http://127\.0\.0\.1:8080"):
        read_address(text)


def test_a_key_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError, match="has a name or key in its address; pass the key with") as raised:
        read_address("http://user:secret@host:8080")
    assert "secret" not in str(raised.value)


def test_lists_may_be_one_text_or_several() -> None:
    assert [str(a) for a in read_addresses(["http://a,http://b", "c"])] == ["http://a", "http://b", "http://c"]
    for servers, words in (
        ("", "must name at least one"),
        ([], "must name at least one"),
        (["http://a", "a:80"], "http://a: is given twice"),
        (5, "must be an address or a list"),
        ([5], "must be an address or a list"),
    ):
        with pytest.raises(RequestError, match=words):
            read_addresses(servers)


def test_encrypted_connections_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question("Which?", ("a", "b"), id="q")
    with ScriptedServer(tls=(str(CERTIFICATE), str(CERTIFICATE)), key="k") as server:
        with pytest.raises(RequestError, match=f"{server.url}: its certificate is not trusted.*SSL_CERT_FILE"):
            RemoteEngine(server.url, server_key="k")
        monkeypatch.setattr(exchange, "_trust", lambda: ssl.create_default_context(cafile=str(CERTIFICATE)))
        with RemoteEngine(server.url, server_key="k") as remote:
            assert remote.answer(question, 3, max_tokens=5, samples=1).candidates
    with ScriptedServer() as server, pytest.raises(RequestError, match=f"does not speak TLS; write {server.url}"):
        RemoteEngine(server.url.replace("http:", "https:"))
