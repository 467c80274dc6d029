import math
import os
from pathlib import Path

import pytest

from base import cpus
from base.cpus import available_cpus, cgroup_quota, cpu_fields, cpu_flags


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("proc", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/\n", {}, math.inf),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, 3),
        # Inside a container /proc shows the host's path, and only the root is mounted.
        ("0::/docker/123\n", {"cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/a\n2:memory:/b\n",
            {
                "cpu,cpuacct/a/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/a/cpu.cfs_period_us": "50000",
            },
            5,
        ),
        (
            "3:cpuacct,cpu:/docker/1\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        (
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ("0::/\n", {"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_quota(tmp_path: Path, proc: str, files: dict[str, str], quota: float) -> None:
    root = make(tmp_path / "cgroup", files)
    (tmp_path / "proc").write_text(proc)
    assert cgroup_quota(tmp_path / "proc", root) == quota


def test_no_cgroups(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
@pytest.mark.parametrize(
    ("mask", "quota", "cpus_expected"),
    [({0, 1, 2, 3}, math.inf, 4), ({0, 1, 2, 3}, 1.5, 2), ({5}, 8.0, 1), ({0, 1}, 0.1, 1)],
)
def test_the_smaller_of_mask_and_quota_counts(
    monkeypatch: pytest.MonkeyPatch, mask: set[int], quota: float, cpus_expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    monkeypatch.setattr(cpus, "cgroup_quota", lambda: quota)
    assert available_cpus() == cpus_expected


def test_this_machine() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_only_the_first_cpu_is_described(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: One: a CPU\nflags\t\t: fpu avx2\n\nmodel name\t: Two\n")
    assert cpu_fields(file) == {"model name": "One: a CPU", "flags": "fpu avx2"}
    assert cpu_flags(file) == {"fpu", "avx2"}
    assert cpu_fields(tmp_path / "absent") == {}


def test_a_system_without_cpuinfo_has_no_flags(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "none") == set()


def test_arm_calls_its_flags_features(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures\t: fp asimd bf16\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fp", "asimd", "bf16"}
