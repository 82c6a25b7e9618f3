"""Reads and writes a file at given positions, from several threads at once."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import ModelFileError
from .input_file import shown_path

Bytes = npt.NDArray[np.uint8]

if hasattr(os, "preadv") and hasattr(os, "pwrite"):

    def read_at(file: BinaryIO, target: Bytes, offset: int, name: str) -> None:
        done = 0
        while done < target.size:
            got = os.preadv(file.fileno(), [memoryview(target)[done:]], offset + done)  # type: ignore[arg-type]
            if not got:
                raise ModelFileError(f"{shown_path(name)}: became shorter while it was read; try again")
            done += got

    def write_at(file: BinaryIO, data: bytes | Bytes, offset: int) -> None:
        view = memoryview(data)  # type: ignore[arg-type]
        while view:
            done = os.pwrite(file.fileno(), view, offset)
            view, offset = view[done:], offset + done

else:  # Windows has one position per file for all threads
    _one_at_a_time = threading.Lock()

    def read_at(file: BinaryIO, target: Bytes, offset: int, name: str) -> None:
        with _one_at_a_time:
            file.seek(offset)
            done = 0
            while done < target.size:
                got = file.readinto(target[done:])  # type: ignore[attr-defined]
                if not got:
                    raise ModelFileError(f"{shown_path(name)}: became shorter while it was read; try again")
                done += got

    def write_at(file: BinaryIO, data: bytes | Bytes, offset: int) -> None:
        with _one_at_a_time:
            file.seek(offset)
            file.write(data)  # type: ignore[arg-type]
