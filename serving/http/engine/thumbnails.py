"""Small images of a collection's items, for the web page.

An item that came from a file or an archive is opened again through its uri, unless its thumbnail is
kept in the collection's folder (`serving.collection.thumbnails`): `extract --thumbnails` made it
then. An item that was sent over HTTP has no file: its thumbnail is kept when it is added. A uri
that a client has sent is never opened (`CLIENT_SCHEMES`): it would let a client read any image that
the service can.
"""

import threading
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path

from base.errors import ImageRefused
from base.files import write_bytes_atomic
from images.pixels.decode import decode
from images.pixels.preprocess import PreprocessSpec
from images.pixels.thumbnails import thumbnail, thumbnail_of
from images.sources.sources import read_uri
from serving.collection import Record
from serving.collection.thumbnails import KEPT_SIZE, kept_path, kept_thumbnail
from serving.http.json_text import show
from serving.http.request.errors import HttpError

SIZES = (96, 192, KEPT_SIZE)
MEDIA_TYPE = "image/webp"
CLIENT_SCHEMES = ("http://", "https://", "upload:")
REMEMBERED = 2 * 1024 * 1024  # bytes: some 500 thumbnails


class Thumbnails:
    """Makes, keeps and remembers thumbnails; safe to use from several threads."""

    def __init__(self, folder: Path | None, spec: PreprocessSpec, *, max_pixels: int) -> None:
        self._folder = folder
        self._spec = spec
        self._max_pixels = max_pixels
        self._made: OrderedDict[tuple[str, str | None, str, int], bytes] = OrderedDict()
        self._remembered = 0  # bytes of them
        self._lock = threading.Lock()

    def of(self, item: Record, size: int) -> bytes:
        """Return a WebP image whose longer side is at most one of `SIZES`, the next to `size`.

        Raises:
            HttpError: there is no image of this item (any more).
        """
        size = min(SIZES, key=lambda offered: abs(offered - size))
        cached = (item.key, item.sha256, item.uri, size)
        with self._lock:
            if cached in self._made:
                self._made.move_to_end(cached)
                return self._made[cached]
        image = self._make(item, size)
        with self._lock:
            self._drop(cached)  # another thread may have made it meanwhile
            self._made[cached] = image
            self._remembered += len(image)
            while self._remembered > REMEMBERED:
                self._drop(next(iter(self._made)))
        return image

    def to_keep(self, content: bytes) -> bytes | None:
        """Return the thumbnail to `keep` of an image that was sent; None where none is kept."""
        if self._folder is None:
            return None
        return kept_thumbnail(content, self._spec, max_pixels=self._max_pixels)

    def keep(self, key: str, sha256: str, image: bytes) -> None:
        """Keep the thumbnail of an image that was sent; the image itself is not kept."""
        if self._folder is None:
            return
        path = kept_path(self._folder, key, sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, image)

    def forget(self, item: Record) -> None:
        """Remove a kept thumbnail, if there is one."""
        if item.sha256 is not None and self._folder is not None:
            kept_path(self._folder, item.key, item.sha256).unlink(missing_ok=True)
        with self._lock:
            for size in SIZES:
                self._drop((item.key, item.sha256, item.uri, size))

    def _drop(self, cached: tuple[str, str | None, str, int]) -> None:
        self._remembered -= len(self._made.pop(cached, b""))

    def _make(self, item: Record, size: int) -> bytes:
        try:
            if item.uri.startswith(CLIENT_SCHEMES) or self._is_kept(item):
                return thumbnail(decode(self._kept(item)), size)
            content = read_uri(item.uri)
            return thumbnail_of(content, self._spec, size, max_pixels=self._max_pixels)
        except (ImageRefused, OSError) as error:
            raise no_thumbnail(item) from error

    def _is_kept(self, item: Record) -> bool:
        return (
            item.sha256 is not None
            and self._folder is not None
            and kept_path(self._folder, item.key, item.sha256).is_file()
        )

    def _kept(self, item: Record) -> bytes:
        if item.sha256 is None or self._folder is None:
            raise no_thumbnail(item)
        return kept_path(self._folder, item.key, item.sha256).read_bytes()


def no_thumbnail(item: Record) -> HttpError:
    """Return the refusal where there is no image of an item: 404."""
    message = f"there is no picture of {show(item.key)}: its file is gone or was never here"
    return HttpError(HTTPStatus.NOT_FOUND, "no-thumbnail", message, param="key")
