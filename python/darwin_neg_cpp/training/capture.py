"""Hidden states and true entropies of a corpus, on disk, so that an interrupted run resumes where it stopped."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from ..engine.scoring import group_texts
from ..errors import OutputError, RequestError
from ..files.input_file import shown_path
from ..files.output_file import remedy, replacing
from ..files.progress import Progress

if TYPE_CHECKING:
    from ..engine.session import Session

F32 = npt.NDArray[np.float32]
# hidden states and entropies of consecutive tokens; None from a model that gives none
Rows = Sequence[tuple[F32 | None, F32 | None]]


@dataclass(frozen=True)
class Captured:
    """hidden: float32 [positions, n_embd], mapped from disk. entropy: nats, float32 [positions]. starts: of the
    sequences, int64.

    The last position of each sequence is in it too: a model predicts the token after the text.
    """

    hidden: F32
    entropy: F32
    starts: npt.NDArray[np.int64]

    def previous_entropy(self, fallback: float) -> F32:
        """The true entropy one position earlier; `fallback` at the start of a sequence."""
        out = np.concatenate([[np.float32(fallback)], self.entropy[:-1]]).astype(np.float32)
        out[self.starts] = fallback
        return out


class Scorer(Protocol):
    """Where else texts run through the model than in this process: a cluster.capture.ClusterScorer."""

    def score(self, groups: Sequence[Sequence[Sequence[int]]]) -> Generator[tuple[int, Rows], None, None]:
        """(number of the group, rows of its texts) of each group as it ends. Closing the generator ends the rest."""
        ...


@dataclass(frozen=True)
class _Group:
    """Texts that run beside each other. begin, tokens: its place among all tokens."""

    texts: Sequence[Sequence[int]]
    begin: int
    tokens: int


def capture(
    session: Session,
    sequences: Sequence[Sequence[int]],
    folder: Path,
    name: str,
    progress: Progress,
    *,
    model: str,
    scorer: Scorer | None = None,
) -> Captured:
    """Runs the sequences through the model and keeps the results under `folder`/`name`.*; sequences whose results are
    kept already are not run again.

    model: SHA-256 of the model's file. progress: called with tokens done and in total. scorer: runs the sequences
    instead of the session. Errors: OutputError on a full disk, RequestError when the model gives no finite numbers.
    """
    n_embd = int(session.info["n_embd"])
    total = sum(map(len, sequences))
    hidden_path, entropy_path, index_path = (folder / f"{name}.{end}" for end in ("hidden", "entropy", "json"))
    free = shutil.disk_usage(folder).free
    if free < (need := total * (n_embd + 1) * 4 - _used(hidden_path)):
        raise OutputError(
            f"{shown_path(folder)}: needs {need >> 20} MiB for hidden states, the disk has {free >> 20} MiB free; free "
            "some, or lower max_tokens"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # texts and model: with others, the results would be different
    key = hashlib.sha256(json.dumps([model, list(map(list, sequences))]).encode()).hexdigest()
    # Whole groups only: a text that runs beside other texts comes out a rounding error different.
    groups = _place(sequences)
    noted = _read_done(index_path, key)
    # the data may be shorter than the index says, after a power cut or by somebody's hand
    held = min(_size(hidden_path) // (n_embd * 4), _size(entropy_path) // 4)
    done = {
        number for number in noted if 0 <= number < len(groups) and groups[number].begin + groups[number].tokens <= held
    }
    left = [number for number in range(len(groups)) if number not in done]
    position = sum(groups[number].tokens for number in done)
    score = _SessionScorer(session) if scorer is None else scorer
    try:
        if done != noted:  # before the files are longer again, with nothing in the gap
            _write_done(index_path, key, done)
        with (
            _open(hidden_path, total * n_embd * 4) as hidden,
            _open(entropy_path, total * 4) as entropy,
            contextlib.closing(score.score([groups[number].texts for number in left])) as scored,
        ):
            for i, rows in scored:
                group = groups[left[i]]
                hidden.seek(group.begin * n_embd * 4)
                entropy.seek(group.begin * 4)
                for states, entropies in rows:
                    if states is None or entropies is None or not _are_finite(states, entropies):
                        raise RequestError(
                            f"{shown_path(session.path)}: gives no finite numbers for these texts; it cannot be used"
                        )
                    hidden.write(states.astype("<f4", copy=False).tobytes())
                    entropy.write(entropies.astype("<f4", copy=False).tobytes())
                for file in (hidden, entropy):  # on disk before the index says that they are
                    file.flush()
                    os.fsync(file.fileno())
                done.add(left[i])
                _write_done(index_path, key, done)
                position += group.tokens
                progress(position, total)
    except OSError as error:
        raise OutputError(f"{shown_path(folder)}: cannot be written ({error.strerror}); {remedy(error)}") from error
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return Captured(
        hidden=np.memmap(hidden_path, "<f4", "r", shape=(total, n_embd)),
        entropy=np.fromfile(entropy_path, "<f4"),
        starts=np.cumsum(lengths) - lengths,
    )


class _SessionScorer:
    def __init__(self, session: Session) -> None:
        self._session = session

    def score(self, groups: Sequence[Sequence[Sequence[int]]]) -> Generator[tuple[int, Rows], None, None]:
        for number, group in enumerate(groups):
            yield number, [(one.hidden, one.entropy) for one in self._session.score(group, hidden=True, top=0)]


def _place(sequences: Sequence[Sequence[int]]) -> list[_Group]:
    groups: list[_Group] = []
    begin = 0
    for texts in group_texts(sequences):
        groups.append(_Group(texts, begin, sum(map(len, texts))))
        begin += groups[-1].tokens
    return groups


def _are_finite(hidden: F32, entropy: F32) -> bool:
    return bool(np.isfinite(hidden).all() and np.isfinite(entropy).all())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _used(path: Path) -> int:
    """Bytes on the disk: groups that ended before earlier ones leave gaps in a file."""
    return min(_size(path), getattr(path.stat(), "st_blocks", 1 << 62) * 512) if path.exists() else 0


@contextlib.contextmanager
def _open(path: Path, size: int) -> Iterator[BinaryIO]:
    """Opens a file to write into its middle, made if there is none. size: bytes that it has in the end."""
    path.touch()
    with path.open("r+b") as file:
        if _size(path) > size:
            file.truncate(size)
        yield file


def _read_done(index_path: Path, key: str) -> set[int]:
    """The groups that are in the files."""
    try:
        index = json.loads(index_path.read_text("utf-8"))
        return {int(number) for number in index["done"]} if index["key"] == key else set()
    except (OSError, ValueError, KeyError, TypeError):  # damaged: it only saves time
        return set()


def _write_done(index_path: Path, key: str, done: Collection[int]) -> None:
    with replacing(index_path) as (index, _):
        index.write(json.dumps({"key": key, "done": sorted(done)}).encode())
