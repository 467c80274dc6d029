"""Snapshots: the index of one moment on the disk, so that opening does not build it again.

A snapshot is a cache. The ledger can always replace it, and nothing is lost with it. In the
collection's folder:

    index/manifest.json       what is below, written last: {"format_version", "generation",
                              "sequence", "rows", "dim", "scale", "effort", "recall",
                              "files": {name: {"file", "bytes", "sha256"}}}
    index/ids-<sequence>      int64 little-endian [rows]: items' numbers, ascending
    index/vectors-<sequence>  float32 little-endian [rows, dim]: their vectors
    index/nodes-<sequence>    int64 little-endian: the items of the graph in the order of its nodes
    index/graph-<sequence>    FAISS's serialisation of the graph

The last two are there if the collection has a graph. Saving: (1) each file is written under a
temporary name, synced and renamed, (2) then the manifest, atomically, (3) then files that it does
not name are deleted. A crash leaves the old snapshot or the new one. Loading believes nothing: the
sizes and SHA-256 of all files are checked (FAISS itself loads a flipped bit without a word), and a
sample of the vectors and the number of items are compared with the ledger, so a snapshot of another
ledger or of a later state than a restored backup is noticed. What does not hold is not used, and a
warning says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from images.errors import ArtefactError
from images.files import atomic_write, write_json_atomic
from serving.collection.graph import Graph
from serving.collection.index import FlatIndex
from serving.collection.mixed import Index

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from serving.collection.transactions import View

FOLDER = "index"
MANIFEST = "manifest.json"
FORMAT_VERSION = 1
BLOCK = 16 * 2**20  # bytes read and hashed at a time
SAMPLE = 256  # vectors compared with the ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot holds.

    Attributes:
        index: of the moment it was saved.
        recall: what was measured of its graph, as ``tuning.Recall.to_dict`` gives it; None without.
    """

    index: Index
    recall: dict[str, Any] | None


def save(folder: Path, snapshot: Snapshot, generation: str) -> None:
    """Write a snapshot in place of the one before; for one process at a time.

    Args:
        folder: the collection's.
        snapshot: what to save.
        generation: of the ledger.

    Raises:
        LookalikeError: it cannot be written; the one before stays.
    """
    index, target = snapshot.index, folder / FOLDER
    target.mkdir(exist_ok=True)
    flat, graph = index.flat, index.graph
    ids, vectors = flat.ids, flat.vectors
    if flat.live is not None:
        ids, vectors = ids[flat.live], vectors[flat.live]
    parts = {"ids": ids.astype("<i8", copy=False), "vectors": vectors.astype("<f4", copy=False)}
    if graph is not None:
        parts |= {"nodes": graph.ids.astype("<i8", copy=False), "graph": graph.to_bytes()}
    files = {name: _write(target, f"{name}-{flat.sequence}", part) for name, part in parts.items()}
    manifest = {
        "format_version": FORMAT_VERSION,
        "generation": generation,
        "sequence": flat.sequence,
        "rows": len(ids),
        "dim": vectors.shape[1],
        "scale": graph and graph.scale,
        "effort": graph and graph.effort,
        "recall": snapshot.recall,
        "files": files,
    }
    write_json_atomic(target / MANIFEST, manifest)
    named = {MANIFEST, *(file["file"] for file in files.values())}
    for file in target.iterdir():
        if file.name not in named:
            file.unlink(missing_ok=True)


def load(folder: Path, view: View) -> Snapshot | None:
    """The snapshot, if there is one and it fits the ledger; a warning says why one is not used."""
    target = folder / FOLDER
    if not (target / MANIFEST).exists():
        return None
    try:
        return read(target, view)
    except (OSError, ValueError, KeyError, TypeError, ArtefactError) as error:
        log.warning(
            "%s is not used (%s): vectors are read from the ledger; make it anew with: "
            "lookalike collection tune %s",
            target,
            error,
            folder,
        )
        return None


def read(target: Path, view: View) -> Snapshot:
    """A snapshot that is believed nothing.

    Raises:
        OSError, ValueError, KeyError, TypeError, ArtefactError: saying why it cannot be used.
    """
    manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION or manifest["dim"] != view.dim:
        raise ValueError("it is of another format or dimension")
    files, sequence, rows = manifest["files"], manifest["sequence"], manifest["rows"]
    # a ledger without a generation may have a snapshot of before there were any
    if manifest.get("generation", "") != view.generation:
        raise ValueError("it is of another ledger")
    if sequence > view.sequence:
        raise ValueError("it is newer than the ledger")
    ids = _read(target, files["ids"]).view("<i8")
    vectors = _read(target, files["vectors"]).view("<f4").reshape(rows, view.dim)
    if len(ids) != rows or (np.diff(ids) <= 0).any():
        raise ValueError("its numbers are not in order")
    _compare(view, sequence, ids, vectors)
    flat = FlatIndex.of(ids, vectors, sequence=sequence)
    graph = None
    if "graph" in files:
        nodes = _read(target, files["nodes"]).view("<i8")
        data = _read(target, files["graph"])
        graph = Graph.from_bytes(data, nodes, manifest["scale"], manifest["effort"])
    return Snapshot(Index(flat, graph), manifest["recall"])


def _compare(
    view: View, sequence: int, ids: NDArray[np.int64], vectors: NDArray[np.float32]
) -> None:
    """That it is a snapshot of this very ledger."""
    if sequence < view.pruned:
        there = view.ids()
        if not np.isin(there[there <= sequence], ids, assume_unique=True).all():
            raise ValueError("the ledger has items of then that it does not have")
    elif view.count_at(sequence) != len(ids):
        raise ValueError("the ledger had another number of items then")
    for row in np.unique(np.linspace(0, len(ids) - 1, min(SAMPLE, len(ids))).astype(int)):
        stored = view.vector(int(ids[row]))
        if stored is not None and not np.array_equal(stored, vectors[row]):
            raise ValueError(f"the vector of item {ids[row]} is another one in the ledger")


def _write(target: Path, name: str, part: NDArray[Any]) -> dict[str, Any]:
    data = np.ascontiguousarray(part).data.cast("B") if part.size else memoryview(b"")
    digest = hashlib.sha256()
    with atomic_write(target / name) as file:
        for start in range(0, len(data), BLOCK):
            digest.update(data[start : start + BLOCK])
            file.write(data[start : start + BLOCK])
    return {"file": name, "bytes": len(data), "sha256": digest.hexdigest()}


def _read(target: Path, entry: dict[str, Any]) -> NDArray[np.uint8]:
    """A file's bytes, checked."""
    if "/" in entry["file"] or entry["file"].startswith("."):
        raise ValueError(f"it names {entry['file']!r}, which is not in its folder")
    data = np.empty(entry["bytes"], np.uint8)
    digest, filled, room = hashlib.sha256(), 0, data.data
    with (target / entry["file"]).open("rb") as file:
        while count := file.readinto(room[filled : filled + BLOCK]):
            digest.update(room[filled : filled + count])
            filled += count
        longer = bool(file.read(1))
    if filled != len(data) or longer or digest.hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} is damaged")
    return data
