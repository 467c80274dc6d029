"""The CPUs: how many this process may really use, and what they can do."""

import math
import os
from pathlib import Path

from base.cgroups import CGROUP_ROOT, PROC_CGROUP, cgroup_folders

CPUINFO = Path("/proc/cpuinfo")


def available_cpus() -> int:
    """Return the number of CPUs in the affinity mask, lowered to the cgroup's quota; at least 1.

    A container with `--cpus 1.5` on a 64-core machine gets 2: `os.cpu_count()` says 64.
    """
    affinity = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(affinity, cgroup_quota())))


def cgroup_quota(proc_cgroup: Path = PROC_CGROUP, root: Path = CGROUP_ROOT) -> float:
    """Return the CPU quota of this process's cgroup in CPUs (cgroup v1 or v2), or infinity."""
    folders = cgroup_folders("cpu", proc_cgroup, root)
    return min((_quota(version, folder) for version, folder in folders), default=math.inf)


def cpu_fields(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return what Linux says of the first CPU, `model name` for example; {} on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """Return the instruction sets of the first CPU as Linux names them; none on other systems."""
    fields = cpu_fields(cpuinfo)
    return set(fields.get("flags", fields.get("Features", "")).split())  # x86, Arm


def _quota(version: int, folder: Path) -> float:
    files = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    numbers = [number for file in files for number in _fields(folder / file)]
    return _ratio(*numbers) if len(numbers) == 2 else math.inf


def _fields(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(quota: str, period: str) -> float:
    """`max 100000` (v2) and `-1 100000` (v1) mean no limit."""
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return math.inf
    return int(quota) / int(period)
