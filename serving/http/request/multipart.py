"""Multipart forms, read into memory.

Starlette's reader makes a temporary file, an `UploadFile` and a dozen awaits of every part; the
parser beneath it, python-multipart, does not. What a body may hold is limited before it gets here.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.http.request.errors import HttpError, malformed

MAX_FIELDS = 100


@dataclass(frozen=True, slots=True)
class FormEntry:
    """One field or file of a form.

    Attributes:
        name: of the field.
        filename: as the client named it; None: a field that is not a file.
        content: its bytes.
    """

    name: str
    filename: str | None
    content: bytes

    @property
    def text(self) -> str:
        """The content of a field that is not a file."""
        return _text(self.content)


class TooManyFiles(Exception):  # noqa: N818 - the caller says what it means
    """More files than may be sent."""


async def read_form(
    content_type: str, chunks: AsyncIterable[bytes], *, max_files: int
) -> list[FormEntry]:
    """Return the fields and files of a form in their order.

    Args:
        content_type: the request's header, with the boundary.
        chunks: the body.
        max_files: the most files.

    Raises:
        HttpError: not a multipart form, or one that ends before its closing boundary.
        TooManyFiles: more than max_files.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _unreadable("its Content-Type has no boundary")
    try:
        reader = _Reader(boundary, max_files)
        async for chunk in chunks:
            reader.feed(chunk)
    except FormParserError as error:
        raise _unreadable(str(error)) from error
    if not reader.complete:
        raise malformed("multipart", "the form ends before its closing boundary")
    return reader.entries


class _Reader:
    """Collects the entries that the parser reports."""

    def __init__(self, boundary: bytes, max_files: int) -> None:
        self.entries: list[FormEntry] = []
        self.complete = False
        self._max_files = max_files
        self._files = 0
        self._header = self._value = self._disposition = b""
        self._pieces: list[bytes] = []
        self._name, self._filename = "", None  # type: tuple[str, str | None]
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._add_data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def _begin(self) -> None:
        self._disposition, self._pieces = b"", []

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        """Refuse an entry before its content is read."""
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise _unreadable("a part has no name in its Content-Disposition")
        filename = options.get(b"filename")
        self._name = _text(options[b"name"])
        self._filename = None if filename is None else _text(filename)
        self._files += filename is not None
        if self._files > self._max_files:
            raise TooManyFiles
        if len(self.entries) - self._files >= MAX_FIELDS:
            raise _unreadable(f"it has more than {MAX_FIELDS} fields")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append(data[start:end])

    def _end(self) -> None:
        self.entries.append(FormEntry(self._name, self._filename, b"".join(self._pieces)))

    def _finish(self) -> None:
        self.complete = True


def _text(content: bytes) -> str:
    """UTF-8, or what old clients send."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _unreadable(why: str) -> HttpError:
    return malformed("multipart", f"the form cannot be read: {why}")
