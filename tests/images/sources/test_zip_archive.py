"""zip archives: damage costs one member, and what is not read."""

import zipfile
from pathlib import Path

import pytest

from base.errors import ImageRefused, RefusalReason
from images.sources.sources import open_source
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
