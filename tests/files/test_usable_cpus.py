"""The CPUs that a process may use: affinity, quotas of control groups in both versions, nested, in containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from darwin_neg_cpp.files.usable_cpus import UsableCpus, usable_cpus

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def system(root: Path, mounts: str, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "quota"),
    [
        ("", "", {}, None),
        (V2.format(top="/"), "0::/\n", {}, None),
        (V2.format(top="/"), "0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
        (V2.format(top="/"), "0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        # a limit further out counts too, and the smallest of them
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 50000\n"}, 1),
        (V2.format(top="/"), "0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 0.5),
        # in a container: its own group is mounted, whatever name it has
        (V2.format(top="/"), "0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        (V2.format(top="/docker/abc"), "0::/docker/abc\n", {"cpu.max": "300000 100000\n"}, 3),
        (V2.format(top="/docker/abc"), "0::/docker/abc/x\n", {"cpu.max": "max\n", "x/cpu.max": "7 2\n"}, 3.5),
        (V2.format(top="/"), "0::/not/visible\n", {"cpu.max": "300000 100000\n"}, 3),
        (V2.format(top="/"), "0::/../other\n", {"cpu.max": "300000 100000\n"}, 3),
        # of another group
        (V2.format(top="/"), "0::/a\n", {"b/cpu.max": "100000 100000\n"}, None),
        (V2.format(top="/"), "0::/a\n", {"a/cpu.max": "nonsense\n"}, None),
        (V2.format(top="/"), "0::/a\n", {"a/cpu.max": "100000 0\n"}, None),
    ],
)
def test_the_quota_of_version_2(
    tmp_path: Path, mounts: str, groups: str, files: dict[str, str], quota: float | None
) -> None:
    root = system(tmp_path, mounts, groups, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert usable_cpus(root).quota == quota


@pytest.mark.parametrize(
    ("top", "group", "files", "quota"),
    [
        ("/", "/", {}, None),
        ("/", "/a/b", {"a/b": "-1", "a": "-1"}, None),
        ("/", "/a/b", {"a/b": "250000"}, 2.5),
        ("/", "/a/b", {"a/b": "-1", "a": "100000"}, 1),
        ("/docker/abc", "/docker/abc", {".": "200000"}, 2),
    ],
)
def test_the_quota_of_version_1(
    tmp_path: Path, top: str, group: str, files: dict[str, str], quota: float | None
) -> None:
    groups = f"9:memory:/a/b\n4:cpu,cpuacct:{group}\n1:name=systemd:/x\n0::/\n"
    folder = "sys/fs/cgroup/cpu,cpuacct"
    made = {f"{folder}/{name}/cpu.cfs_quota_us": text for name, text in files.items()}
    made |= {f"{folder}/{name}/cpu.cfs_period_us": "100000" for name in files}
    root = system(tmp_path, V1.format(top=top), groups, made)
    assert usable_cpus(root).quota == quota


def test_both_versions_at_once_and_a_mount_with_a_space(tmp_path: Path) -> None:
    mounts = V1.format(top="/") + "33 23 0:29 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n"
    files = {"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "sys/fs/my groups/b/cpu.max": "200000 100000"}
    files["sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us"] = "100000"
    assert usable_cpus(system(tmp_path, mounts, "4:cpu,cpuacct:/a\n0::/b\n", files)).quota == 2


@pytest.mark.parametrize(
    ("total", "affinity", "quota", "cores", "count", "threads"),
    [
        (16, 16, None, 8, 16, 0),  # nothing restricts it: llama.cpp chooses
        (16, 4, None, 4, 4, 4),
        (16, 4, None, 2, 4, 2),  # two hardware threads of each core
        (16, 16, 4.0, 8, 4, 4),
        (16, 16, 12.0, 8, 12, 8),
        (16, 4, 2.5, 4, 2, 2),
        (16, 2, 8.0, 2, 2, 2),
        (16, 16, 0.5, 8, 1, 1),
        (16, 16, 1.9, 8, 1, 1),
        (2, 2, 2.0, 2, 2, 0),
        (16, 3, None, None, 3, 3),
    ],
)
def test_as_many_threads_as_may_run_at_once(
    total: int, affinity: int, quota: float | None, cores: int | None, count: int, threads: int
) -> None:
    cpus = UsableCpus(total, affinity, quota, cores)
    assert (cpus.count, cpus.default_threads) == (count, threads)


def test_the_affinity_mask_and_its_cores_are_those_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}
    files = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": text for n, text in siblings.items()}
    root = system(tmp_path, "", "", files)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 1}, raising=False)
    assert usable_cpus(root) == UsableCpus(8, 3, None, 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 7}, raising=False)  # 7 says nothing of itself
    assert usable_cpus(root) == UsableCpus(8, 2, None, None)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has affinity masks that Python can set")
def test_this_machine_agrees_with_the_system() -> None:
    assert usable_cpus().affinity == len(os.sched_getaffinity(0))
