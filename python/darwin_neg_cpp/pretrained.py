"""Models from a Hugging Face repository."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from .errors import DarwinNegError, ModelFileError
from .files.cache_folder import cache_root

logger = logging.getLogger(__name__)

SIDE_CAR_SUFFIX = ".neg.gguf"
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")

T = TypeVar("T")


def fetch(
    repo: str,
    *,
    quant: str | None = None,
    file: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    side_car: bool = True,
) -> tuple[str, str | None]:
    """Downloads a GGUF model, and the NEG side-car `<model>.neg.gguf` beside it if there is one; returns their paths.

    A repository of safetensors is downloaded and converted, its NEG head included, to the type `quant` (the stored one when not given);
    the result is kept in this package's cache. quant, file: which GGUF of the repository, when it holds several. token: defaults to the one that `hf auth login`
    stored. side_car: False leaves it out. Files lie in Hugging Face's own cache.
    """
    from huggingface_hub import hf_hub_download

    names, local, notes = _names(repo, revision, token)
    for note in notes:
        logger.warning("%s", note)
    if file is None and "config.json" in names and not any(_is_model(one) for one in names):
        return _converted(repo, quant or "auto", revision, token, with_head=side_car), None
    name = choose(repo, names, quant=quant, file=file)

    def download(one: str) -> str:
        return asking(
            repo, lambda: str(hf_hub_download(repo, one, token=token, revision=revision, local_files_only=local))
        )

    paths = [download(part) for part in _parts(name)]
    beside = SPLIT.sub(".gguf", name).removesuffix(".gguf") + SIDE_CAR_SUFFIX
    return paths[0], download(beside) if side_car and beside in names else None


def choose(repo: str, names: list[str], *, quant: str | None, file: str | None) -> str:
    """The model file among a repository's file names; of a split model its first part."""
    models = [name for name in sorted(names) if _is_model(name)]
    if file is not None:
        if file not in names:
            raise ModelFileError(f"{repo}: has no file {file}; it has {', '.join(models) or 'no GGUF file'}")
        return file
    if not models:
        raise ModelFileError(
            f"{repo}: has neither a GGUF file nor a checkpoint; take a GGUF of the backbone "
            "from another repository and join the head to it with `darwin-neg neg attach`"
        )
    if quant is not None:
        pattern = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        fitting = [name for name in models if pattern.search(name)]
        if not fitting:
            raise ModelFileError(f"{repo}: has no file of quant {quant}; it has {', '.join(models)}")
        models = fitting
    if len(models) > 1:
        raise ModelFileError(f"{repo}: has several GGUF files; choose one with quant= or file=: {', '.join(models)}")
    return models[0]


def _converted(repo: str, kind: str, revision: str | None, token: str | None, *, with_head: bool) -> str:
    """A checkpoint's GGUF in the cache, by repository, commit and type; made when it is not there."""
    from .convert import convert
    from .files.progress import ProgressBar

    kind = kind.lower()
    convert.check_type(kind)
    source = convert.find(repo, revision=revision, token=token)
    for note in source.notes:
        logger.warning("%s", note)
    # the folder of a download is named after its commit
    with_head = with_head and convert.has_head(source)
    name = f"{source.folder.name[:12]}-{kind}{'' if with_head else '-plain'}.gguf"
    out = cache_root() / "converted" / repo.replace("/", "--") / name
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        plan = convert.plan(source, outtype=kind, without_neg=not with_head)
        with ProgressBar("converting") as progress:
            convert.write_any(plan, out, kind, force=True, progress=progress)
    return str(out)


def _is_model(name: str) -> bool:
    if not name.endswith(".gguf") or name.endswith(SIDE_CAR_SUFFIX) or "mmproj" in name:
        return False
    split = SPLIT.search(name)
    return split is None or split[1] == "00001"


def _parts(name: str) -> list[str]:
    split = SPLIT.search(name)
    if split is None:
        return [name]
    return [SPLIT.sub(f"-{part:05d}-of-{split[2]}.gguf", name) for part in range(1, int(split[2]) + 1)]


