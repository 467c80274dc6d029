"""What sources pass over: said, not silent; and what the user excludes."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from base.errors import SourceError, UsageError
from images.sources.passed_over import passed_over
from images.sources.sources import open_source
from tests.images.sources.archive_files import make_folder, make_tar, make_zip, png

MIXED = {
    "a/1.png": png(0), "a/2.CR2": b"", "b/3.cr2": b"", "b/4.dng": b"", "b/README": b"",
    "b/.hidden.cr2": b"", "@eaDir/1.png/thumb.png": png(1), "#recycle/2.png": png(2),
    "b/$RECYCLE.BIN/3.png": png(3), "System Volume Information/4.png": png(4),
    "lost+found/5.png": png(5), "__MACOSX/6.png": png(6),
}  # fmt: skip
SUMMARY = "4 files passed over: 2 .cr2, 1 .dng, 1 without a suffix"


def keys(source: Path | str, *exclude: str) -> list[str]:
    return [item.key for item in open_source(source, exclude=exclude)]


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders that cannot be listed; root, as whom tests may run, may list everything."""
    names: set[str] = set()
    real = os.scandir

    def scan(path: Any) -> Iterator[os.DirEntry[str]]:
        if Path(path).name in names:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    return names


@pytest.mark.parametrize("form", ["folder", "tar", "zip", "pattern", "labels", "shard"])
def test_what_is_no_image_is_counted_and_system_folders_are_not_read(
    tmp_path: Path, form: str
) -> None:
    makers: dict[str, Any] = {"folder": make_folder, "zip": make_zip}
    make = makers.get(form, make_tar)
    path = make(tmp_path / "photos", MIXED)
    (tmp_path / "labels.csv").write_text("path,label\na/1.png,hat\n")
    labels = tmp_path / "labels.csv" if form == "labels" else None
    shard = "0/1" if form == "shard" else None
    name = f"{tmp_path}/phot*" if form == "pattern" else path
    source = open_source(name, shard=shard, labels=labels)
    assert [item.key for item in source] == ["photos/a/1.png" if form == "pattern" else "a/1.png"]
    assert passed_over(source).summary() == SUMMARY


def test_a_source_of_nothing_but_other_files_says_so(tmp_path: Path) -> None:
    for make in (make_folder, make_tar, make_zip):
        path = make(tmp_path / make.__name__, {"1.cr2": b"", "2.cr2": b""})
        with pytest.raises(SourceError, match=r"holds no image files .*: 2 \.cr2$"):
            open_source(path)


def test_a_sub_folder_that_cannot_be_listed_is_skipped(tmp_path: Path, forbidden: set[str]) -> None:
    make_folder(tmp_path, {"a/1.png": png(0), "b/private/2.png": png(1), "b/3.png": png(2)})
    forbidden.add("private")
    source = open_source(tmp_path)
    assert [item.key for item in source] == ["a/1.png", "b/3.png"]
    assert passed_over(source).folders == ["b/private"]
    assert "1 folder(s) skipped that cannot be listed: b/private" in passed_over(source).summary()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_folders_that_link_one_another_are_each_listed_once(tmp_path: Path, count: int) -> None:
    names = "abcdefg"[:count]
    make_folder(tmp_path, {f"{name}/1.png": png(0) for name in names})
    for name in names:
        for other in names:
            if other != name:
                (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other)
    assert keys(tmp_path) == [f"{name}/1.png" for name in names]


def test_a_tower_of_double_links_is_listed_once(tmp_path: Path) -> None:
    for level in range(12):
        make_folder(tmp_path / "floors", {f"{level}/1.png": png(0)})
        for side in ("left", "right"):
            (tmp_path / "floors" / str(level) / side).symlink_to(f"../{level + 1}")
    assert keys(tmp_path / "floors") == sorted(f"{level}/1.png" for level in range(12))


@pytest.mark.parametrize("make", [make_folder, make_tar, make_zip])
def test_names_and_paths_are_excluded(tmp_path: Path, make: Any) -> None:
    names = ["hat/1.png", "hat/old/2.png", "shoe/old/3.gif", "shoe/4.png"]
    path = make(tmp_path / "photos", {name: png(0) for name in names})
    assert keys(path, "old") == ["hat/1.png", "shoe/4.png"]
    assert keys(path, "*.gif", "4.*") == ["hat/1.png", "hat/old/2.png"]
    for pattern in ("hat/old", "/hat/old/", "./hat/o*", "hat/old/2.png"):
        assert set(keys(path, pattern)) == {names[0], *names[2:]}
    source = open_source(path, exclude=("shoe",))
    assert source.classes == ("hat",)
    assert len(source) == 2
    assert passed_over(source).summary() == "2 files passed over: 2 excluded"
    with pytest.raises(SourceError, match=r"--exclude \*\.png \*\.gif leaves no images"):
        open_source(path, exclude=("*.png", "*.gif"))
    with pytest.raises(UsageError, match="--exclude is empty"):
        open_source(path, exclude=("",))


def test_a_home_folder_in_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_tar(tmp_path / "x.tar", {"1.png": png(0)})
    make_folder(tmp_path / "photos", {"1.png": png(0)})
    assert keys("~/x.tar") == keys("~/photos") == ["1.png"]
    assert keys("~/*.tar") == ["x.tar/1.png"]
