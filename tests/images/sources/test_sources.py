import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError
from images.sources import arrays
from images.sources.sources import open_source, read_uri


def image(path: Path) -> Path:
    Image.fromarray(np.full((6, 8, 3), 90, np.uint8)).save(path)
    return path


def test_a_relative_path_gives_absolute_uris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    image(tmp_path / "photos" / "1.png")
    monkeypatch.chdir(tmp_path)
    source = open_source("photos")
    assert source.name == "photos"
    assert next(iter(source)).uri == str(tmp_path / "photos" / "1.png")


def test_a_folder_called_like_a_name_needs_a_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    image(tmp_path / "fashion-mnist" / "1.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_source("./fashion-mnist")) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "SOURCE is empty; give a folder"),
        ("fashon-mnist", r"fashon-mnist does not exist.*did you mean fashion-mnist\?"),
        ("fashion-mnist:tests", r"did you mean fashion-mnist:test\?"),
        ("qqq", "qqq does not exist.*names: cifar10, .*fashion-mnist"),
        ("no/such/folder", "no/such/folder does not exist"),
        ("x" * 5000, "does not exist"),
        ("\0", "does not exist"),
        ("{tmp}/photo", r"did you mean .*/photos\?"),
        ("{tmp}/photos/1.png", "one image; give its folder"),
        ("{tmp}/pipe", "neither a folder nor a plain file"),
        ("{tmp}/photos.zip", "damaged, truncated or not a zip archive: .*; fetch or make it anew"),
        ("{tmp}/binary.txt", "not a known source; give a folder"),
    ],
)
def test_what_is_no_source_gets_one_line_with_a_remedy(
    tmp_path: Path, source: str, message: str
) -> None:
    (tmp_path / "photos").mkdir()
    image(tmp_path / "photos" / "1.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "photos.zip").write_bytes(b"PK\3\4 and more")
    (tmp_path / "binary.txt").write_bytes(b"path\0path")
    with pytest.raises(SourceError, match=message) as caught:
        open_source(source.format(tmp=tmp_path))
    assert "\n" not in str(caught.value)


def test_items_travel_to_other_processes(tmp_path: Path) -> None:
    path = image(tmp_path / "1.png")
    (item,) = open_source(tmp_path)
    assert pickle.loads(pickle.dumps(item)).read() == path.read_bytes()


@pytest.mark.parametrize(
    "uri",
    [
        "{tmp}/gone.png",
        "gone.png",
        "{tmp}",
        "http://example.org/1.png",
        "npz://{tmp}/gone.npz#0",
        "npz://{tmp}/x.npz#6",
        "npz://{tmp}/x.npz#-1",
        "npz://{tmp}/x.npz#one",
        "npz://{tmp}/x.npz",
        "idx://{tmp}/x.npz#0",
        "\0",
    ],
)
def test_a_uri_that_leads_nowhere_is_unreadable(tmp_path: Path, uri: str) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 4, 4), np.uint8))
    with pytest.raises(ImageRefused) as caught:
        read_uri(uri.format(tmp=tmp_path))
    assert caught.value.reason == RefusalReason.UNREADABLE


def test_a_file_that_changed_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for value in (1, 2):
        np.savez(path, images=np.full((2, 4, 4), value, np.uint8))
        stamp = path.stat().st_mtime_ns + value
        os.utime(path, ns=(stamp, stamp))
        content = read_uri(f"npz://{path}#1")
        assert np.all(np.asarray(content) == value)


def test_neighbors_from_one_file_do_not_open_it_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((3, 4, 4), np.uint8))
    before = arrays._reopen_unchanged.cache_info().misses
    for index in range(3):
        read_uri(f"npz://{tmp_path}/x.npz#{index}")
    assert arrays._reopen_unchanged.cache_info().misses == before + 1


def test_an_array_item_travels_without_its_array_and_reads_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.arange(300 * 16 * 16, dtype=np.uint8).reshape(300, 16, 16))
    item = list(open_source(str(path)))[299]
    sent = pickle.dumps(item)
    assert len(sent) < 1000
    assert np.array_equal(np.asarray(pickle.loads(sent).read()), np.asarray(item.read()))
    path.unlink()
    with pytest.raises(ImageRefused, match=rf"cannot read npz://{path}#299: ") as caught:
        pickle.loads(sent).read()
    assert caught.value.reason == RefusalReason.UNREADABLE
