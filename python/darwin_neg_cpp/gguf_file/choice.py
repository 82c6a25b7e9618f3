"""Which GGUF file of a repository is meant: by quantization, by name, or because it is the only model."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from ..errors import ModelFileError
from .parts import SPLIT, is_first, part_names

SIDE_CAR_SUFFIX = ".neg.gguf"

# words that mark another form of the file without them: other quantizers' recipes, an importance matrix, a block for
# multi-token prediction; and files that belong to a model without being one
VARIANTS = frozenset({"ud", "i1", "imat", "imatrix", "mtp", "nomtp", "draft", "lora", "adapter", "vocab"})
_NUMBER = re.compile(r"v?\d+[a-z]?")  # of a version or a size: what has another one is another model
_CUT = re.compile(r"\.gguf\.(part\d+of\d+|part-?[a-z\d]+|split-[a-z]+|\d{3})$", re.IGNORECASE)
_QUANT = re.compile(r"(i?q|tq)\d.*|bf16|f16|f32|fp16|fp32|mxfp4.*|nvfp4.*")


def choose(repo: str, names: Sequence[str], *, quant: str | None, file: str | None) -> str:
    """Picks the model file among a repository's file names; of a split model its first part.

    quant: "Q4_K_M" in either case, or a pattern with * and ?. file: a name, with or without its folder, or a pattern.
    Where several files match, the one without a marker such as `UD-` is taken.
    """
    models = [name for name in sorted(names) if is_model(name)]
    listed = ", ".join(models) or "no GGUF file"
    if file is not None:
        return _named(repo, names, models, file)
    if not models and (cut := sorted(name for name in names if _CUT.search(name))):
        raise ModelFileError(
            f"{repo}: has its GGUF files in pieces ({', '.join(cut)}), which llama.cpp cannot open; download those of "
            "one file and join them in this order, with `cat` or `copy /b`"
        )
    if not models:
        raise ModelFileError(
            f"{repo}: has neither a GGUF file nor a checkpoint; take a GGUF of the backbone "
            "from another repository and join the head to it with `darwin-neg neg attach`"
        )
    if quant is not None:
        matching = [name for name in models if _has_quant(name, quant)]
        if not matching:
            raise ModelFileError(f"{repo}: has no file of quant {quant}; it has {listed}")
        models = matching
    return _only(repo, models, by_quant=quant is not None and not _is_pattern(quant))


def is_model(name: str) -> bool:
    """Whether a file is a model by its name: not a side-car, a projector, an importance matrix, or a later part."""
    name = name.lower()
    if not name.endswith(".gguf") or name.endswith(SIDE_CAR_SUFFIX) or not is_first(name):
        return False
    return "mmproj" not in name and not _is_matrix(name)


def _is_matrix(name: str) -> bool:
    """Whether it is an importance matrix; `m-imatrix-Q4_K_M.gguf` is a model that was made with one."""
    words = _words(name)
    places = [place for place, word in enumerate(words) if word.startswith("imatrix") or word == "imat"]
    if not places:
        return False
    quants = [place for place, word in enumerate(words) if _QUANT.fullmatch(word)]
    if not quants:
        return True
    # `m-Q8_0-imatrix.gguf` was measured on a quantized model; with `imat` at the end it is a quantized model's name
    return places[-1] > quants[-1] and words[places[-1]].startswith("imatrix")


def _named(repo: str, names: Sequence[str], models: Sequence[str], file: str) -> str:
    if file in names:
        return file
    wanted = file.lower()
    ggufs = [name for name in sorted(names) if name.lower().endswith(".gguf") and is_first(name)]
    for candidates in (models, ggufs):
        matching = [name for name in candidates if wanted in (name.lower(), name.lower().rpartition("/")[2])]
        if not matching and _is_pattern(file):
            matching = [name for name in candidates if _matches(name, wanted)]
        if matching:
            return _only(repo, matching, by_quant=False)
    for name in names:
        if not is_first(name) and wanted in (name.lower(), name.lower().rpartition("/")[2]):
            return part_names(name)[0]
    raise ModelFileError(f"{repo}: has no file {file}; it has {', '.join(models) or 'no GGUF file'}")


def _has_quant(name: str, quant: str) -> bool:
    quant = quant.lower().removesuffix(".gguf")
    if _is_pattern(quant):
        return _matches(name, quant) or any(fnmatchcase(word, quant) for word in _words(name, whole=True))
    pattern = re.sub(r"[-_.]+", "[-_.]", re.escape(quant).replace(r"\-", "-").replace(r"\.", "."))
    return re.search(rf"(?<![a-z0-9_]){pattern}(?![a-z0-9_])", name.lower()) is not None


def _is_pattern(text: str) -> bool:
    return any(character in text for character in "*?[")


def _matches(name: str, pattern: str) -> bool:
    name = name.lower()
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)


def _words(name: str, *, whole: bool = False) -> list[str]:
    """The words of a file's name, in lower case; whole: those of its folders too."""
    name = SPLIT.sub("", name.lower()).removesuffix(".gguf")
    return [word for word in re.split(r"[-./ ]+", name if whole else name.rpartition("/")[2]) if word]


def _only(repo: str, models: Sequence[str], *, by_quant: bool) -> str:
    """The one that is meant of several files.

    A file whose words are another's without some of VARIANTS is the plain one. by_quant: with any words less, since
    the type has been said and what is left are other people's additions to the name.
    """
    best: dict[frozenset[str], str] = {}  # the same name whole and in parts, or once more in a folder
    for name in sorted(models, key=lambda name: (SPLIT.search(name) is not None, name.count("/"), name)):
        best.setdefault(frozenset(_words(name, whole=True)), name)

    def is_plainer(words: Collection[str], than: frozenset[str]) -> bool:
        added = than - frozenset(words)
        if not frozenset(words) < than or any(map(_NUMBER.fullmatch, added - VARIANTS)):
            return False
        return by_quant or added <= VARIANTS

    left = [name for words, name in best.items() if not any(is_plainer(other, words) for other in best)]
    if len(left) == 1:
        return left[0]
    shown = ", ".join(sorted(left))
    raise ModelFileError(f"{repo}: has several GGUF files; choose one with quant= or file=: {shown}")