def snapshot(
    repo: str, patterns: list[str], *, revision: str | None, token: str | None, whole: bool = True
) -> tuple[Path, tuple[str, ...]]:
    """Downloads the files of a repository that match `patterns`, resuming an earlier download; returns their folder, and notes.

    Without network it is what an earlier download left, if that came to its end. whole: the patterns are all that will ever be
    wanted of the repository, so that this download may be such an end.
    """
    import huggingface_hub

    def get() -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, token=token, allow_patterns=patterns, local_files_only=local
            )
        )

    _, local, notes = _names(repo, revision, token)
    folder = asking(repo, get)
    # huggingface_hub before 2.0 takes what is there for the whole
    finished = cache_root() / "hub" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    if not local and whole:
        with contextlib.suppress(OSError):  # only a later run without network misses it
            finished.parent.mkdir(parents=True, exist_ok=True)
            finished.touch()
    elif local and int(huggingface_hub.__version__.partition(".")[0]) < 2 and not finished.exists():
        raise DarwinNegError(
            f"{repo}: cannot be reached, and its earlier download may not be whole; connect once, or give the folder {folder} if it is"
        )
    return folder, notes


def fetch_range(repo: str, file: str, begin: int, end: int, *, revision: str, token: str | None) -> tuple[bytes, int]:
    """Bytes `begin` to `end` (or to the file's end) of a file of a repository, and the size of the whole file."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    def get() -> tuple[bytes, int]:
        headers = {**build_hf_headers(token=token), "Range": f"bytes={begin}-{end - 1}"}
        response = get_session().get(hf_hub_url(repo, file, revision=revision), headers=headers)
        hf_raise_for_status(response)
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if part is None or int(part[1]) != begin:
            raise ConnectionError(f"asked for a part of {file}, the server sent something else")
        return bytes(response.content), int(part[2])

    return asking(repo, get)


def _names(repo: str, revision: str | None, token: str | None) -> tuple[list[str], bool, tuple[str, ...]]:
    """The names of a repository's files, whether they are only those in Hugging Face's cache, and why, if nobody asked for that."""
    from huggingface_hub import HfApi, constants

    try:
        return asking(repo, lambda: HfApi(token=token).list_repo_files(repo, revision=revision)), False, ()
    except DarwinNegError as error:
        # no network is no reason to refuse what has been downloaded before
        if (folder := _cached(repo, revision)) is None:
            raise
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return names, True, () if constants.HF_HUB_OFFLINE else (f"{error}; an earlier download of it is used",)


def _cached(repo: str, revision: str | None) -> Path | None:
    """The folder of a repository in Hugging Face's cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    with contextlib.suppress(CacheNotFound):
        for entry in scan_cache_dir().repos:
            for one in entry.revisions if entry.repo_id == repo and entry.repo_type == "model" else ():
                if revision == one.commit_hash or (revision or "main") in one.refs:
                    return Path(one.snapshot_path)
    return None


def asking(repo: str, ask: Callable[[], T]) -> T:
    """Runs a call to the hub; whatever goes wrong there becomes one line: ModelFileError when the hub refuses, else DarwinNegError."""
    try:
        with _quietly():
            return ask()
    except Exception as error:  # the hub's own errors, and those of the HTTP library under it, which changes
        said = " ".join(str(error).split()) or type(error).__name__
        said = textwrap.shorten(said, 240, placeholder=" …").rstrip(".")
        if (refused := _refusal(repo, error)) is not None:
            reason, remedy = refused
            raise ModelFileError(f"{repo}: cannot be downloaded: {reason} ({said}); {remedy}") from None
        raise DarwinNegError(
            f"{repo}: cannot be downloaded: {said}; check the name, the network and your access token"
        ) from None


def _refusal(repo: str, error: Exception) -> tuple[str, str] | None:
    """(reason, remedy) where the hub has answered, and said no."""
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


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without huggingface_hub's warnings of every attempt it repeats, unless its own variable asks for them."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    if "HF_HUB_VERBOSITY" not in os.environ:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
