"""Folders that are there as a whole or not at all, whatever becomes of who makes them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import UsageError
from serving.collection.contract.new_folder import new_folder

MAKE = """
import sys, time
from pathlib import Path
from serving.collection.contract.new_folder import new_folder
with new_folder(Path(sys.argv[1])) as unfinished:
    (unfinished / "large").write_bytes(bytes(1000))
    print(unfinished, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_has_left_goes_when_the_same_is_made_again(tmp_path: Path) -> None:
    expected, others = tmp_path / "shop [1]", [".shop [1].01234567.new", ".shop [1].other.new"]
    for other in others:  # one that nobody has locked yet, and one that is no such folder
        (tmp_path / other).mkdir()
    command = [sys.executable, "-c", MAKE, str(expected)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        unfinished = Path(process.stdout.readline().rstrip())
        with new_folder(expected) as mine:  # the other is still at work
            assert (unfinished / "large").stat().st_size == 1000
            assert mine != unfinished
        expected.rename(tmp_path / "first")
        process.send_signal(signal.SIGKILL)
    assert (unfinished / "large").exists()
    with new_folder(expected) as mine:
        assert not unfinished.parent.exists()
        (mine / "small").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*others, "first", expected.name]
    assert [path.name for path in expected.iterdir()] == ["small"]


def test_an_empty_mount_point_is_filled_with_the_ledger_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be renamed to it, and what is made outside is on another file system."""
    mounted = tmp_path / "disk"
    (mounted / "lost+found").mkdir(parents=True)
    monkeypatch.setattr(Path, "is_mount", lambda path: path == mounted)
    (mounted / ".disk.01234567.new").mkdir()  # of a killed process
    (mounted / ".disk.01234567.new" / ".lock").touch()
    moved: list[str] = []
    replace = Path.replace

    def noted(path: Path, to: Path) -> Path:
        moved.append(path.name)
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", noted)
    with new_folder(mounted) as unfinished:
        assert mounted in unfinished.parents
        for name in ("ledger.db", "thumbnails.db", "a"):
            (unfinished / name).touch()
    names = sorted(path.name for path in mounted.iterdir())
    assert names == ["a", "ledger.db", "lost+found", "thumbnails.db"]
    assert moved[-1] == "ledger.db"
    with pytest.raises(UsageError, match="not empty"), new_folder(mounted):
        pass
