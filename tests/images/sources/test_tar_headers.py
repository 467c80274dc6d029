"""The headers of a tar archive are read as Python's tarfile reads them."""

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from images.sources import tar_headers
from images.sources.tar_headers import Kind, Member, member_of, read_members

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
         tarfile.CONTTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)  # fmt: skip

levels = st.text("abcé日 .~\udc80", min_size=1, max_size=90).filter(lambda level: level.strip(" ."))
names = st.lists(levels, min_size=1, max_size=5).map("/".join)
headers = st.dictionaries(
    st.sampled_from(["comment", "SCHILY.xattr.user.a", "mtime", "path", "size", "GNU.sparse.name",
                     "hdrcharset"]), st.sampled_from(["12", "BINARY", "a=b\nc", "é"]), max_size=2
)  # fmt: skip


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Archives of any sort that tarfile writes, with what it would not think of beside."""
    kind = draw(st.sampled_from(FORMATS))
    everywhere = draw(st.sampled_from([{}, {"comment": "x"}, {"path": "same.png"}]))
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=kind, pax_headers=everywhere
    ) as archive:  # fmt: skip
        for _ in range(draw(st.integers(1, 6))):
            info = tarfile.TarInfo(draw(names))
            info.type = draw(st.sampled_from(KINDS))
            info.mtime = draw(st.sampled_from([0, 1.5, 8**11 + 1, -3]))
            info.uid = draw(st.sampled_from([0, 8**7 + 1]))
            info.linkname = "elsewhere" if info.type in KINDS[3:5] else ""
            info.pax_headers = draw(headers)
            data = draw(st.binary(max_size=1200)) if info.isreg() else b""
            info.size = len(data)
            try:
                archive.addfile(info, io.BytesIO(data))
            except (ValueError, UnicodeError):  # this format cannot say it
                continue
    return buffer.getvalue()


def by_tarfile(data: bytes) -> list[Member] | None:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            members = [member_of(info) for info in archive]
            rest = data[archive.offset :]
    except (tarfile.TarError, ValueError, OverflowError):
        return None
    return members if len(rest) >= 512 and not any(rest) else None


def ours(data: bytes) -> list[Member] | None:
    try:
        return list(read_members(io.BytesIO(data)))
    except (tarfile.TarError, ValueError, OverflowError):
        return None


@settings(max_examples=100, deadline=None)
@given(archives())
def test_members_are_those_of_tarfile(data: bytes) -> None:
    assert ours(data) == by_tarfile(data)


@settings(max_examples=80, deadline=None)
@given(archives(), st.data())
def test_damage_is_told_where_tarfile_tells_it(data: bytes, draw: st.DataObject) -> None:
    location = draw.draw(st.integers(0, len(data) - 1))
    if draw.draw(st.booleans()):
        changed = data[:location]
    else:
        changed = data[:location] + bytes([draw.draw(st.integers(0, 255))]) + data[location + 1 :]
    assert ours(changed) == by_tarfile(changed)


def plain_tar(kind: int = tarfile.PAX_FORMAT, **fields: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name in ("a.png", "é/" + "b" * 120 + ".png", "c.png"):
            info = tarfile.TarInfo(name)
            info.size = 600
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(bytes(600)))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_ordinary_archives_need_no_tarfile(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first member and the end: that is where the speed is."""
    data, calls = plain_tar(kind, mtime=1.5), 0
    original = tarfile.TarFile.next

    def counted(self: tarfile.TarFile) -> tarfile.TarInfo | None:
        nonlocal calls
        calls += 1
        return original(self)

    monkeypatch.setattr(tarfile.TarFile, "next", counted)
    assert [member.size for member in read_members(io.BytesIO(data))] == [600] * 3
    assert calls == 3  # opening, the first member again, the end


def test_a_number_in_base_256_and_a_header_of_1979(tmp_path: Path) -> None:
    data = bytearray(plain_tar(tarfile.GNU_FORMAT))
    second = 512 + 1024
    assert data[second + 156 : second + 157] == b"L"
    third = second + 1024 + 512 + 1024
    data[third + 124 : third + 136] = b"\x80" + (600).to_bytes(11, "big")
    data[third + 257 : third + 265] = bytes(8)  # no word ustar
    header = data[third : third + 512]
    total = sum(header) - sum(header[148:156]) + 8 * 32
    data[third + 148 : third + 156] = b"%06o\0 " % total
    members = ours(bytes(data))
    assert members == by_tarfile(bytes(data))
    assert members is not None
    assert members[2] == Member("c.png", third, third + 512, 600, Kind.FILE)


def test_an_extended_header_may_be_long() -> None:
    data = plain_tar(pax_headers={"comment": "x" * (tar_headers.MAX_EXTENDED + 1)})
    assert ours(data) == by_tarfile(data)
