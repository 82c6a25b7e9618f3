"""How many CPUs this process may use: its affinity mask, and the quota of the control groups that it is in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class UsableCpus:
    """total: CPUs of the machine. affinity: those this process may run on. quota: CPUs' worth of time, None without."""

    total: int
    affinity: int
    quota: float | None
    cores: int | None  # cores that the affinity mask has at least one hardware thread of; None: unknown

    @property
    def count(self) -> int:
        """Threads that can run at the same time; with a quota of 1.5, one: a second would be stopped half the time."""
        return self.affinity if self.quota is None else max(1, min(self.affinity, int(self.quota)))

    @property
    def default_threads(self) -> int:
        """Threads to compute with. 0: nothing is restricted, and llama.cpp, which knows more of CPUs, chooses."""
        if self.count >= self.total:
            return 0
        return self.count if self.cores is None else max(1, min(self.count, self.cores))


def usable_cpus(root: Path = Path("/")) -> UsableCpus:
    """Asks the system; root: where /proc and /sys are looked for."""
    total = os.cpu_count() or 1
    try:
        mask = os.sched_getaffinity(0)
    except (AttributeError, OSError):  # not on this system
        return UsableCpus(total, total, _quota(root), None)
    return UsableCpus(max(total, len(mask)), len(mask), _quota(root), _cores(root, mask))


def _cores(root: Path, mask: set[int]) -> int | None:
    siblings = set()
    for cpu in mask:
        text = _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        if not text:
            return None
        siblings.add(text)
    return len(siblings)


def _quota(root: Path) -> float | None:
    """The smallest quota of a control group of this process and of those around it, in versions 1 and 2."""
    limits = [limit for folder, version in _groups(root) if (limit := _limit(folder, version)) is not None]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that this process is in, outwards from its own, each with its version."""
    mounts = {version: (top, folder) for version, top, folder in _mounts(root)}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        version = 2 if (number, controllers) == ("0", "") else 1 if "cpu" in controllers.split(",") else 0
        if version not in mounts:
            continue
        top, mounted = mounts[version]
        # inside a container, what is mounted may be the container's own group, and the name be seen from outside
        path = PurePosixPath(name)
        inside = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath(name.lstrip("/"))
        folder = root / mounted.lstrip("/")
        yield folder, version
        for part in inside.parts:
            folder = folder / part
            if part == ".." or not folder.is_dir():
                break
            yield folder, version


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """(version, the group that is mounted, where) of each mounted hierarchy that can limit CPU time."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        top, mounted = (_unescaped(field) for field in fields[3:5])
        if kind[0] == "cgroup2":
            yield 2, top, mounted
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield 1, top, mounted


def _unescaped(field: str) -> str:
    """Spaces and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _limit(folder: Path, version: int) -> float | None:
    if version == 2:
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    else:
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    try:
        limit = int(quota) / int(period or 100_000)
    except (ValueError, ZeroDivisionError):  # "max", or nothing there
        return None
    return limit if limit > 0 else None  # version 1 writes -1 for none


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
