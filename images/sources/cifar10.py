"""The name `cifar10`: 60,000 color images of 32 px in 10 classes (Krizhevsky 2009).

It is read from the official archives, as they are or unpacked, and never downloaded. The python
version is a pickle: what unpickles it here knows four harmless names, and raises at any other, so
that nothing in a file can run.
"""

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base.errors import SourceError
from images.sources.arrays import ArraySource, name_labels

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SPLITS = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
ENVIRONMENT = "LOOKALIKE_DATA"
_VALUES = 32 * 32 * 3
_LARGEST = 2**26  # bytes of a batch; the real ones have 31 million

Pair = tuple[NDArray[np.uint8], NDArray[np.int64]]


def open_cifar10(split: str, name: str) -> ArraySource:
    """Open a split, `train` (50,000) or `test` (10,000).

    Raises:
        SourceError: it is not on this machine, or damaged; the message says where to put it.
    """
    for folder in _locations():
        for entry in (*FOLDERS, *ARCHIVES):
            if os.path.exists(folder / entry):  # noqa: PTH110 - quiet where it is forbidden
                return open_batches(folder / entry, split, name)
    raise SourceError(
        f"{name} is not on this machine: put cifar-10-python.tar.gz or cifar-10-binary.tar.gz from "
        f"https://www.cs.toronto.edu/~kriz/cifar.html into {_default_location()}, or into a folder "
        f"that the variable {ENVIRONMENT} names, or give its path as SOURCE"
    )


def is_cifar10(path: Path) -> bool:
    """Return whether a path is an official archive, by its name, or its unpacked folder."""
    if path.name in ARCHIVES:
        return True
    return any((path / f"test_batch{suffix}").is_file() for suffix in ("", ".bin"))


def open_batches(path: Path, split: str, name: str) -> ArraySource:
    """Open a split of an archive or folder.

    Raises:
        SourceError: it is damaged.
    """
    batches = SPLITS[split]
    content = dict(_read_batches(path, batches))
    if missing := [batch for batch in batches if batch not in content]:
        raise SourceError(f"{path} is not whole: {', '.join(missing)} is missing; fetch it anew")
    images, labels = zip(*(content[batch] for batch in batches), strict=True)
    return ArraySource(
        name=name,
        path=path,
        scheme=f"cifar10-{split}",
        prefix=split,
        contents=np.concatenate(images),
        labels=name_labels(np.concatenate(labels), CLASSES, path),
        open_file=open_train_batches if split == "train" else open_test_batches,
    )


def open_train_batches(path: Path, name: str) -> ArraySource:
    """Open the training split of an archive or folder; raises as `open_batches`."""
    return open_batches(path, "train", name)


def open_test_batches(path: Path, name: str) -> ArraySource:
    """Open the test split of an archive or folder; raises as `open_batches`."""
    return open_batches(path, "test", name)


def _locations() -> Iterator[Path]:
    if folder := os.environ.get(ENVIRONMENT):
        yield Path(folder)
        yield Path(folder) / "cifar10"
    yield _default_location()


def _default_location() -> Path:
    return Path(os.path.expanduser("~/.cache/lookalike/cifar10"))  # noqa: PTH111 - never raises


def _read_batches(path: Path, batches: list[str]) -> Iterator[tuple[str, Pair]]:
    batch_of = {f"{batch}{suffix}": batch for batch in batches for suffix in ("", ".bin")}
    try:
        if path.is_dir():
            for file in sorted(path.iterdir()):
                if file.name in batch_of:
                    yield batch_of[file.name], _pair(file.read_bytes(), path / file.name)
            return
        with tarfile.open(path) as archive:
            for member in archive:
                last = member.name.rpartition("/")[2]
                if last in batch_of and member.isfile() and member.size <= _LARGEST:
                    content = archive.extractfile(member)
                    assert content is not None
                    yield batch_of[last], _pair(content.read(), path / last)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise SourceError(f"{path} is damaged or cannot be read: {error}") from error


def _pair(data: bytes, path: Path) -> Pair:
    """Return images [N,32,32,3] and labels [N] of a batch in either version."""
    rows = _binary(data) if path.suffix == ".bin" else _pickled(data, path)
    if rows is None:
        raise SourceError(f"{path} is not a batch of CIFAR-10; fetch it anew")
    planes, labels = rows
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _binary(data: bytes) -> Pair | None:
    """Rows of a label byte and 3,072 bytes: the red plane, then green, then blue."""
    if not data or len(data) % (_VALUES + 1):
        return None
    rows = np.frombuffer(data, np.uint8).reshape(-1, _VALUES + 1)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _pickled(data: bytes, path: Path) -> Pair | None:
    """Return a dictionary with `data`, an array [N,3072] of uint8, and `labels`, a list."""
    try:
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        array, labels = batch[b"data"], batch[b"labels"]
        if not isinstance(array, _Array):
            return None
        values = np.frombuffer(array.data, np.uint8).reshape(-1, _VALUES)
        numbers = np.array([int(label) for label in labels], np.int64)
    except _Forbidden as error:
        raise SourceError(f"{path} is refused: its pickle asks for {error}") from error
    except Exception:  # noqa: BLE001 - a damaged pickle raises nearly anything
        return None
    return (values, numbers) if len(values) == len(numbers) > 0 else None


class _Forbidden(Exception):  # noqa: N818 - never leaves this module
    """A pickle wants something else than an array."""


class _Array:
    """Stands in for the arrays in a pickle: keeps their bytes, and builds nothing."""

    data = b""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if isinstance(state[-1], bytes):
            self.data = state[-1]


def _new_array(*_: object) -> _Array:
    return _Array()


def _latin1(text: str, *_: object) -> bytes:
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    _NAMES: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _new_array,
        ("numpy._core.multiarray", "_reconstruct"): _new_array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Array,
        ("_codecs", "encode"): _latin1,  # how Python 3 writes bytes for Python 2
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._NAMES:
            raise _Forbidden(f"{module}.{name}")
        return self._NAMES[module, name]
