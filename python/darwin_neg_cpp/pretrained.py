"""A model of a Hugging Face repository as a GGUF file on this machine, converted when it is a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from urllib.parse import quote as as_file_name

from . import hub
from .convert import convert, source
from .errors import DarwinNegError
from .files.cache_folder import cache_root
from .files.output_file import replacing
from .files.progress import ProgressBar
from .gguf_file.choice import SIDE_CAR_SUFFIX, choose, is_model
from .gguf_file.header import read_header
from .gguf_file.parts import part_names, whole_name
from .hub import Repository
from .neg.formats import has_neg

logger = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(
    repo: str,
    *,
    quant: str | None = None,
    file: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    side_car: bool = True,
) -> tuple[str, str | None]:
    """Downloads a GGUF model and the NEG side-car `<model>.neg.gguf` beside it, if there is one; returns their paths.

    A repository of safetensors is downloaded and converted, its NEG head included, to the type `quant` (by default
    the stored one); the result is kept in this package's cache, where it is looked for first. repo: OWNER/NAME, also
    with the quantization as OWNER/NAME:Q4_K_M, or the address of its page or of one of its files. quant, file: which
    GGUF file of the repository, when it holds several. token: by default the one that `hf auth login` stored.
    side_car: False leaves out the head. Downloads are kept in Hugging Face's own cache.
    """
    address = hub.read_address(repo, quant=quant, file=file, revision=revision)
    hub.check_name(address, repo)
    repo, quant, file, revision = address.repo, address.quant, address.file, address.revision
    kind = (quant or "auto").lower()
    earlier = None if file is not None else _earlier(repo, revision, kind, with_head=side_car)
    if earlier is not None and revision is not None and _COMMIT.fullmatch(revision):
        return str(earlier), None  # a commit does not change: the hub has nothing to add
    try:
        repository = hub.look_up(repo, revision=revision, token=token)
    except DarwinNegError as error:
        if earlier is None:
            raise
        if not hub.is_offline():
            logger.warning("%s; the file that was converted earlier is used", error)
        return str(earlier), None
    for note in repository.notes:
        logger.warning("%s", note)
    if earlier is not None and repository.folder is not None:
        return str(earlier), None
    names = repository.names
    if file is None and "config.json" in names and not any(is_model(name) for name in names):
        return str(_converted(repository, kind, with_head=side_car)), None
    where = repo if repository.folder is None else f"{repo} (an earlier download of it; the hub was not asked)"
    model = choose(where, names, quant=quant, file=file)
    first, *_ = [hub.download(repository, part) for part in part_names(model)]
    beside = whole_name(model).removesuffix(".gguf") + SIDE_CAR_SUFFIX
    return str(first), str(hub.download(repository, beside)) if side_car and beside in names else None


def _earlier(repo: str, revision: str | None, kind: str, *, with_head: bool) -> Path | None:
    """What was converted of the commit that a revision had when the hub was last asked; None without it."""
    if revision is not None and _COMMIT.fullmatch(revision):
        return _find(repo, revision, kind, with_head=with_head)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        commit = _record(repo, revision).read_text("ascii").strip()
        if _COMMIT.fullmatch(commit):
            return _find(repo, commit, kind, with_head=with_head)
    return None


def _find(repo: str, commit: str, kind: str, *, with_head: bool) -> Path | None:
    """The converted file of a commit, if it is in the cache."""
    if not kind.isidentifier():
        return None  # a pattern, or anything else that is not a type
    out, other = _path(repo, commit, kind, with_head=with_head), _path(repo, commit, kind, with_head=True)
    if out.exists():
        return out
    if not with_head and other.exists() and not has_neg(read_header(other)):
        return other  # the checkpoint has no head
    return None


def _path(repo: str, commit: str, kind: str, *, with_head: bool) -> Path:
    """Its name holds commit, type, and whether the head was asked for: all that is known before the weights are."""
    return _folder(repo) / f"{commit[:12]}-{kind}{'' if with_head else '-plain'}.gguf"


def _folder(repo: str) -> Path:
    return cache_root() / "converted" / repo.replace("/", "--")


def _record(repo: str, revision: str | None) -> Path:
    """The file that holds the commit of a branch or tag, for the time when the hub cannot be asked."""
    return _folder(repo) / "refs" / as_file_name(revision or "main", safe="")


def _converted(repository: Repository, kind: str, *, with_head: bool) -> Path:
    """Returns a checkpoint's GGUF file in the cache, and makes it when it is not there."""
    convert.check_type(kind)
    out = _find(repository.id, repository.commit, kind, with_head=with_head)
    if out is None:
        checkpoint = source.fetch(repository)
        plan = convert.plan(checkpoint, outtype=kind, without_neg=not (with_head and source.has_head(checkpoint)))
        out = _path(repository.id, repository.commit, kind, with_head=with_head)
        out.parent.mkdir(parents=True, exist_ok=True)
        with ProgressBar("converting") as progress:
            convert.write_any(plan, out, kind, force=True, progress=progress)
    if repository.folder is None:
        record = _record(repository.id, repository.revision)
        with contextlib.suppress(OSError):  # only a later run without network misses it
            record.parent.mkdir(exist_ok=True)
            with replacing(record) as (file, _):
                file.write(repository.commit.encode())
    return out
