"""The files that a training writes: all of them, or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OutputError
from ..files.input_file import shown_path
from ..files.output_file import rename_in_errors, replacing
from ..files.safetensors_file import encode_f32
from ..neg import files as neg_files
from ..neg import formats as neg_format
from ..neg.head import NegHead
from . import own_texts, report
from .corpus import SPLITS

STATE = "training.pt"
COMPLETE = "complete.txt"  # exists while the finished files are moved to their places


@dataclass(frozen=True)
class Outputs:
    """Names of everything that is written, after the side-car's. work: a folder that exists only until the end."""

    side_car: Path
    safetensors: Path
    json: Path
    markdown: Path
    figure: Path
    work: Path

    def files(self) -> tuple[Path, ...]:
        """In the order in which they appear. The head comes last: where it is, its report is too."""
        return self.figure, self.json, self.markdown, self.safetensors, self.side_car

    def work_files(self) -> list[str]:
        """Names of all that is written into the work folder."""
        captured = [f"{part}.{end}" for part in SPLITS for end in ("hidden", "entropy", "json")]
        return [*captured, *own_texts.FILES, STATE, COMPLETE, *(path.name for path in self.files())]


def name_outputs(out: Path) -> Outputs:
    """out: the side-car."""
    stem = out.name.removesuffix(".gguf").removesuffix(".neg")
    return Outputs(
        out,
        out.with_name(f"{stem}.neg_modules.safetensors"),
        out.with_name(f"{stem}.report.json"),
        out.with_name(f"{stem}.report.md"),
        out.with_name(f"{stem}.report.svg"),
        out.with_name(f"{stem}.work"),
    )


def write(
    paths: Outputs,
    model: str,
    head: NegHead,
    result: Mapping[str, Any],
    predicted: npt.NDArray[np.float32],
    true: npt.NDArray[np.float32],
) -> None:
    """Writes head and report. predicted, true: entropies of the test data, nats, for the figure.

    All files are made in the work folder first, so that a full disk leaves none of them, and then moved into place.
    """
    made = {path: paths.work / path.name for path in paths.files()}
    try:
        report.write_file(made[paths.figure], report.draw_figure(predicted, true, head.threshold))
        report.write_file(made[paths.json], result)
        report.write_file(made[paths.markdown], report.render_markdown(result, paths.figure.name))
        with replacing(made[paths.safetensors]) as (file, _):
            file.write(encode_f32(released_tensors(head)))
        with rename_in_errors(made[paths.side_car], paths.side_car):
            neg_files.write_side_car(head, model, made[paths.side_car], force=True)
        report.write_file(paths.work / COMPLETE, "The finished files are being moved to their places.\n")
        for path, temporary in made.items():
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"{shown_path(paths.side_car)}: cannot be written ({error.strerror}); free space and run the same command "
            "again"
        ) from error


def released_tensors(head: NegHead) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a neg_modules.safetensors, by name."""
    data = {released: head.tensors()[name] for released, name in neg_format.RELEASED.items()}
    data["head.proj_out.weight"] = data["head.proj_out.weight"].reshape(1, -1)
    data[neg_format.RELEASED_THRESHOLD] = np.array(head.threshold, np.float32)
    data[neg_format.RELEASED_TEMP_SCALE] = np.array(head.temp_scale, np.float32)
    return data
