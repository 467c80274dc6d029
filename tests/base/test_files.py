import errno
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from base.errors import LookalikeError
from base.files import (
    atomic_write,
    sha256_bytes,
    sha256_file,
    write_bytes_atomic,
    write_json_atomic,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(target) as file:  # noqa: PT012
        file.write(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_file_then_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_bytes_atomic(tmp_path / "file", b"x")
    assert steps == ["file", "rename", "folder"]


def test_the_file_gets_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_bytes_atomic(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LookalikeError, match=r"cannot write .*file: No space left"):
        write_bytes_atomic(tmp_path / "file", b"x")
    assert names(tmp_path) == []


def test_a_missing_folder_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match=r"cannot write .*no/file: No such file or directory"):
        write_bytes_atomic(tmp_path / "no" / "file", b"x")


def test_nothing_but_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(LookalikeError, match="not a file"):
            write_bytes_atomic(tmp_path / name, b"new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(names(tmp_path)) == ["folder", "pipe"]


def test_json(tmp_path: Path) -> None:
    obj = {"name": "Größe", "values": [1, 2.5, None]}
    write_json_atomic(tmp_path / "a.json", obj)
    text = (tmp_path / "a.json").read_text("utf-8")
    assert json.loads(text) == obj
    assert "Größe" in text
    assert text.endswith("}\n")


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_atomic(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []
