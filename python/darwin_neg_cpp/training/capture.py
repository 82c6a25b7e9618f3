"""Hidden states and true entropies of a corpus, on disk, so that an interrupted run resumes where it stopped."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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


def capture(
    session: Session, sequences: Sequence[Sequence[int]], folder: Path, name: str, progress: Progress, *, model: str
) -> Captured:
    """Runs the sequences through the model and keeps the results under `folder`/`name`.*; sequences whose results are
    kept already are not run again.

    model: SHA-256 of the model's file. progress: called with tokens done and in total. Errors: OutputError on a full
    disk, RequestError when the model gives no finite numbers.
    """
    n_embd = int(session.info["n_embd"])
    total = sum(map(len, sequences))
    hidden_path, entropy_path, index_path = (folder / f"{name}.{end}" for end in ("hidden", "entropy", "json"))
    free = shutil.disk_usage(folder).free
    if free < (need := total * (n_embd + 1) * 4 - _size(hidden_path)):
        raise OutputError(
            f"{shown_path(folder)}: needs {need >> 20} MiB for hidden states, the disk has {free >> 20} MiB free; free "
            "some, or lower max_tokens"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # texts and model: with others, the results would be different
    key = hashlib.sha256(json.dumps([model, list(map(list, sequences))]).encode()).hexdigest()
    # The data may be shorter than the index says, after a power cut or by somebody's hand. Whole groups only: a text
    # that runs beside other texts comes out a rounding error different.
    held = min(_size(hidden_path) // (n_embd * 4), _size(entropy_path) // 4)
    noted, done, position = _done(index_path, key), 0, 0
    for group in group_texts(sequences):
        if done + len(group) > noted or position + sum(map(len, group)) > held:
            break
        done += len(group)
        position += sum(map(len, group))
    try:
        with hidden_path.open("ab") as hidden, entropy_path.open("ab") as entropy:
            # a run that was killed may have written more than it noted
            hidden.truncate(position * n_embd * 4)
            entropy.truncate(position * 4)
            for group in group_texts(sequences[done:]):
                for scores in session.score(group, hidden=True, top=0):
                    if scores.hidden is None or not (
                        np.isfinite(scores.hidden).all() and np.isfinite(scores.entropy).all()
                    ):
                        raise RequestError(
                            f"{shown_path(session.path)}: gives no finite numbers for these texts; it cannot be used"
                        )
                    hidden.write(scores.hidden.astype("<f4", copy=False).tobytes())
                    entropy.write(scores.entropy.astype("<f4", copy=False).tobytes())
                    position += len(scores.token_ids)
                for file in (hidden, entropy):  # on disk before the index says that they are
                    file.flush()
                    os.fsync(file.fileno())
                done += len(group)
                with replacing(index_path) as (index, _):
                    index.write(json.dumps({"key": key, "done": done}).encode())
                progress(position, total)
    except OSError as error:
        raise OutputError(f"{shown_path(folder)}: cannot be written ({error.strerror}); {remedy(error)}") from error
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    return Captured(
        hidden=np.memmap(hidden_path, "<f4", "r", shape=(total, n_embd)),
        entropy=np.fromfile(entropy_path, "<f4"),
        starts=np.cumsum(lengths) - lengths,
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _done(index_path: Path, key: str) -> int:
    try:
        index = json.loads(index_path.read_text("utf-8"))
        return max(0, int(index["done"])) if index["key"] == key else 0
    except (OSError, ValueError, KeyError, TypeError):  # damaged: it only saves time
        return 0
