from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from base.memory import (
    available_memory,
    forget_peak,
    peak_memory,
    resident_memory,
    virtual_memory,
)

if TYPE_CHECKING:
    from pathlib import Path

MB = 2**20


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    text = "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8192 kB\n"
    return written(tmp_path / "proc", {"meminfo": text})


def test_the_machine_alone(proc: Path, tmp_path: Path) -> None:
    assert available_memory(proc, tmp_path / "none", tmp_path) == 8 * MB


@pytest.mark.parametrize(("limit", "room"), [(f"{6 * MB}", 5 * MB), ("max", 8 * MB)])
def test_cgroup_v2_on_any_ancestor(proc: Path, tmp_path: Path, limit: str, room: int) -> None:
    root = written(
        tmp_path / "cgroup",
        {
            "slice/memory.max": limit,
            "slice/memory.current": str(3 * MB),
            "slice/memory.stat": f"anon 1\ninactive_file {2 * MB}\n",
        },
    )
    lines = written(tmp_path, {"self": "0::/slice/job\n"}) / "self"
    assert available_memory(proc, lines, root) == room


def test_cgroup_v1(proc: Path, tmp_path: Path) -> None:
    root = written(
        tmp_path / "cgroup",
        {
            "memory/box/memory.limit_in_bytes": str(4 * MB),
            "memory/box/memory.usage_in_bytes": str(MB),
            "memory/box/memory.stat": "total_inactive_file 0\n",
        },
    )
    lines = written(tmp_path, {"self": "4:cpu,cpuacct:/box\n3:memory:/box\n"}) / "self"
    assert available_memory(proc, lines, root) == 3 * MB


def test_where_there_is_no_proc(tmp_path: Path) -> None:
    nowhere = tmp_path / "none"
    assert available_memory(nowhere, nowhere, nowhere) is None
    assert peak_memory(nowhere) is None
    assert resident_memory(proc=nowhere) is None
    assert virtual_memory(nowhere) is None
    forget_peak(nowhere)


def test_the_peak_of_this_process() -> None:
    forget_peak()
    before, resident = peak_memory(), resident_memory()
    assert before is not None
    assert resident is not None
    with mmap.mmap(-1, 64 * MB) as pages:  # fresh pages, whatever the allocator has kept
        np.frombuffer(pages, np.uint8)[:] = 1
        after = peak_memory()
    assert after is not None
    assert after >= resident + 60 * MB


def test_sizes_of_this_process_and_of_another() -> None:
    resident, virtual = resident_memory(), virtual_memory()
    assert resident is not None
    assert virtual is not None
    assert 2**20 < resident < virtual
    parent = resident_memory(os.getppid())
    assert parent is not None
    assert parent > 0
