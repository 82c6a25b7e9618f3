"""Models from a Hugging Face repository."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .errors import DarwinNegError, ModelFileError

if TYPE_CHECKING:
    from .llm import DarwinNEG

SIDE_CAR_SUFFIX = ".neg.gguf"


def fetch(repo: str, *, file: str | None = None, token: str | None = None, revision: str | None = None) -> tuple[str, str | None]:
    """Downloads a GGUF model, and the NEG side-car `<model>.neg.gguf` beside it if there is one; returns their paths.

    file: which GGUF of the repository; needed when it holds several. token: defaults to the one that `hf auth login` stored.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        names = HfApi(token=token).list_repo_files(repo, revision=revision)
        name = file or _only_model(repo, names)
        if name not in names:
            raise ModelFileError(f"{repo}: has no file {name}; it has {', '.join(_models(names)) or 'no GGUF file'}")
        model = hf_hub_download(repo, name, token=token, revision=revision)
        side_car = name.removesuffix(".gguf") + SIDE_CAR_SUFFIX
        neg = hf_hub_download(repo, side_car, token=token, revision=revision) if side_car in names else None
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DarwinNegError(f"{repo}: cannot be downloaded: {first}; check the name, the network and your access token") from None
    return model, neg


def _models(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".gguf") and not name.endswith(SIDE_CAR_SUFFIX) and "mmproj" not in name)


def _only_model(repo: str, names: list[str]) -> str:
    models = _models(names)
    if not models:
        raise ModelFileError(f"{repo}: has no GGUF file; download one, or convert the checkpoint with llama.cpp and run `darwin-neg neg attach`")
    if len(models) > 1:
        raise ModelFileError(f"{repo}: has several GGUF files; name one with file=: {', '.join(models)}")
    return models[0]


def load_darwin_neg(path_or_repo: str, hf_token: str | None = None, **options: Any) -> DarwinNEG:
    """Loads a model from a GGUF file or a repository, like the helper on the model card."""
    from .llm import DarwinNEG

    if os.path.exists(path_or_repo) or path_or_repo.endswith(".gguf"):
        return DarwinNEG(path_or_repo, **options)
    return DarwinNEG.from_pretrained(path_or_repo, token=hf_token, **options)
