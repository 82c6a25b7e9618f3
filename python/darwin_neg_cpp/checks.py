"""Checks of arguments. Each names the argument that it refuses, and returns the value as plain Python has it."""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Mapping, Sequence

from .errors import RequestError

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
MAX_FLOAT32 = 3.4028234663852886e38  # what the engine computes with

# llama.cpp turns JSON into grammars and templates by recursion on the C stack; honest input is far flatter and smaller.
MAX_JSON_DEPTH = 100
MAX_JSON_SIZE = 1_000_000

MAX_RPC_SERVERS = 16  # GGML_RPC_MAX_SERVERS


def check_integer(name: str, value: object, *, low: int, high: int = MAX_INT32, hint: str = "") -> int:
    """Refuses what is not a whole number (of Python or NumPy) in the range. hint: added to the range in the error."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise RequestError(f"{name} must be a whole number, got {shown(value)}")
    if not low <= int(value) <= high:
        raise RequestError(f"{name} must be {range_text(low, high)}{hint}, got {shown(value)}")
    return int(value)


def check_number(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float | None = None,
    infinite: Sequence[float] = (),
    hint: str = "",
) -> float:
    """Refuses what is not a number (of Python or NumPy) from `low` to `high`, and larger than `above`.

    infinite: which of inf and -inf are meant to be possible. hint: added to the range in the error.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise RequestError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        raise RequestError(f"{name} must be a finite number, got {shown(value)}") from None
    if math.isinf(number) and number in infinite:
        return number
    if not math.isfinite(number):
        raise RequestError(f"{name} must be a finite number, got {shown(value)}")
    if abs(number) > MAX_FLOAT32:
        raise RequestError(f"{name} must be a number that float32 can hold (at most 3.4e38), got {shown(value)}")
    if above is not None and not number > above:
        raise RequestError(f"{name} must be a number above {above:g}{hint}, got {shown(value)}")
    if not low <= number <= high:
        raise RequestError(f"{name} must be {range_text(low, high)}{hint}, got {shown(value)}")
    return number


def check_flag(name: str, value: object) -> bool:
    """Refuses what is neither True nor False (of Python or NumPy)."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool"):
        raise RequestError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Refuses what is not one of these words."""
    if not isinstance(value, str) or value not in choices:
        quoted = [repr(choice) for choice in choices]
        raise RequestError(f"{name} must be {', '.join(quoted[:-1])} or {quoted[-1]}, got {shown(value)}")
    return value


def encode(name: str, text: object) -> bytes:
    """UTF-8. Refuses halves of surrogate pairs, which no tokenizer can read."""
    if not isinstance(text, str):
        raise RequestError(f"{name} must be text (str), got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{name} holds a lone surrogate at character {error.start}; it is not valid Unicode text"
        ) from None


def check_text(name: str, text: object) -> str:
    """Refuses what is not text that UTF-8 can hold."""
    return encode(name, text).decode()


def encode_all(name: str, texts: object) -> list[bytes]:
    """UTF-8 of a string, or of each of a list of strings; None is an empty list."""
    if texts is None:
        return []
    if isinstance(texts, (bytes, Mapping)) or not isinstance(texts, (str, Sequence)):
        raise RequestError(f"{name} must be a string or a list of strings, got {shown(texts)}")
    return [encode(name, text) for text in ([texts] if isinstance(texts, str) else texts)]


def check_rpc_servers(name: str, value: object) -> list[str]:
    """Addresses of RPC servers, HOST:PORT, from one or a list of them; None is an empty list."""
    servers = [text.decode() for text in encode_all(name, value)]
    for i, server in enumerate(servers):
        host, _, port = server.rpartition(":")
        # digits alone: int() would read spaces, signs and underscores too
        valid = re.fullmatch(r"[A-Za-z0-9._-]+", host) and re.fullmatch("[0-9]{1,5}", port)
        if not valid or not 0 < int(port) < 2**16:
            example = "as in 192.168.1.20:50052"
            raise RequestError(
                f"{name} must be HOST:PORT with a name or an IPv4 address, {example}, got {shown(server)}"
            )
        if server in servers[:i]:
            raise RequestError(f"{name} must be given once each, and {server} is there twice")
    if len(servers) > MAX_RPC_SERVERS:
        raise RequestError(f"{name} must be at most {MAX_RPC_SERVERS}, got {len(servers)}")
    return servers


def json_text(name: str, value: object) -> str:
    """JSON for the engine. Refuses what JSON cannot hold, and what is too deep or too large."""
    _check_shape(name, value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{name} cannot be written as JSON: {error}") from None
    if len(encode(name, text)) > MAX_JSON_SIZE:
        raise RequestError(f"{name} is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
    return text


def json_object_text(name: str, value: object) -> str:
    """JSON for the engine, from a dict or from the JSON text of one; None becomes an empty text."""
    if value is None:
        return ""
    if isinstance(value, str):
        if len(value) > MAX_JSON_SIZE:
            raise RequestError(f"{name} is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
        try:
            value = json.loads(value)
        except RecursionError:
            raise RequestError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels; flatten it") from None
        except ValueError as error:
            raise RequestError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be a dict or the JSON text of one, got {type(value).__name__}")
    return json_text(name, value)


def shown(value: object) -> str:
    """A value in an error message: one line, and short."""
    try:
        text = ascii(value)
    except ValueError:  # an int of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."


def range_text(low: float, high: float) -> str:
    return f"at least {low}" if high == math.inf else f"between {low} and {high}"


def _check_shape(name: str, value: object) -> None:
    """Checks depth and number of values, without recursion, so that it also ends on what contains itself."""
    stack, seen = [(value, 1)], 0
    while stack:
        item, level = stack.pop()
        seen += 1
        if level > MAX_JSON_DEPTH:
            raise RequestError(f"{name} is nested deeper than {MAX_JSON_DEPTH} levels; flatten it")
        if seen > MAX_JSON_SIZE:
            raise RequestError(f"{name} is larger than {MAX_JSON_SIZE:,} bytes; shorten it")
        if isinstance(item, Mapping):
            stack += [(child, level + 1) for child in item.values()]
        elif isinstance(item, (list, tuple)):
            stack += [(child, level + 1) for child in item]
