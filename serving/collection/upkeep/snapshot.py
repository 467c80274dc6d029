"""Snapshots: the index of one moment on the disk, so that opening does not build it again.

A snapshot is a cache. The ledger can always replace it, and nothing is lost with it. In the
collection's folder:

    index/manifest.json       what is below, written last: {"format_version", "generation",
                              "sequence", "rows", "dim", "kind", "scale", "effort", "spread",
                              "tuned_items", "in_file", "bytes_held", "recall",
                              "files": {name: {"file", "bytes", "sha256"}}}
    index/ids-<sequence>      int64 little-endian [rows]: items' numbers, ascending
    index/vectors-<sequence>  float32 little-endian [rows, dim]: their vectors
    index/nodes-<sequence>    int64 little-endian: the proposer's items in the order of its nodes
    index/graph-<sequence>    FAISS's serialization of the proposer, a graph or what "kind" names

The last two are there if the collection has a proposer. "recall" is what was measured of it, as
`index_selection` has it. With "in_file" the vectors are not read into memory but mapped (`mapped`).

Saving: (1) each file is written under a temporary name, synced and renamed, (2) then the manifest,
atomically, (3) then files that it does not name are deleted. A crash leaves the old snapshot or the
new one. Loading trusts nothing: the sizes and SHA-256 of all files are checked (FAISS itself
loads a flipped bit without a word), and a sample of the vectors and the number of items are
compared with the ledger, so a snapshot of another ledger or of a later state than a restored backup
is noticed. A snapshot that fails is not used, and a warning says why.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.errors import ArtifactError
from base.files import atomic_write, write_json_atomic
from serving.collection.index.factory import Factory
from serving.collection.index.flat_index import GROWTH, FlatIndex
from serving.collection.index.graph import Graph
from serving.collection.index.index import Index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

    from serving.collection.index.proposer import Proposer
    from serving.collection.ledger.view import View

FOLDER = "index"
MANIFEST = "manifest.json"
FORMAT_VERSION = 1
BLOCK = 16 * 2**20  # bytes read and hashed at a time
SAMPLE = 256  # vectors compared with the ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot.

    Attributes:
        index: of the moment it was saved.
        measured: what was measured of it (`index_selection`), None if nothing was.
        in_file: whether the vectors are to stay in their file.
    """

    index: Index
    measured: dict[str, Any] | None
    in_file: bool = False


def save(folder: Path, snapshot: Snapshot, generation: str) -> FlatIndex | None:
    """Write a snapshot in place of the one before; for one process at a time.

    Args:
        folder: the collection's.
        snapshot: what to save.
        generation: of the ledger.

    Returns:
        the vectors that were saved, if they are to be read from elsewhere now: from this snapshot's
        file, or from memory.

    Raises:
        LookalikeError: it cannot be written; the one before stays.
    """
    index, target = snapshot.index, folder / FOLDER
    target.mkdir(exist_ok=True)
    flat, proposer = index.flat, index.proposer
    ids = flat.living_ids
    contents = {"ids": _blocks(ids.astype("<i8", copy=False)), "vectors": _living_blocks(flat)}
    if proposer is not None:
        contents["nodes"] = _blocks(proposer.ids.astype("<i8", copy=False))
        contents["graph"] = _blocks(proposer.to_bytes())
    files = {
        name: _write(target, f"{name}-{flat.sequence}", blocks) for name, blocks in contents.items()
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "generation": generation,
        "sequence": flat.sequence,
        "rows": len(ids),
        "dim": flat.vectors.shape[1],
        "kind": proposer and proposer.kind,
        "scale": proposer.scale if isinstance(proposer, Graph) else None,
        "effort": proposer and proposer.effort,
        "spread": proposer and proposer.spread,
        "tuned_items": proposer.tuned_items if isinstance(proposer, Factory) else None,
        "in_file": snapshot.in_file,
        "bytes_held": index.nbytes,
        "recall": snapshot.measured,
        "files": files,
    }
    write_json_atomic(target / MANIFEST, manifest)
    named = {MANIFEST, *(file["file"] for file in files.values())}
    for file in target.iterdir():
        if file.name not in named:
            file.unlink(missing_ok=True)
    if not len(ids) or (snapshot.in_file == flat.in_file and not (flat.in_file and flat.in_memory)):
        return None
    with (target / files["vectors"]["file"]).open("rb") as opened:
        if snapshot.in_file:
            return FlatIndex.mapped(ids, opened, flat.vectors.shape[1], sequence=flat.sequence)
    vectors = flat.vectors if flat.live is None else flat.vectors[flat.live]
    return FlatIndex.of(np.array(ids), np.array(vectors), sequence=flat.sequence)


def drop(folder: Path) -> None:
    """Invalidate a snapshot whose ledger is about to change its vectors."""
    (folder / FOLDER / MANIFEST).unlink(missing_ok=True)


def load(folder: Path, view: View) -> Snapshot | None:
    """Return the snapshot if it is one of this ledger, else None; a warning then says why."""
    target = folder / FOLDER
    if not (target / MANIFEST).exists():
        return None
    try:
        return read(target, view)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, ArtifactError) as error:
        log.warning(
            "%s is not used (%s): vectors are read from the ledger; make it anew with: "
            "lookalike collection tune %s",
            target,
            error,
            folder,
        )
        return None


