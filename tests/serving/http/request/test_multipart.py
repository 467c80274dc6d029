"""Multipart forms: whatever way they are cut, what is in them, and what is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from serving.http.request.errors import HttpError
from serving.http.request.multipart import MAX_FIELDS, FormEntry, TooManyFiles, read_form

IMAGE = bytes(range(256)) * 3 + b"\r\n--not the boundary\r\n--"
TYPE = "multipart/form-data; boundary=edge"


def form(*entries: tuple[bytes, bytes], end: bytes = b"--edge--\r\n") -> bytes:
    """A form of (what its Content-Disposition says, content)."""
    head = b"--edge\r\nX-Other: 1\r\nContent-Disposition: form-data"
    return (
        b"".join(head + said + b"\r\n\r\n" + content + b"\r\n" for said, content in entries) + end
    )


def read(
    body: bytes, *, size: int = 2**16, files: int = 9, content_type: str = TYPE
) -> list[FormEntry]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return asyncio.run(read_form(content_type, chunks(), max_files=files))


@pytest.mark.parametrize("size", [1, 7, 300, 2**16])
def test_entries_are_the_same_however_the_body_comes(size: int) -> None:
    body = form(
        (b'; name="images"; filename="a b.jpg"', IMAGE),
        (b'; name="k"', b"5"),
        (b"; name=images; filename=b", b""),
        (b'; name="\xc3\xa4"; filename="\xe4"', b"x"),
    )
    assert read(body, size=size) == [
        FormEntry("images", "a b.jpg", IMAGE),
        FormEntry("k", None, b"5"),
        FormEntry("images", "b", b""),
        FormEntry("\u00e4", "\u00e4", b"x"),
    ]


def test_a_field_is_text_in_utf_8_or_as_old_clients_send_it() -> None:
    entries = read(form((b"; name=a", "\u00fc".encode()), (b"; name=b", b"\xfc")))
    assert [entry.text for entry in entries] == ["\u00fc", "\u00fc"]


def test_as_many_files_and_fields_as_are_allowed() -> None:
    files = [(b"; name=images; filename=a", b"x")] * 3
    fields = [(b"; name=k", b"5")] * MAX_FIELDS
    assert len(read(form(*files, *fields), files=3)) == 3 + MAX_FIELDS
    with pytest.raises(TooManyFiles):
        read(form(*files), files=2)
    with pytest.raises(HttpError, match="more than 100 fields"):
        read(form(*fields, *fields[:1]))


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (form(), "multipart/form-data", "no boundary"),
        (form(), "multipart/form-data; boundary=", "no boundary"),
        (form(), f"multipart/form-data; boundary={'x' * 1000}", "cannot be read"),
        (b"", TYPE, "ends before its closing boundary"),
        (b"garbage", TYPE, "cannot be read"),
        (form((b"; name=a", b"1"), end=b""), TYPE, "ends before its closing boundary"),
        (form((b"; filename=a", b"1")), TYPE, "a part has no name"),
    ],
)
def test_what_is_no_form(body: bytes, content_type: str, why: str) -> None:
    with pytest.raises(HttpError, match=why) as caught:
        read(body, content_type=content_type)
    assert (caught.value.status, caught.value.type) == (400, "malformed-multipart")
