"""A checkpoint of TensorFlow: `NAME.index` and `NAME.data-00000-of-00001`, and so on.

The index is a sorted string table: under "" a BundleHeaderProto, under each variable's name a
BundleEntryProto,

    dtype 1, shape 2 (dimensions 2, each with its size 1), shard_id 3, offset 4, size 5, slices 7

and the data files are raw tensors, little-endian. The same files are the `variables/` of a
SavedModel, as TensorFlow Hub has it. Names of TensorFlow 2 end in `VALUE`, which is taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from base.errors import ArtifactError
from base.text import did_you_mean
from training.weights.tensorflow.sorted_table import read_table, varint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
SAVED_MODEL = "variables/variables.index"
LATEST = "checkpoint"  # names the last one of a folder
MAX_SIDES = 8
# numbers of DataType; others (strings, resources) are not weights
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 14: "<u2", 19: "<f2"}
_BFLOAT16 = 14


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a variable's numbers are."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    sliced: bool


def find_index(path: Path) -> Path | None:
    """Return the index that a path means; None: it means no checkpoint of TensorFlow.

    Args:
        path: the index, the name before ".index", the folder of a SavedModel, or a folder whose
            file "checkpoint" names the last one.

    Raises:
        ArtifactError: a folder that names a checkpoint which is not there.
    """
    if path.is_file():
        return path if path.suffix == ".index" else None
    if path.is_dir():
        if (path / SAVED_MODEL).is_file():
            return path / SAVED_MODEL
        return _latest(path)
    beside = path.with_name(path.name + ".index")
    return beside if beside.is_file() else None


def _latest(folder: Path) -> Path | None:
    if not (folder / LATEST).is_file():
        return None
    first = (folder / LATEST).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    key, _, name = first.partition(":")
    if key != "model_checkpoint_path":
        return None
    index = folder / f"{name.strip().strip(chr(34)).rpartition('/')[2]}.index"
    if not index.is_file():
        there = sorted(path.stem for path in folder.glob("*.index"))
        raise ArtifactError(
            f"{folder / LATEST} names {index.stem}, which is not there"
            f"{did_you_mean(index.stem, there)}"
        )
    return index


def read_bundle(index: Path) -> dict[str, Tensor]:
    """Return the variables of a checkpoint, by name; what are not numbers is left out.

    Raises:
        ArtifactError: damaged, in slices, big-endian, or without one of its data files.
    """
    entries, shards = _read_index(index)
    prefix = index.name.removesuffix(".index")
    files: dict[int, np.memmap[tuple[int], np.dtype[np.uint8]]] = {}
    tensors = {}
    for name, entry in entries:
        if entry.dtype not in _TYPES or name.startswith("_CHECKPOINTABLE"):
            continue
        if entry.sliced:
            raise ArtifactError(f"{index}: {name} was saved in slices; save it on one device")
        if entry.shard not in files:
            data = index.with_name(f"{prefix}.data-{entry.shard:05}-of-{shards:05}")
            if not data.is_file():
                raise ArtifactError(f"{index} needs {data.name} beside it")
            files[entry.shard] = np.memmap(data, np.uint8, "r")
        tensors[name.removesuffix(VALUE)] = _tensor(index, name, entry, files[entry.shard])
    return tensors


def _tensor(
    index: Path, name: str, entry: Entry, data: np.memmap[tuple[int], np.dtype[np.uint8]]
) -> Tensor:
    dtype = np.dtype(_TYPES[entry.dtype])
    needed = math.prod(entry.shape) * dtype.itemsize
    raw = data[entry.offset : entry.offset + entry.size]
    if len(raw) != needed:
        raise ArtifactError(
            f"{index}: {name} of shape {list(entry.shape)} needs {needed} bytes, and its data file "
            f"has {len(raw)} of them: it is cut off"
        )
    tensor = torch.from_numpy(np.array(raw).view(dtype).reshape(entry.shape))
    return tensor.view(torch.bfloat16) if entry.dtype == _BFLOAT16 else tensor


def _read_index(index: Path) -> tuple[list[tuple[str, Entry]], int]:
    entries, shards = [], 1
    for key, value in read_table(index.read_bytes(), str(index)):
        try:
            fields = list(_fields(value))
        except IndexError as error:
            raise ArtifactError(f"{index} is damaged: an entry is cut off") from error
        if not key:
            numbers = {number: v for number, v in fields if isinstance(v, int)}
            shards = numbers.get(1, 1)
            if numbers.get(2, 0):
                raise ArtifactError(f"{index} is big-endian: save it on another machine")
            continue
        entries.append((key.decode("utf-8", "backslashreplace"), _entry(index, fields)))
    return entries, shards


def _entry(index: Path, fields: list[tuple[int, int | bytes]]) -> Entry:
    numbers = {number: value for number, value in fields if isinstance(value, int)}
    shape: list[int] = []
    for number, value in fields:
        if number == 2 and isinstance(value, bytes):
            for inner, side in _fields(value):
                if inner == 2 and isinstance(side, bytes):
                    sizes = [v for n, v in _fields(side) if n == 1 and isinstance(v, int)]
                    shape.append(sizes[0] if sizes else 0)
    if len(shape) > MAX_SIDES:
        raise ArtifactError(f"{index} is damaged: a shape of {len(shape)} sides")
    return Entry(
        dtype=numbers.get(1, 0),
        shape=tuple(shape),
        shard=numbers.get(3, 0),
        offset=numbers.get(4, 0),
        size=numbers.get(5, 0),
        sliced=any(number == 7 for number, _ in fields),
    )


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: numbers, and bytes of what has a length."""
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = varint(message, position)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, position = varint(message, position)
        if position + size > len(message):
            raise IndexError("a field beyond its message")
        raw = message[position : position + size]
        position += size
        yield number, raw if kind == 2 else int.from_bytes(raw, "little")
