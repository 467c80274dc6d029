"""How many CPUs this process may really use."""

import math
import os
from collections.abc import Callable
from pathlib import Path

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Return the number of CPUs in the affinity mask, lowered to the cgroup's quota; at least 1.

    A container with `--cpus 1.5` on a 64-core machine gets 2: `os.cpu_count()` says 64.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(affinity, cgroup_quota())))


def cgroup_quota(proc_cgroup: Path = PROC_CGROUP, root: Path = CGROUP_ROOT) -> float:
    """Return the CPU quota of this process's cgroup in CPUs (cgroup v1 or v2), or infinity.

    The limit may sit on any ancestor, and inside a container the path that /proc shows need not
    exist under the mounted root: every folder from the process's own up to the root is asked.
    """
    try:
        lines = proc_cgroup.read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quota = min(quota, *_up_to_root(root, path, _quota_v2))
        elif "cpu" in controllers.split(","):
            for mount in (root / controllers, root / "cpu"):
                quota = min(quota, *_up_to_root(mount, path, _quota_v1))
    return quota


def _up_to_root(root: Path, path: str, quota: Callable[[Path], float]) -> list[float]:
    own = root / path.lstrip("/")
    folders = [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
    return [quota(folder) for folder in folders]


def _quota_v2(folder: Path) -> float:
    words = _words(folder / "cpu.max")
    return _ratio(*words) if len(words) == 2 else math.inf


def _quota_v1(folder: Path) -> float:
    words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    return _ratio(*words) if len(words) == 2 else math.inf


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float:
    """`max 100000` (v2) and `-1 100000` (v1) mean no limit."""
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return math.inf
    return int(quota) / int(period)
