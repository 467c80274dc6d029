"""How much memory this process may still take, and how much it took at most."""

import re
from pathlib import Path

from base.cpus import CGROUP_ROOT, PROC_CGROUP

PROC = Path("/proc")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory(
    proc: Path = PROC, proc_cgroup: Path = PROC_CGROUP, root: Path = CGROUP_ROOT
) -> int | None:
    """Bytes that can be allocated without swapping: the machine's, lowered to the cgroup's room.

    Cached files count as room, as the kernel gives them back. None where Linux's /proc is missing.
    """
    free = _kilobytes(proc / "meminfo", "MemAvailable")
    if free is None:
        return None
    return max(0, min(free, *_rooms(proc_cgroup, root)))


def peak_memory(proc: Path = PROC) -> int | None:
    """Return the largest resident size of this process since `forget_peak`, in bytes; None as above."""
    return _kilobytes(proc / "self" / "status", "VmHWM")


def resident_memory(proc: Path = PROC) -> int | None:
    """Return the resident size of this process in bytes; None as above."""
    return _kilobytes(proc / "self" / "status", "VmRSS")


def forget_peak(proc: Path = PROC) -> None:
    """Lets `peak_memory` start anew, where the kernel allows it."""
    try:
        (proc / "self" / "clear_refs").write_text("5")
    except OSError:
        return  # then the peak only grows, which is as good for batches that only grow


def _kilobytes(file: Path, key: str) -> int | None:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(rf"^{key}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _rooms(proc_cgroup: Path, root: Path) -> list[int]:
    """Return what each cgroup above this process leaves; limits may sit on any of them."""
    try:
        lines = proc_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [2**63]
    rooms = [2**63]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, files = (root / "memory", _V1) if controllers else (root, _V2)
        own = mount / path.lstrip("/")
        folders = [own, *(parent for parent in own.parents if parent.is_relative_to(mount))]
        rooms += [room for folder in folders if (room := _room(folder, *files)) is not None]
    return rooms


def _room(folder: Path, limit_file: str, usage_file: str, cached: str) -> int | None:
    try:
        limit = (folder / limit_file).read_text(encoding="utf-8").strip()
        usage = int((folder / usage_file).read_text(encoding="utf-8"))
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    match = re.search(rf"^{cached} (\d+)$", stat, re.MULTILINE)
    reclaimable = int(match[1]) if match else 0
    return int(limit) - usage + reclaimable if limit.isdigit() else None
