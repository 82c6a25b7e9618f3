"""A client of the Hugging Face hub: what is in a repository, and its files, whole or in part."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..errors import DarwinNegError, ModelFileError
from ..files.cache_folder import cache_root
from .sessions import QUIET, TIME_OUTS, seconds


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, as the hub lists it or as an earlier download left it.

    revision, token: as given by the user, None for the defaults. names: its files. folder: the earlier download, when
    the hub cannot be asked; then `names` are the files in it. notes: what the user should know about that.
    """

    id: str
    revision: str | None
    token: str | None
    commit: str
    names: tuple[str, ...]
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    kind: Literal["model", "dataset"] = "model"


def look_up(
    repo: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    kind: Literal["model", "dataset"] = "model",
) -> Repository:
    """Asks the hub, in one request, for a repository's commit and files; falls back to an earlier download of it."""
    from huggingface_hub import HfApi, constants

    try:
        with errors_about(repo):
            info = HfApi(token=token).repo_info(
                repo, revision=revision or constants.DEFAULT_REVISION, repo_type=kind, timeout=seconds()
            )
    except DarwinNegError as error:
        # files that have been downloaded need no network
        folder = _downloaded_folder(repo, revision, kind)
        if folder is None:
            raise
        names = tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        notes = () if is_offline() else (f"{error}; an earlier download of it is used",)
        return Repository(repo, revision, token, folder.name, names, folder, notes, kind)
    names = tuple(sibling.rfilename for sibling in info.siblings or ())
    return Repository(repo, revision, token, str(info.sha), names, kind=kind)


def download(repository: Repository, name: str) -> Path:
    """Downloads one file into Hugging Face's cache, or finds it there."""
    from huggingface_hub import hf_hub_download

    if repository.folder is not None and not (repository.folder / name).exists():
        raise DarwinNegError(
            f"{repository.id}: cannot be downloaded: an earlier download of it has no {name}, and the hub cannot be "
            "asked; check the network, and HF_HUB_OFFLINE"
        )
    with errors_about(repository.id):
        return Path(
            hf_hub_download(
                repository.id,
                name,
                repo_type=repository.kind,
                token=repository.token,
                revision=repository.revision,
                local_files_only=repository.folder is not None,
            )
        )


def snapshot(repository: Repository, patterns: Sequence[str], *, complete: bool = True) -> Path:
    """Downloads the files that match `patterns`, resuming an earlier download, and returns their folder.

    Without the hub it is the folder of an earlier download, if that was complete. complete: the patterns are all that
    is ever needed of the repository, so that this download counts as complete.
    """
    import huggingface_hub

    repo, offline = repository.id, repository.folder is not None
    # what is there is not asked for again: huggingface_hub would list the repository once more
    folder = None if offline else _whole_folder(repository, patterns)
    if folder is None:
        with errors_about(repo):
            folder = Path(
                huggingface_hub.snapshot_download(
                    repo,
                    revision=repository.revision,
                    token=repository.token,
                    allow_patterns=list(patterns),
                    local_files_only=offline,
                    tqdm_class=_terminal_bar(),
                )
            )
    # huggingface_hub before 2.0 takes whatever is there for complete
    marker = cache_root() / "hub" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    if not offline and complete:
        with contextlib.suppress(OSError):  # only a later run without network misses it
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()
    elif offline and int(huggingface_hub.__version__.partition(".")[0]) < 2 and not marker.exists():
        raise DarwinNegError(
            f"{repo}: cannot be reached, and its earlier download may be incomplete; connect once, "
            f"or give the folder {folder} if it is complete"
        )
    return folder


