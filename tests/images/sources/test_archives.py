"""tar and zip archives: the same images as a folder, and what damage does to them."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from base.errors import ImageRefused, RefusalReason, SourceError
from images.items import Source
from images.sources import unpacked
from images.sources.sources import open_source, read_uri

NAMES = ("hat/1.png", "hat/summer/2.png", "shoe/3.PNG", "shoe/4.png")


def png(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + np.uint8(value)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {name: png(number) for number, name in enumerate(NAMES)}


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda tmp: make_folder(tmp / "photos", FILES),
    "tar": lambda tmp: make_tar(tmp / "a.tar", FILES),
    "tar.gz": lambda tmp: make_tar(tmp / "a.tar.gz", FILES, "w:gz"),
    "tgz": lambda tmp: make_tar(tmp / "a.tgz", FILES, "w:gz"),
    "tar.bz2": lambda tmp: make_tar(tmp / "a.tar.bz2", FILES, "w:bz2"),
    "tar.xz": lambda tmp: make_tar(tmp / "a.tar.xz", FILES, "w:xz"),
    "tar, misnamed": lambda tmp: make_tar(tmp / "archive #1", FILES),
    "zip, deflated": lambda tmp: make_zip(tmp / "a.zip", FILES),
    "zip, stored": lambda tmp: make_zip(tmp / "a #1.zip", FILES, zipfile.ZIP_STORED),
}


def facts(source: Source) -> list[tuple[str, str | None, object]]:
    return [(item.key, item.label, item.read()) for item in source]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same(tmp_path: Path, form: str) -> None:
    source = open_source(FORMS[form](tmp_path))
    labels = ["hat", "hat", "shoe", "shoe"]
    assert facts(source) == list(zip(NAMES, labels, FILES.values(), strict=True))
    assert (len(source), source.classes) == (4, ("hat", "shoe"))
    for item in source:
        assert read_uri(item.uri) == pickle.loads(pickle.dumps(item)).read() == item.read()


def test_a_uri_says_where(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a b.tar", {"Größe #1/x.png": png(0)})
    (item,) = open_source(path)
    quoted = str(tmp_path / "a%20b.tar")
    assert item.uri == f"tar://{quoted}#Gr%C3%B6%C3%9Fe%20%231/x.png@0"


def test_one_folder_around_everything_is_no_label(tmp_path: Path) -> None:
    around = {f"photos/{name}": data for name, data in FILES.items()}
    source = open_source(make_tar(tmp_path / "a.tar", around))
    assert [item.key for item in source] == list(around)
    assert source.classes == ("hat", "shoe")
    flat = open_source(make_zip(tmp_path / "a.zip", {"hat/1.png": png(0), "hat/2.png": png(1)}))
    assert flat.classes == ("hat",)


def test_what_is_no_image_or_hidden_is_passed_over(tmp_path: Path) -> None:
    others = {"._1.png": b"", "__MACOSX/1.png": b"", ".git/1.png": b"", "notes.md": b"", "a/": b""}
    source = open_source(make_zip(tmp_path / "a.zip", {**others, "./1.png": png(0)}))
    assert [item.key for item in source] == ["1.png"]
    folder = make_folder(tmp_path / "photos", {"__MACOSX/1.png": png(0), "2.png": png(1)})
    assert [item.key for item in open_source(folder)] == ["2.png"]


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_hostile_names_are_only_keys(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    (tmp_path / "in").mkdir()
    hostile = {"../x.png": png(0), "/etc/y.png": png(1), "a/../../z.png": png(2)}
    before = sorted(tmp_path.rglob("*"))
    path = make(tmp_path / "in" / "a", hostile)
    source = open_source(path)
    assert [item.key for item in source] == list(hostile)
    assert [read_uri(item.uri) for item in source] == list(hostile.values())
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_a_name_that_comes_again_gets_a_key_of_its_own(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1.png": png(0)})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("./1.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
    source = open_source(path)
    assert [item.key for item in source] == ["1.png", "1.png@1024"]
    assert [read_uri(item.uri) for item in source] == [png(0), png(1)]


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip, deflated", "zip, stored"])
def test_a_cut_archive_is_told_at_once(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path)
    data = path.read_bytes()
    content = len(data.rstrip(b"\0"))  # a tar goes on with zeros
    for keep in (content * 9 // 10, content // 2, 30):
        path.write_bytes(data[:keep])
        os.utime(path, ns=(keep, keep))
        with pytest.raises(SourceError, match=path.name) as caught:
            open_source(path)
        assert "\n" not in str(caught.value)


def test_a_tar_without_its_end_or_with_more_after_it(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"1.png": png(0)})
    whole = path.read_bytes()
    path.write_bytes(whole[:1024])
    with pytest.raises(SourceError, match="after 1 images: the mark of its end is missing"):
        open_source(path)
    path.write_bytes(whole + whole)
    with pytest.raises(SourceError, match="it goes on after its end"):
        open_source(path)
    damaged = bytearray(make_tar(path, FILES).read_bytes())
    damaged[1024 + 100] ^= 255  # in the second header
    path.write_bytes(damaged)
    with pytest.raises(SourceError, match="byte 1,024 is no header; fetch or make it anew"):
        open_source(path)


def test_damage_in_a_member_of_a_zip_costs_that_member_only(tmp_path: Path) -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = make_zip(tmp_path / "a.zip", FILES, packing)
        damaged = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            second = archive.infolist()[1]
        damaged[second.header_offset + 30 + len(second.filename) + 40] ^= 255
        path.write_bytes(damaged)
        first, bad, *others = open_source(path)
        with pytest.raises(ImageRefused) as caught:
            bad.read()
        assert caught.value.reason == RefusalReason.CORRUPT
        assert [first.read(), *(item.read() for item in others)] == [
            data for name, data in FILES.items() if name != bad.key
        ]


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


def test_an_archive_that_changed_under_a_uri(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    uris = [item.uri for item in open_source(path)]
    make_tar(path, dict(reversed(FILES.items())))
    for uri in (*uris[:2], f"tar://{path}#1.png@7", f"tar://{path}#1.png", f"tar://{path}#@99999"):
        with pytest.raises(ImageRefused) as caught:
            read_uri(uri)
        assert caught.value.reason == RefusalReason.UNREADABLE


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
        ("002.png", "a shoe"), ("003.png", None), ("cat/004.png", "cat"),
    ]  # fmt: skip


def test_several_shards_are_one_source(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number in (9, 10, 11):
        make_tar(tmp_path / "train" / f"s-{number:03}.tar", {"a/1.png": png(number)})
    keys = [f"s-{number:03}.tar/a/1.png" for number in (9, 10, 11)]
    for pattern in ("s-{009..011}.tar", "s-*.tar", "s-0{09,1?}.tar"):
        source = open_source(f"{tmp_path}/train/{pattern}")
        assert [item.key for item in source] == keys
        assert [read_uri(item.uri) for item in source] == [png(9), png(10), png(11)]
        assert (len(source), source.classes) == (3, ("a",))
    make_zip(tmp_path / "b.zip", {"1.png": png(0)})
    mixed = open_source(f"{tmp_path}/{{b.zip,train/s-009.tar}}")
    assert [item.key for item in mixed] == ["b.zip/1.png", "train/s-009.tar/a/1.png"]
    for pattern, message in (
        ("s-{008..009}.tar", "s-008.tar does not exist"),
        ("t-*.tar", "fits no file; quote the pattern"),
        ("{.,s-009.tar}", "is a folder; a pattern must mean files"),
        ("{0..99999999}", "more than 100,000 files"),
    ):
        with pytest.raises(SourceError, match=message):
            open_source(f"{tmp_path}/train/{pattern}")


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_without_images(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    with pytest.raises(SourceError, match=r"holds no image files \("):
        open_source(make(tmp_path / "a", {"notes.txt": b"hello"}))


def test_zips_that_are_not_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", FILES, zipfile.ZIP_LZMA)
    with pytest.raises(ImageRefused, match="packed by method 14; pack it anew with deflate"):
        next(iter(open_source(path))).read()
    data = bytearray(make_zip(path, {"1.png": png(0)}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of encrypted members
    path.write_bytes(data)
    with pytest.raises(ImageRefused, match="is encrypted"):
        next(iter(open_source(path))).read()


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(NAME.map(lambda name: f"x{name}.png"), min_size=1, max_size=5, unique=True))
def test_any_names_come_back_through_their_uris(tmp_path: Path, names: list[str]) -> None:
    files = {name: png(number) for number, name in enumerate(names)}
    for path in (make_tar(tmp_path / "a", files), make_zip(tmp_path / "b", files)):
        items = list(open_source(path))
        assert len({item.key for item in items}) == len(items) == len(files)
        assert [read_uri(item.uri) for item in items] == list(files.values())
        for item in items:
            (item.key + item.uri).encode()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([make_tar, make_zip]),
    st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), max_size=5),
    st.none() | st.integers(1, 100_000),
)
def test_damage_raises_nothing_else_and_loses_nothing_silently(
    tmp_path: Path,
    make: Callable[[Path, dict[str, bytes]], Path],
    flips: list[tuple[int, int]],
    cut: int | None,
) -> None:
    path = make(tmp_path / "a", FILES)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data[:cut])
    try:
        source = open_source(path)
    except SourceError:
        return
    if make is make_zip and not flips:
        assert cut is None or cut >= len(data)
    for item in source:
        with suppress(ImageRefused):
            item.read()
