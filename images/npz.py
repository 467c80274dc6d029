"""npz files: arrays of pixels, or image files laid end to end.

    data | images | x    [N,H,W] or [N,H,W,C], uint8 or uint16 pixels      labels  [N], optional
    data uint8 [B] with offsets [N+1]: image i is data[offsets[i]:offsets[i+1]]

Whole-number labels are named by the list in `classes.json` beside the file, if there is one.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from images.arrays import ArraySource, Contents, EncodedRows, name_labels
from images.errors import SourceError

PIXELS = ("data", "images", "x")


def open_npz(path: Path, name: str) -> ArraySource:
    """Open an npz of pixels or of encoded images; raises SourceError."""
    arrays = _load(path)
    contents = _contents(arrays, path)
    if len(contents) == 0:
        raise SourceError(f"{path} holds no images")
    labels, names = None, ()
    if "labels" in arrays:
        if arrays["labels"].shape != (len(contents),):
            raise SourceError(
                f"{path}: labels have shape {arrays['labels'].shape} for {len(contents)} images"
            )
        labels, names = name_labels(arrays["labels"], _class_names(path), path)
    return ArraySource(name, path, "npz", path.stem, contents, labels, names)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            wanted = {*PIXELS, "offsets", "labels"} & set(file.files)
            return {key: file[key] for key in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SourceError(f"{path} is no readable npz file: {error}") from error


def _contents(arrays: dict[str, NDArray[Any]], path: Path) -> Contents:
    key = next((key for key in PIXELS if key in arrays), None)
    if key is None:
        raise SourceError(f"{path} has none of the arrays {', '.join(PIXELS)}")
    pixels = arrays[key]
    if pixels.ndim == 1 and "offsets" in arrays:
        offsets = arrays["offsets"]
        return EncodedRows(pixels, offsets)
    return pixels


def _class_names(path: Path) -> tuple[str, ...]:
    file = path.with_name("classes.json")
    if not file.is_file():
        return ()
    try:
        names = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} is no JSON list of class names: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{file} is no JSON list of class names")
    return tuple(names)
