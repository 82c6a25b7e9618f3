"""Addresses of servers, as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..checks import shown
from ..errors import RequestError

PORTS = {"http": 80, "https": 443}
EXAMPLE = "write it like http://127.0.0.1:8080"


@dataclass(frozen=True)
class Address:
    """Where a server is. path: what comes before the paths of the API, without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def read_addresses(servers: object) -> list[Address]:
    """The servers in a text with commas between them, or in a list of such texts, each once. Errors: RequestError."""
    texts = [servers] if isinstance(servers, str) else servers
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"servers must be an address or a list of them, got {type(servers).__name__}; {EXAMPLE}")
    addresses = [read_address(part) for text in texts for part in text.split(",") if part.strip()]
    if not addresses:
        raise RequestError(f"servers must name at least one; {EXAMPLE}")
    for i, address in enumerate(addresses):
        if address in addresses[:i]:
            raise RequestError(f"{address}: is given twice; name each server once")
    return addresses


def read_address(text: str) -> Address:
    """One address. `/v1` at its end, which belongs to OpenAI's API, is left out. Errors: RequestError."""
    text = text.strip()
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RequestError(f"{shown(text)}: is not the address of a server; {EXAMPLE}") from None
    if parts.username is not None or parts.password is not None:
        # named without it: an error may end up in a log
        raise RequestError(f"{host}: has a name or key in its address; pass the key with server_key=...")
    if parts.scheme not in PORTS or not host or not _is_plain(full) or parts.query or parts.fragment or port == 0:
        raise RequestError(f"{shown(text)}: is not the address of a server; {EXAMPLE}")
    path = re.sub(r"(/v1)?/*$", "", parts.path)
    return Address(parts.scheme, host, port or PORTS[parts.scheme], path)


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text
