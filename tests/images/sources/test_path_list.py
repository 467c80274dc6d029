from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError
from images.sources.sources import open_source, read_uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("1.png", "sub/2.png", "sub/Größe 3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "list.txt").write_bytes(text.encode())
    return folder / "list.txt"


def test_paths_are_relative_to_the_list_and_keep_its_order(folder: Path) -> None:
    path = write(folder, f"sub/Größe 3.png\n./1.png\n{folder}/sub/2.png\n")
    items = list(open_source(path))
    assert [item.key for item in items] == ["sub/Größe 3.png", "1.png", f"{folder}/sub/2.png"]
    for item, name in zip(items, ("sub/Größe 3.png", "1.png", "sub/2.png"), strict=True):
        assert item.read() == read_uri(item.uri) == (folder / name).read_bytes()
        assert item.label is None


def test_labels_stand_behind_a_tab(folder: Path) -> None:
    source = open_source(write(folder, "sub/2.png\tshoe\n1.png\tbig hat \nsub/Größe 3.png\t\n"))
    assert [item.label for item in source] == ["shoe", "big hat", None]
    assert source.classes == ("big hat", "shoe")


def test_blank_lines_comments_windows_ends_and_byte_order_marks(folder: Path) -> None:
    text = "\ufeff# my list\r\n\r\n  \t\r\n1.png\tx\r\n  # more\r\n  sub/2.png  \r\n"
    assert [(item.key, item.label) for item in open_source(write(folder, text))] == [
        ("1.png", "x"),
        ("sub/2.png", None),
    ]


def test_a_missing_file_is_refused_when_read(folder: Path) -> None:
    first, gone = open_source(write(folder, "1.png\ngone.png\n"))
    assert first.read()
    with pytest.raises(ImageRefused, match=r"gone\.png does not exist") as caught:
        gone.read()
    assert caught.value.reason == RefusalReason.UNREADABLE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no paths"),
        ("# nothing\n\n", "lists no paths"),
        ("1.png\n./1.png\n", r"line 2: 1\.png is listed twice"),
        (f"Dear reader,\n{'so long ' * 99}.\n", "none of its 2 lines is a path that exists"),
    ],
)
def test_a_list_that_makes_no_sense(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"list\.txt.*{message}"):
        open_source(write(folder, text))


def test_a_list_in_another_encoding(folder: Path) -> None:
    (folder / "list.txt").write_bytes("Größe.png".encode("latin-1"))
    with pytest.raises(SourceError, match="not a UTF-8 text file"):
        open_source(folder / "list.txt")
