"""zip archives: damage costs one member, and what is not read."""

import struct
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import pytest

from base.errors import ImageRefused, RefusalReason
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import FILES, make_zip, png


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


def test_zips_that_are_not_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", FILES, zipfile.ZIP_LZMA)
    with pytest.raises(ImageRefused, match="packed by method 14; pack it anew with deflate"):
        next(iter(open_source(path))).read()
    data = bytearray(make_zip(path, {"1.png": png(0)}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of encrypted members
    path.write_bytes(data)
    with pytest.raises(ImageRefused, match="is encrypted"):
        next(iter(open_source(path))).read()


def make_raw_zip(path: Path, names: list[bytes], *, utf8: bool = False, extra: bytes = b"") -> Path:
    """Write a zip of these names as they are; `extra` goes to the first."""
    made = [f"{number}".rjust(len(name), "x") for number, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(made):
            info = zipfile.ZipInfo(name)
            info.extra = b"" if number else extra
            archive.writestr(info, png(number))
    data = bytearray(path.read_bytes())
    for old, new in zip(made, names, strict=True):
        data = data.replace(old.encode(), new)
    if utf8:
        at = data.find(b"PK\1\2")
        while at >= 0:
            data[at + 9] |= 8
            at = data.find(b"PK\1\2", at + 1)
    path.write_bytes(data)
    return path


def check_keys(path: Path, expected: list[str]) -> None:
    items = list(open_source(path))
    assert [item.key for item in items] == expected
    for number, item in enumerate(items):
        assert item.read() == read_uri(item.uri) == png(number)


def test_names_without_a_character_set(tmp_path: Path) -> None:
    names = ["café/ü.jpg", "日本/1.png"]
    check_keys(make_raw_zip(tmp_path / "debian.zip", [name.encode() for name in names]), names)
    check_keys(make_raw_zip(tmp_path / "dos.zip", ["café/ü.jpg".encode("cp437")]), names[:1])
    assert open_source(tmp_path / "debian.zip").classes == ("café", "日本")


def test_the_unicode_path_counts_where_its_checksum_fits(tmp_path: Path) -> None:
    name = b"caf?/x.jpg\x82"[:10] + b".jpg\x82.jpg"
    meant = "café/ż.jpg"
    for crc, key in ((zlib.crc32(name), meant), (1, name.decode("cp437"))):
        data = struct.pack("<BL", 1, crc) + meant.encode()
        extra = struct.pack("<HH", 0x7075, len(data)) + data
        check_keys(make_raw_zip(tmp_path / f"{crc}.zip", [name], extra=extra), [key])


def test_backslashes_separate_folders(tmp_path: Path) -> None:
    path = make_raw_zip(tmp_path / "a.zip", [b"hat\\1.png", b"shoe\\summer\\2.png"])
    check_keys(path, ["hat/1.png", "shoe/summer/2.png"])
    assert open_source(path).classes == ("hat", "shoe")


@pytest.mark.parametrize("before", [b"", b"something before the archive"])
def test_one_wrong_name_costs_no_other(tmp_path: Path, before: bytes) -> None:
    path = make_raw_zip(tmp_path / "a.zip", [b"caf\xe9.png", "ü.png".encode()], utf8=True)
    path.write_bytes(before + path.read_bytes())
    path = path.rename(tmp_path / "b.zip")
    check_keys(path, ["cafΘ.png", "ü.png"])


def test_a_member_without_a_name_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.png", png(0))
        archive.writestr(zipfile.ZipInfo(""), b"nameless")
    check_keys(path, ["1.png"])


def test_uris_with_names_as_they_used_to_be_read(tmp_path: Path) -> None:
    path = make_raw_zip(tmp_path / "a.zip", ["ü.png".encode()])
    former = quote("ü.png".encode().decode("cp437"))
    assert read_uri(f"zip://{path}#{former}@0") == png(0)
