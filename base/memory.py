"""How much memory this process takes, took at most, and may still take."""

import re
from pathlib import Path

from base.cgroups import CGROUP_ROOT, PROC_CGROUP, cgroup_folders

PROC = Path("/proc")
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_memory(
    proc: Path = PROC, proc_cgroup: Path = PROC_CGROUP, root: Path = CGROUP_ROOT
) -> int | None:
    """Return the bytes that can be allocated without swapping: the machine's, or the cgroup's room.

    Cached files count as room, as the kernel gives them back. None where Linux's /proc is missing.
    """
    free = _kilobytes(proc / "meminfo", "MemAvailable")
    if free is None:
        return None
    folders = cgroup_folders("memory", proc_cgroup, root)
    rooms = [_room(folder, *_FILES[version]) for version, folder in folders]
    return max(0, min([free, *(room for room in rooms if room is not None)]))


def resident_memory(pid: int | None = None, proc: Path = PROC) -> int | None:
    """Return the resident size of this process, or of another, in bytes; None without /proc."""
    return _of_process("VmRSS", proc, pid)


def virtual_memory(proc: Path = PROC) -> int | None:
    """Return the size of this process's address space in bytes; None without /proc."""
    return _of_process("VmSize", proc)


def peak_memory(proc: Path = PROC) -> int | None:
    """Return the largest resident size since `forget_peak`, in bytes; None without /proc."""
    return _of_process("VmHWM", proc)


def forget_peak(proc: Path = PROC) -> None:
    """Let `peak_memory` start anew, where the kernel allows it."""
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return  # then the peak only grows, which is as good for batches that only grow


def _of_process(key: str, proc: Path, pid: int | None = None) -> int | None:
    return _kilobytes(proc / ("self" if pid is None else str(pid)) / "status", key)


def _kilobytes(file: Path, key: str) -> int | None:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{key}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _room(folder: Path, limit_file: str, usage_file: str, cached: str) -> int | None:
    """Return the bytes that a cgroup leaves below its limit; None if it has none."""
    try:
        limit = (folder / limit_file).read_text(encoding="utf-8").strip()
        usage = int((folder / usage_file).read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    match = re.search(rf"^{cached} (\d+)$", stat, re.MULTILINE)
    reclaimable = int(match[1]) if match else 0
    return int(limit) - usage + reclaimable if limit.isdigit() else None
