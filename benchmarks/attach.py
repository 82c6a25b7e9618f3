"""`neg attach` against `cp` of the same file: python benchmarks/attach.py [--model FILE] [--gigabytes 2] [--rounds 5]

Three ways, interleaved, medians: `cp` (which returns while the kernel still holds the bytes), `cp` and then fsync of
the copy (what attach does, so that a power failure cannot leave a damaged file), and attach. The disk is idle before
each measurement (`sync`), the source is in the page cache. attach is timed inside a running process: starting Python
takes another 0.3 s.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from darwin_neg_cpp.gguf_file.header import read_header
from darwin_neg_cpp.neg import files as neg_files
from darwin_neg_cpp.neg.head import random_head

HIDDEN, REDUCED = 4096, 1024  # the released head's


def write_model(path: Path, gigabytes: float) -> Path:
    """A GGUF of random bytes with the vocabulary of the 9B model: as many texts in the header, as many tensors."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "qwen35", use_temp_file=True)
    writer.add_embedding_length(HIDDEN)
    writer.add_token_list([f"token{i}" for i in range(248_320)])
    writer.add_token_merges([f"t {i}" for i in range(248_044)])
    n = 400
    block = rng.integers(0, 255, int(gigabytes * 1e9) // n // 144 * 144, np.uint8)
    for i in range(n):
        writer.add_tensor(f"blk.{i}.ffn_up.weight", block.reshape(-1, 144), raw_dtype=gguf.GGMLQuantizationType.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def seconds(work: Callable[[], object]) -> float:
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def copy(source: Path, out: Path, *, sync: bool) -> None:
    subprocess.run(["cp", source, out], check=True)
    if sync:
        with out.open("rb") as file:
            os.fsync(file.fileno())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file (default: one of random bytes)")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the random file (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work: the disk to measure (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        model = args.model or write_model(Path(folder) / "model.gguf", args.gigabytes)
        header = read_header(model)
        hidden = neg_files.hidden_size(header)
        head = random_head(hidden, 0, n_reduced=REDUCED if hidden == HIDDEN else None)
        model.read_bytes() if model.stat().st_size < 8e9 else None  # into the page cache
        ways: dict[str, Callable[[Path], object]] = {
            "cp": lambda out: copy(model, out, sync=False),
            "cp + fsync": lambda out: copy(model, out, sync=True),
            "neg attach": lambda out: neg_files.attach(model, head, out),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                out = Path(folder) / "out.gguf"
                times[name].append(seconds(lambda way=way, out=out: way(out)))  # type: ignore[misc]
                out.unlink()
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"{platform.system()} {platform.release()}"
    )
    print(f"{header.file_size / 1e9:.3f} GB, {len(header.tensors)} tensors, median of {args.rounds} interleaved rounds")
    for name, median in medians.items():
        spread = f"{min(times[name]):.3f} to {max(times[name]):.3f}"
        print(f"{name:<11} {median:7.3f} s  ({spread})")
    for against in ("cp", "cp + fsync"):
        print(f"neg attach / {against}: {medians['neg attach'] / medians[against]:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
