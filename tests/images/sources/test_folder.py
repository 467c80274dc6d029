import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError
from images.sources.sources import open_source, read_uri


def save_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path, "PNG")
    return path


def keys(folder: Path) -> list[str]:
    return [item.key for item in open_source(folder)]


def test_images_are_found_below_and_sorted_by_path(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/deep/er/x.png", "c.png", "a.png"):
        save_image(tmp_path / name)
    assert keys(tmp_path) == ["a.png", "a/deep/er/x.png", "b/10.png", "b/2.png", "c.png"]


def test_labels_are_the_first_folders(tmp_path: Path) -> None:
    for name in ("shoe/1.png", "hat/summer/2.png", "3.png"):
        save_image(tmp_path / name)
    source = open_source(tmp_path)
    assert source.classes == ("hat", "shoe")
    assert {item.key: item.label for item in source} == {
        "3.png": None,
        "hat/summer/2.png": "hat",
        "shoe/1.png": "shoe",
    }


def test_a_folder_without_sub_folders_is_unlabeled(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    source = open_source(tmp_path)
    assert source.classes == ()
    assert [item.label for item in source] == [None]


def test_suffixes_in_any_case_and_nothing_else(tmp_path: Path) -> None:
    expected = ["1.JPG", "2.Jpeg", "3.png", "4.WebP", "5.gif", "6.bmp", "7.TIFF", "8.tif"]
    for name in (*expected, "readme.txt", "png", "x.png.bak", "x.svg"):
        (tmp_path / name).touch()
    assert keys(tmp_path) == expected


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    for name in (".hidden.png", ".thumbnails/1.png", "a/.cache/2.png", "a/seen.png"):
        save_image(tmp_path / name)
    assert keys(tmp_path) == ["a/seen.png"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = save_image(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    save_image(root / "a" / "2.png")
    (root / "a" / "back").symlink_to(root)
    (root / "itself.png").symlink_to(root / "itself.png")
    (root / "folder").symlink_to(elsewhere.parent)
    (root / "file.png").symlink_to(elsewhere)
    assert keys(root) == ["a/2.png", "file.png", "folder/1.png", "itself.png"]


def test_a_folder_linked_twice_is_listed_twice(tmp_path: Path) -> None:
    save_image(tmp_path / "shoe" / "1.png")
    (tmp_path / "sneaker").symlink_to(tmp_path / "shoe")
    assert keys(tmp_path) == ["shoe/1.png", "sneaker/1.png"]


def test_very_deep_folders(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["d"] * 300, "1.png")
    save_image(path)
    assert keys(tmp_path) == [path.relative_to(tmp_path).as_posix()]


def test_an_item_is_read_by_itself_and_by_its_uri(tmp_path: Path) -> None:
    path = save_image(tmp_path / "a b" / "50% #1 Größe.png")
    (item,) = open_source(tmp_path)
    assert item.uri == str(path)
    assert item.read() == read_uri(item.uri) == path.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf8_stays_usable(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/x\xff.png"))
    save_image(path)
    (item,) = open_source(tmp_path)
    assert item.key == "caf\\xe9/x\\xff.png"
    assert item.label == "caf\\xe9"
    item.uri.encode()
    assert item.read() == read_uri(item.uri) == path.read_bytes()


def test_what_cannot_be_read_is_listed_and_refused_when_read(tmp_path: Path) -> None:
    gone = save_image(tmp_path / "gone.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    items = {item.key: item for item in open_source(tmp_path)}
    gone.unlink()
    assert sorted(items) == ["broken.png", "gone.png", "pipe.png"]
    for item in items.values():
        with pytest.raises(ImageRefused, match=r"\.png") as caught:
            item.read()
        assert caught.value.reason == RefusalReason.UNREADABLE


def test_a_giant_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    (item,) = open_source(tmp_path)
    with pytest.raises(ImageRefused) as caught:
        item.read()
    assert caught.value.reason == RefusalReason.TOO_MANY_BYTES


def test_a_forbidden_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    save_image(tmp_path / "a" / "1.png")
    monkeypatch.setattr(os, "scandir", refuse)  # root, as whom tests may run, may list everything
    with pytest.raises(SourceError, match=rf"cannot list {tmp_path}: Permission denied"):
        open_source(tmp_path)


@pytest.mark.parametrize("names", [[], ["notes.txt", "sub/more.md"], [".hidden.png"]])
def test_a_folder_without_images_is_named(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(
        SourceError, match=rf"{tmp_path.name} holds no image files \(.*\.bmp.*\.webp"
    ):
        open_source(tmp_path)


def test_a_folder_of_arrays_names_the_file_to_give(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    with pytest.raises(SourceError, match=r"did you mean .*/train-images-idx3-ubyte\.gz\?"):
        open_source(tmp_path)
