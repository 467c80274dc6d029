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
    with pytest.raises(SourceError, match="not a text file"):
        open_source(folder / "list.txt")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_programs_write_them(
    folder: Path, separator: str, encoding: str, end: str
) -> None:
    lines = ["label,path,more", '"a, b; c",1.png,x', "shoe,sub/Größe 3.png,"]
    lines[1] = lines[1].replace('",1.png,x', f'"{separator}1.png{separator}x')
    text = end.join([lines[0].replace(",", separator), lines[1], lines[2].replace(",", separator)])
    (folder / "list.csv").write_bytes(text.encode(encoding))
    source = open_source(folder / "list.csv")
    expected = [("1.png", "a, b; c"), ("sub/Größe 3.png", "shoe")]
    assert [(item.key, item.label) for item in source] == expected
    labeled = open_source(folder, labels=folder / "list.csv")
    assert {(item.key, item.label) for item in labeled} == {*expected, ("sub/2.png", None)}


def test_the_separator_may_stand_in_the_first_line(folder: Path) -> None:
    (folder / "list.csv").write_text("sep=;\npath;label\n1.png;x\n")
    assert [(item.key, item.label) for item in open_source(folder / "list.csv")] == [("1.png", "x")]


def test_a_list_in_utf16(folder: Path) -> None:
    (folder / "list.txt").write_bytes("sub/Größe 3.png\tx\r\n1.png\r\n".encode("utf-16"))
    items = list(open_source(folder / "list.txt"))
    assert [(item.key, item.label) for item in items] == [("sub/Größe 3.png", "x"), ("1.png", None)]


def test_one_path_written_in_two_ways_is_refused(folder: Path) -> None:
    (folder / "list.csv").write_text("path,label\n1.png,x\n./1.png,y\n")
    with pytest.raises(SourceError, match=r"line 3: 1\.png is listed twice"):
        open_source(folder / "list.csv")


def test_a_file_url_means_the_file_that_its_uri_means(folder: Path) -> None:
    (folder / "a b.png").write_bytes(b"blank")
    (folder / "a%20b.png").write_bytes(b"percent")
    url, path = open_source(write(folder, f"file://{folder}/a%20b.png\n{folder}/a%20b.png\n"))
    assert url.read() == read_uri(url.uri) == b"blank"
    assert path.read() == read_uri(path.uri) == b"percent"
