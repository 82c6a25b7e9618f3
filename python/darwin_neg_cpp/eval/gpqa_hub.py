"""GPQA from the hub. The set is gated: who wants it accepts its terms there, and downloads with a token of their own."""

from __future__ import annotations

from pathlib import Path

from ..errors import DarwinNegError
from ..hub import errors_about

REPO = "Idavidrein/gpqa"
FILE = "gpqa_diamond.csv"


def fetch(*, file: str = FILE, revision: str | None = None) -> Path:
    """Downloads a file of the set into Hugging Face's own cache, or takes it from there; returns its path.

    The token is the one that `hf auth login` stored, or HF_TOKEN. Errors: DarwinNegError.
    """
    from huggingface_hub import hf_hub_download

    try:
        with errors_about(REPO):
            return Path(hf_hub_download(REPO, file, repo_type="dataset", revision=revision))
    except DarwinNegError as error:
        raise DarwinNegError(
            f"{error}; the set is gated: accept its terms at https://huggingface.co/datasets/{REPO}, run `hf auth login`, or give a local file with --data"
        ) from None
