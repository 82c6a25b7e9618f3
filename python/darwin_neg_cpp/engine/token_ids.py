"""Prompts as users give them: text, token ids, or lists of either."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..checks import shown
from ..errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]]
    Prompts = list[str] | list[list[int]] | tuple[str, ...] | tuple[list[int], ...]
    # A checker cannot know "an int greater than 1": usual numbers of samples are listed, others give a union.
    Several = Literal[2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 20, 24, 30, 32, 40, 48, 50, 64, 100, 128]


def is_one_prompt(prompt: Any) -> bool:
    """Text, or a non-empty one-dimensional sequence of whole numbers."""
    if isinstance(prompt, str):
        return True
    if isinstance(prompt, (bytes, bytearray, Mapping)) or not hasattr(prompt, "__len__"):
        return False
    return len(prompt) > 0 and hasattr(prompt, "__iter__") and all(map(_is_token, prompt))


def check_tokens(name: str, tokens: Any, n_vocab: int) -> list[int]:
    """Token ids as a list, each inside the vocabulary. Errors name `name`."""
    wanted = "text or a list of token ids" if name == "prompt" else "a list of token ids"
    if isinstance(tokens, (str, bytes, bytearray, Mapping)) or not hasattr(tokens, "__iter__"):
        raise RequestError(f"{name} must be {wanted}, got {type(tokens).__name__}")
    ids = []
    for token in tokens:
        if not _is_token(token):
            raise RequestError(f"{name} must be {wanted}, got one with a {type(token).__name__} in it")
        if not 0 <= int(token) < n_vocab:
            raise RequestError(f"{name} holds token {shown(token)}, outside the vocabulary of {n_vocab}")
        ids.append(int(token))
    return ids


def split_added(whole: Sequence[int], plain: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a vocabulary puts before and after a text. whole: its tokens with that; plain: without."""
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return list(whole[:at]), list(whole[at + len(plain) :])


def name_prompt(error: str, prompts: Sequence[Sequence[int]]) -> str:
    """An error of the engine about "prompt", with the place of the prompt that it means where there are several."""
    found = re.match(r"prompt has (\d+|no) tokens", error)
    if found is None or len(prompts) < 2:
        return error
    count = 0 if found[1] == "no" else int(found[1])
    at = next((i for i, prompt in enumerate(prompts) if len(prompt) == count), None)
    return error if at is None else f"prompt[{at}]{error.removeprefix('prompt')}"


def _is_token(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
