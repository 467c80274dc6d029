"""From an item's uri back to its content, without the source it came from.

    /photos/1.jpg, file:///…        a file; file: is for names that are not UTF-8
    s3://…, hf://…, memory://…      a file behind a URL
    tar:///a.tar#cat/1.jpg@512      a member of an archive, and where its header is
    zip:///a.zip#cat/1.jpg@0        likewise
    parquet:///a.parquet#12         a row; #12@photo of a column that the user chose
    idx:///a#12  npz:///a.npz#12    an array's image; likewise cifar10-train: and cifar10-test:

Path and member are percent-encoded. For an archive behind a URL its scheme follows a plus:
`tar+s3://bucket/a.tar#cat/1.jpg@512`.
"""

from pathlib import Path
from urllib.parse import unquote

from base.errors import ImageRefused, RefusalReason, SourceError
from images.items import Content
from images.sources.arrays import Opener, read_image
from images.sources.cifar10 import open_test_batches, open_train_batches
from images.sources.idx import open_idx
from images.sources.locations import read_location, size_and_stamp, split_uri
from images.sources.npz import open_npz
from images.sources.parquet import read_parquet_uri
from images.sources.paths import read_file, uri_to_path
from images.sources.tar_archive import read_tar_uri
from images.sources.zip_archive import read_zip_uri

_ARRAYS: dict[str, Opener] = {
    "idx": open_idx,
    "npz": open_npz,
    "cifar10-train": open_train_batches,
    "cifar10-test": open_test_batches,
}
_ARCHIVES = {"tar": read_tar_uri, "zip": read_zip_uri}
OWN_SCHEMES = frozenset({*_ARRAYS, *_ARCHIVES, "parquet"})


def read_uri(uri: str) -> Content:
    """Open one item again: for thumbnails and for embedding anew.

    Args:
        uri: as an Item has it.

    Returns:
        What the item's `read` returned: an image file's bytes, or an array.

    Raises:
        ImageRefused: UNREADABLE, if the file or the item is gone, or the uri is of another kind;
            and what the item's `read` raised.
    """
    if uri.startswith(("/", "file://")) or "://" not in uri:
        return read_file(str(uri_to_path(uri)))
    if own_scheme(uri) is None:
        return read_location(uri)
    try:
        return _read_item(*split_uri(uri))
    except (OSError, SourceError, LookupError, ValueError) as error:
        raise ImageRefused(RefusalReason.UNREADABLE, f"cannot read {uri}: {error}") from error


def stamp_of(uri: str) -> str | None:
    """Return a text that changes whenever what lies at a uri may have changed, or None.

    It is made of length and time of the last change, of an archive or array file as a whole: as
    long as it stays, so does everything in it. None: nothing is there, or its time is not known.
    """
    try:
        if uri.startswith(("/", "file://")) or "://" not in uri:
            return size_and_stamp(str(uri_to_path(uri)))[1]
        location = split_uri(uri)[1] if own_scheme(uri) else uri
        return size_and_stamp(location)[1]
    except (OSError, SourceError, ValueError):
        return None


def own_scheme(uri: str) -> str | None:
    """Return which of OWN_SCHEMES a uri has, or None."""
    scheme = uri.partition("://")[0].partition("+")[0]
    return scheme if scheme in OWN_SCHEMES else None


def _read_item(scheme: str, location: str, fragment: str) -> Content:
    if scheme in _ARCHIVES:
        member, _, offset = fragment.rpartition("@")
        return _ARCHIVES[scheme](location, unquote(member), _number(offset))
    if scheme == "parquet":
        row, at, column = fragment.partition("@")
        return read_parquet_uri(location, _number(row), unquote(column) if at else None)
    return read_image(_ARRAYS[scheme], Path(location), _number(fragment))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise LookupError(f"{text!r} is not the number of an image")
    return int(text)
