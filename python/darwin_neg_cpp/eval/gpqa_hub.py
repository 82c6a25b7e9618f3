"""Downloads GPQA from the hub. The dataset is gated: accept its terms on the hub first, then use your own token."""

from __future__ import annotations

from pathlib import Path

from .. import hub
from ..errors import DarwinNegError

REPO = "Idavidrein/gpqa"
FILE = "gpqa_diamond.csv"


def fetch(*, file: str = FILE, revision: str | None = None) -> Path:
    """Downloads a file of the dataset into Hugging Face's own cache, or takes it from there; returns its path.

    The token is the one that `hf auth login` stored, or HF_TOKEN. Errors: DarwinNegError.
    """
    try:
        # one request that fails at once: huggingface_hub's own repeats its request for a file when there is no network
        return hub.download(hub.look_up(REPO, revision=revision, kind="dataset"), file)
    except DarwinNegError as error:
        raise DarwinNegError(
            f"{error}; the dataset is gated: accept its terms at https://huggingface.co/datasets/{REPO} and run "
            "`hf auth login`, or use a local file (data=...)"
        ) from None
