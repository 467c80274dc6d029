"""tar archives: damage, links, compression, and the labels of WebDataset samples."""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from base.errors import ImageRefused, SourceError
from images.sources import unpacked
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import FILES, make_tar, png


def test_a_tar_without_its_end_or_with_more_after_it(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1.png": png(0)})
    whole = path.read_bytes()
    path.write_bytes(whole[:1024])
    with pytest.raises(SourceError, match="after 1 images: the mark of its end is missing"):
        open_source(path)
    path.write_bytes(whole + whole)
    with pytest.raises(SourceError, match="it continues after its end"):
        open_source(path)
    damaged = bytearray(make_tar(path, FILES).read_bytes())
    damaged[1024 + 100] ^= 255  # in the second header
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match="byte 1,024 is not a header; fetch or make it anew"):
        open_source(path)


def test_links_are_refused_by_themselves(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1.png": png(0)})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    good, bad = open_source(path)
    assert good.read() == png(0)
    with pytest.raises(ImageRefused, match="is a link"):
        bad.read()
    with pytest.raises(ImageRefused, match="is a link"):
        read_uri(bad.uri)


def test_a_compressed_tar_is_unpacked_once_for_all_threads(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", FILES, "w:gz")
    before = unpacked._unpack.cache_info().misses
    uris = [item.uri for item in open_source(path)] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_uri, uris)) == [*FILES.values()] * 8
    assert unpacked._unpack.cache_info().misses == before + 1


def test_webdataset_samples_carry_their_labels(tmp_path: Path) -> None:
    members = {
        "000.png": png(0), "000.cls": b"7\n", "000.json": b'{"label": "json"}',
        "001.json": b'{"caption": "a hat", "class_name": "hat"}',
        "001.left.png": png(1), "001.right.png": png(2),
        "002.txt": b"a shoe", "002.png": png(3),
        "003.txt": b"line\nline", "003.png": png(4), "003.json": b"[1]",
        "cat/004.png": png(5), "cat/004.txt": b"\xff",
    }  # fmt: skip
    source = open_source(make_tar(tmp_path / "a.tar", members))
    assert [(item.key, item.label) for item in source] == [
        ("000.png", "7"), ("001.left.png", "hat"), ("001.right.png", "hat"),
        ("002.png", None), ("003.png", None), ("cat/004.png", "cat"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.tar.zst", "a.tzst", "without a suffix"])
def test_zstandard(tmp_path: Path, name: str) -> None:
    plain = make_tar(tmp_path / "plain.tar", FILES)
    with (
        pa.OSFile(str(tmp_path / name), "wb") as file,
        pa.CompressedOutputStream(file, "zstd") as out,
    ):
        out.write(plain.read_bytes())
    items = list(open_source(tmp_path / name))
    assert [item.key for item in items] == list(FILES)
    assert [item.read() for item in items] == list(FILES.values())
    assert [read_uri(item.uri) for item in items] == list(FILES.values())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / "cut.tar.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match=r"cut\.tar\.zst"):
        open_source(tmp_path / "cut.tar.zst")


def test_links_to_images_of_the_archive_are_read(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"a/1.png": png(1), "b/2.png": png(2)})
    links = {
        "b/hard.png": (tarfile.LNKTYPE, "a/1.png"),
        "b/soft.png": (tarfile.SYMTYPE, "2.png"),
        "c/up.png": (tarfile.SYMTYPE, "../b/hard.png"),
        "round.png": (tarfile.SYMTYPE, "round.png"),
        "out.png": (tarfile.SYMTYPE, "/etc/passwd"),
    }
    with tarfile.open(path, "a") as archive:
        for name, (kind, target) in links.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    items = {item.key: item for item in open_source(path)}
    expected = {"b/hard.png": png(1), "b/soft.png": png(2), "c/up.png": png(1)}
    for name, content in expected.items():
        assert items[name].read() == read_uri(items[name].uri) == content
    for name in ("round.png", "out.png"):
        for read in (items[name].read, partial(read_uri, items[name].uri)):
            with pytest.raises(ImageRefused, match="is a link to what is not an image"):
                read()