def read(target: Path, view: View) -> Snapshot:
    """Read a snapshot and check everything in it.

    Raises:
        OSError, ValueError, KeyError, TypeError, OverflowError, ArtifactError: saying why it cannot
            be used.
    """
    manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION or manifest["dim"] != view.dim:
        raise ValueError("it is of another format or dimension")
    files, sequence, rows = manifest["files"], manifest["sequence"], manifest["rows"]
    # a ledger without a generation may have a snapshot of before there were any
    if manifest.get("generation", "") != view.generation:
        raise ValueError("it is of another ledger")
    if not 0 <= sequence <= view.sequence:
        raise ValueError("it is newer than the ledger, or older than any")
    ids = _read(target, files["ids"]).view("<i8")
    if len(ids) != rows or (np.diff(ids) <= 0).any():
        raise ValueError("its numbers are not in order")
    in_file = bool(manifest.get("in_file")) and rows > 0
    with _opened(target, files["vectors"]) as file:
        if in_file:
            _check(file, files["vectors"], None)
            flat = FlatIndex.mapped(ids, file, view.dim, sequence=sequence)
        else:
            if files["vectors"]["bytes"] != 4 * rows * view.dim:
                raise ValueError("its vectors are of another number")
            # With room behind them: adding the first item must not copy all of them.
            vectors = np.empty((int(GROWTH * rows), view.dim), "<f4")
            _check(file, files["vectors"], vectors[:rows].view(np.uint8).reshape(-1))
            flat = FlatIndex.of(ids, vectors, sequence=sequence)
    _compare(view, sequence, ids, flat.vectors)
    measured = manifest["recall"]
    if measured is not None and "kind" not in measured:  # of before there were kinds: measure anew
        measured = None
    return Snapshot(Index(flat, _proposer(target, manifest)), measured, in_file)


def saved_facts(folder: Path) -> dict[str, Any]:
    """Return the manifest's facts of the index, which is not read; {} if there is no manifest."""
    try:
        manifest = json.loads((folder / FOLDER / MANIFEST).read_text(encoding="utf-8"))
        names = ("kind", "in_file", "bytes_held", "rows", "recall")
        return {name: manifest.get(name) for name in names}
    except (OSError, ValueError, AttributeError):
        return {}


def _proposer(target: Path, manifest: dict[str, Any]) -> Proposer | None:
    files = manifest["files"]
    if "graph" not in files:
        return None
    nodes, data = _read(target, files["nodes"]).view("<i8"), _read(target, files["graph"])
    effort = int(manifest["effort"])
    if manifest["scale"] is not None:
        return Graph.from_bytes(data, nodes, float(manifest["scale"]), effort)
    tuned = (effort, int(manifest["spread"]), int(manifest["tuned_items"]))
    return Factory.from_bytes(data, nodes, manifest["kind"], dim=manifest["dim"], tuned=tuned)


def _compare(
    view: View, sequence: int, ids: NDArray[np.int64], vectors: NDArray[np.float32]
) -> None:
    """Check that it is a snapshot of this very ledger."""
    if sequence < view.pruned:
        existing = view.ids()
        if not np.isin(existing[existing <= sequence], ids, assume_unique=True).all():
            raise ValueError("the ledger has items of then that it does not have")
    elif view.count_at(sequence) != len(ids):
        raise ValueError("the ledger had another number of items then")
    for row in np.unique(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).astype(int)):
        stored = view.vector(int(ids[row]))
        if stored is not None and not np.array_equal(stored, vectors[row]):
            raise ValueError(f"the vector of item {ids[row]} is another one in the ledger")


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    data = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
    for start in range(0, len(data), BLOCK):
        yield data[start : start + BLOCK]


def _living_blocks(flat: FlatIndex) -> Iterator[memoryview]:
    """Yield the vectors of rows that are not masked, never all of them in memory."""
    rows = max(1, BLOCK // (4 * flat.vectors.shape[1]))
    for start in range(0, flat.count, rows):
        vectors = flat.vectors[start : start + rows]
        if flat.live is not None:
            vectors = vectors[flat.live[start : start + rows]]
        yield from _blocks(vectors.astype("<f4", copy=False))


def _write(target: Path, name: str, blocks: Iterator[memoryview]) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with atomic_write(target / name) as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
            size += len(block)
    return {"file": name, "bytes": size, "sha256": digest.hexdigest()}


def _opened(target: Path, entry: dict[str, Any]) -> BinaryIO:
    if "/" in entry["file"] or entry["file"].startswith("."):
        raise ValueError(f"it names {entry['file']!r}, which is not in its folder")
    file: BinaryIO = (target / entry["file"]).open("rb")
    if os.fstat(file.fileno()).st_size != entry["bytes"]:
        file.close()
        raise ValueError(f"{entry['file']} has another size")
    return file


def _read(target: Path, entry: dict[str, Any]) -> NDArray[np.uint8]:
    """Return a file's bytes, checked."""
    with _opened(target, entry) as file:
        data = np.empty(entry["bytes"], np.uint8)
        _check(file, entry, data)
    return data


def _check(file: BinaryIO, entry: dict[str, Any], data: NDArray[np.uint8] | None) -> None:
    """Compare a file with its checksum; its bytes are read into `data` on the way.

    A block is hashed while the next one is read: both take about as long.
    """
    digest, filled, size = hashlib.sha256(), 0, int(entry["bytes"])
    spare = itertools.cycle(np.empty((2, min(BLOCK, size)), np.uint8) if data is None else ())
    hashed: Future[None] | None = None
    with ThreadPoolExecutor(1) as hasher:
        while filled < size:
            room = (next(spare) if data is None else data[filled:])[: min(BLOCK, size - filled)]
            count = file.readinto(room.data)  # type: ignore[attr-defined]
            if not count:
                break
            if hashed is not None:
                hashed.result()
            hashed = hasher.submit(digest.update, room.data[:count])
            filled += count
    if filled != size or digest.hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} is damaged")
