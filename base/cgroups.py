"""The control groups that limit this process: where Linux and containers set CPUs and memory."""

from pathlib import Path

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def cgroup_folders(
    controller: str, proc_cgroup: Path = PROC_CGROUP, root: Path = CGROUP_ROOT
) -> list[tuple[int, Path]]:
    """Return the folders that may limit this process, each with the version (1 or 2) of its files.

    The limit may sit on any ancestor, and inside a container the path that /proc shows need not
    exist under the mounted root: all folders from the process's own up to the root are in.

    Args:
        controller: of version 1, `cpu` or `memory`.
        proc_cgroup: lists the process's cgroups; a file that is missing lists none.
        root: where they are mounted.
    """
    try:
        lines = proc_cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folders += [(2, folder) for folder in _up_to_root(root, path)]
        elif controller in controllers.split(","):
            for mount in {root / controllers, root / controller}:
                folders += [(1, folder) for folder in _up_to_root(mount, path)]
    return folders


def _up_to_root(root: Path, path: str) -> list[Path]:
    own = root / path.lstrip("/")
    return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]
