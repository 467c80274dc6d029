"""npz files (NumPy's zip of arrays): pixels, or image files laid end to end.

    data | images | x   [N,H,W] or [N,H,W,C] pixels, uint8, uint16 or bool; where the user says
                        which range counts, any numbers
    data, offsets       uint8 [B], whole numbers [N+1]: file i is data[offsets[i]:offsets[i+1]]
    labels              [N], optional: whole numbers or text

Whole-number labels are named by the JSON list in `classes.json` beside the file, if there is one.
Nothing in the file is executed: pickled arrays are refused.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import SourceError
from base.text import one_line
from images.sources.arrays import ArraySource, Contents, EncodedRows, Labels, name_labels
from images.sources.npz_members import map_members

PIXEL_ARRAYS = ("data", "images", "x")
_CHANNELS = {1, 3, 4}


def open_npz(path: Path, name: str) -> ArraySource:
    """Open an npz of pixels or of encoded images.

    Raises:
        SourceError: the file is damaged, has other arrays, or its arrays do not fit together.
    """
    arrays = _load(path)
    contents = _contents(arrays, path)
    if len(contents) == 0:
        raise SourceError(f"{path} holds no images")
    labels = Labels()
    if "labels" in arrays:
        values = arrays["labels"]
        if values.shape != (len(contents),) or values.dtype.kind not in "iuUb":
            message = f"{path}: labels are {_describe(values)}, not one number or text an image"
            raise SourceError(f"{message} ({len(contents)})")
        labels = name_labels(values, _class_names(path, values), path)
    return ArraySource(name, path, "npz", path.stem, contents, labels, open_npz)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise SourceError(f"{path} is not an npz file: it is not a zip archive, or is truncated")
    try:
        names, arrays = map_members(path, (*PIXEL_ARRAYS, "offsets", "labels"))
    except Exception as error:  # a damaged zip makes NumPy raise nearly anything
        raise SourceError(f"{path} is not a readable npz file: {one_line(error)}") from error
    if not arrays.keys() & set(PIXEL_ARRAYS):
        message = f"{path} holds the arrays {', '.join(names) or '(none)'}"
        raise SourceError(f"{message}; images go by {', '.join(PIXEL_ARRAYS)}")
    return arrays


def _contents(arrays: dict[str, NDArray[Any]], path: Path) -> Contents:
    key = next(key for key in PIXEL_ARRAYS if key in arrays)
    pixels = arrays[key]
    if pixels.ndim == 1 and "offsets" in arrays:
        return _encoded_rows(pixels, arrays["offsets"], path)
    if pixels.dtype.kind not in "uifb":
        raise SourceError(f"{path}: {key} is {_describe(pixels)}; store pixels as uint8, 0 to 255")
    if pixels.ndim == 3 or (pixels.ndim == 4 and _are_channels(*pixels.shape[1:])):
        return pixels
    hint = "[N,H,W] or [N,H,W,C]"
    if pixels.ndim == 4 and pixels.shape[1] in _CHANNELS:
        hint += "; move the channels last: transpose(0, 2, 3, 1)"
    raise SourceError(f"{path}: {key} is {_describe(pixels)}; images are {hint}")


def _are_channels(height: int, width: int, channels: int) -> bool:
    """Return whether the last length is one of channels, and not of an image's side."""
    return channels in _CHANNELS or (height not in _CHANNELS and channels <= max(height, width))


def _encoded_rows(data: NDArray[Any], offsets: NDArray[Any], path: Path) -> EncodedRows:
    if data.dtype != np.uint8 or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
        message = f"{path}: data is {_describe(data)} and offsets {_describe(offsets)}"
        raise SourceError(f"{message}; image files are uint8 [B] with whole offsets [N+1]")
    if (
        offsets.size == 0
        or offsets[0] < 0
        or offsets[-1] > data.size
        or np.any(offsets[1:] < offsets[:-1])
    ):
        message = f"{path}: offsets must rise from 0 to at most the {data.size} bytes of data"
        raise SourceError(message)
    return EncodedRows(data, offsets)


def _class_names(path: Path, labels: NDArray[Any]) -> tuple[str, ...]:
    file = path.with_name("classes.json")
    if labels.dtype.kind not in "iu" or not file.is_file():
        return ()
    try:
        names = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} is not a JSON list of class names: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{file} is not a JSON list of class names")
    return tuple(names)


def _describe(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