def read_range(repository: Repository, name: str, begin: int, end: int) -> tuple[bytes, int]:
    """Reads bytes `begin` to `end` (or to the file's end) of a file, and returns them with the size of the whole file.

    A request of our own: HfFileSystem asks for the file's listing first, and repeats a request that timed out five
    times.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    with errors_about(repository.id):
        response = get_session().get(
            # the commit: what a file holds must not change between two requests
            hf_hub_url(repository.id, name, revision=repository.commit),
            headers={**build_hf_headers(token=repository.token), "Range": f"bytes={begin}-{end - 1}"},
            timeout=seconds(),
        )
        hf_raise_for_status(response)
        content_range = response.headers.get("Content-Range", "")
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range)
        if part is None or int(part[1]) != begin:
            raise ConnectionError(f"{name}: the server did not send the part of the file that it was asked for")
        return bytes(response.content), int(part[2])


def _whole_folder(repository: Repository, patterns: Sequence[str]) -> Path | None:
    """The folder of an earlier download of this commit that has every file of these patterns; None without one."""
    folder = _downloaded_folder(repository.id, repository.revision, repository.kind)
    if folder is None or folder.name != repository.commit:
        return None
    wanted = [name for name in repository.names if any(fnmatch(name, pattern) for pattern in patterns)]
    return folder if wanted and all((folder / name).exists() for name in wanted) else None


def _downloaded_folder(repo: str, revision: str | None, kind: str) -> Path | None:
    """The folder of an earlier download in Hugging Face's cache; None without one."""
    import huggingface_hub

    try:
        # no pattern: whether the files that are needed are there is found out later
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, repo_type=kind, allow_patterns=[], local_files_only=True
            )
        )
    except Exception:  # whatever the reason: the error of the request that failed before says more
        return None


@contextlib.contextmanager
def errors_about(repo: str) -> Iterator[None]:
    """Turns whatever goes wrong at the hub into one line: ModelFileError when the hub refuses, else DarwinNegError."""
    try:
        with QUIET, TIME_OUTS:
            yield
    except Exception as error:  # the hub's own errors, and those of the HTTP library under it, which changes
        from huggingface_hub.errors import LocalEntryNotFoundError

        if _was_not_asked(error):
            raise DarwinNegError(
                f"{repo}: cannot be downloaded: HF_HUB_OFFLINE is set, and no earlier download of it was found; "
                "unset HF_HUB_OFFLINE to download it"
            ) from None
        if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # it says only that the file is not in the cache either
        text = " ".join(str(error).split()) or type(error).__name__
        text = text.partition(" Please make sure")[0]  # the hub's own advice; ours is shorter
        text = textwrap.shorten(text, 240, placeholder=" …").rstrip(".")
        refusal = _refusal(repo, error)
        if refusal is not None:
            reason, remedy = refusal
            raise ModelFileError(f"{repo}: cannot be downloaded: {reason} ({text}); {remedy}") from None
        raise DarwinNegError(
            f"{repo}: cannot be downloaded: {text}; check the name, the network and your access token"
        ) from None


def is_offline() -> bool:
    """Whether the user has forbidden requests to the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _was_not_asked(error: Exception) -> bool:
    from huggingface_hub import errors

    return isinstance(error, errors.OfflineModeIsEnabled) or (
        is_offline() and isinstance(error, errors.LocalEntryNotFoundError)
    )


def _refusal(repo: str, error: Exception) -> tuple[str, str] | None:
    """(reason, remedy) when the hub has answered that it refuses; None for any other error."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    sign_in = "run `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return "access to it must be granted first", f"ask for it at {constants.ENDPOINT}/{repo}, then {sign_in}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "it has no such revision", "check the branch, tag or commit"
    if isinstance(error, errors.RepositoryNotFoundError) and status == 401:
        return "there is no such repository, or it is private", f"check the name, or {sign_in}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository", "check the name"
    if status in (401, 403):
        return "your access token is not accepted", f"{sign_in} with a token that may read it"
    return None


def _terminal_bar() -> type[Any]:
    """Hugging Face's progress bar, drawn on a terminal only."""
    from huggingface_hub.utils import tqdm

    class TerminalBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = kwargs.get("disable") or None  # None: tqdm looks whether it writes to a terminal
            super().__init__(*args, **kwargs)

    return TerminalBar
