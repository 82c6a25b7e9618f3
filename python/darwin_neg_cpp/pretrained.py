"""A model of a Hugging Face repository as a GGUF file on this machine, converted when it is a checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from . import hub
from .convert import convert, source
from .errors import ModelFileError
from .files.cache_folder import cache_root
from .files.progress import ProgressBar
from .gguf_file.header import read_header
from .gguf_file.parts import is_first, part_names, whole_name
from .hub import Repository
from .neg.formats import has_neg

logger = logging.getLogger(__name__)

SIDE_CAR_SUFFIX = ".neg.gguf"


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

    A repository of safetensors is downloaded and converted, its NEG head included, to the type `quant` (by default
    the stored one); the result is kept in this package's cache. quant, file: which GGUF file of the repository, when
    it holds several. token: by default the one that `hf auth login` stored. side_car: False leaves out the head.
    Downloads are kept in Hugging Face's own cache.
    """
    repository = hub.look_up(repo, revision=revision, token=token)
    for note in repository.notes:
        logger.warning("%s", note)
    names = repository.names
    if file is None and "config.json" in names and not any(_is_model(name) for name in names):
        return str(_converted(repository, (quant or "auto").lower(), with_head=side_car)), None
    model = choose(repo, names, quant=quant, file=file)
    first, *_ = [hub.download(repository, part) for part in part_names(model)]
    beside = whole_name(model).removesuffix(".gguf") + SIDE_CAR_SUFFIX
    return str(first), str(hub.download(repository, beside)) if side_car and beside in names else None


def choose(repo: str, names: Sequence[str], *, quant: str | None, file: str | None) -> str:
    """Picks the model file among a repository's file names; of a split model its first part."""
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
        matching = [name for name in models if pattern.search(name)]
        if not matching:
            raise ModelFileError(f"{repo}: has no file of quant {quant}; it has {', '.join(models)}")
        models = matching
    if len(models) > 1:
        raise ModelFileError(f"{repo}: has several GGUF files; choose one with quant= or file=: {', '.join(models)}")
    return models[0]


def _converted(repository: Repository, kind: str, *, with_head: bool) -> Path:
    """Returns a checkpoint's GGUF file in the cache, and makes it when it is not there.

    Its name holds commit, type, and whether the head was asked for: all that is known before the weights are
    downloaded.
    """
    convert.check_type(kind)
    folder = cache_root() / "converted" / repository.id.replace("/", "--")
    name = f"{repository.commit[:12]}-{kind}"
    with_any_head, plain = folder / f"{name}.gguf", folder / f"{name}-plain.gguf"
    if not with_head and not plain.exists() and with_any_head.exists() and not has_neg(read_header(with_any_head)):
        return with_any_head  # the checkpoint has no head
    out = with_any_head if with_head else plain
    if out.exists():
        return out
    checkpoint = source.fetch(repository)
    plan = convert.plan(checkpoint, outtype=kind, without_neg=not (with_head and source.has_head(checkpoint)))
    folder.mkdir(parents=True, exist_ok=True)
    with ProgressBar("converting") as progress:
        convert.write_any(plan, out, kind, force=True, progress=progress)
    return out


def _is_model(name: str) -> bool:
    if not name.endswith(".gguf") or name.endswith(SIDE_CAR_SUFFIX) or "mmproj" in name:
        return False
    return is_first(name)
