"""Create a collection and open an existing one, in a folder or in Milvus."""

from pathlib import Path
from typing import Any, overload

from base.errors import ArtifactError, UsageError
from serving.collection.collection import LOCK_SECONDS, Collection
from serving.collection.contract.errors import CollectionMissing
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.locations import Location, milvus_location
from serving.collection.contract.new_folder import new_folder
from serving.collection.contract.promise import AUTO, DEFAULT_RECALL, Promise
from serving.collection.contract.stored_vectors import Dtype, check_dtype
from serving.collection.ledger.ledger import FILE_NAME, Ledger


@overload
def create_collection(
    path: Path,
    encoder_digest: str,
    dim: int,
    *,
    encoder_path: str | Path | None = None,
    recall: float = DEFAULT_RECALL,
    memory: int | None = None,
    latency: float | None = None,
    index: str = AUTO,
    dtype: Dtype = "float32",
) -> Collection: ...


@overload
def create_collection(
    path: Location,
    encoder_digest: str,
    dim: int,
    *,
    encoder_path: str | Path | None = None,
    recall: float = DEFAULT_RECALL,
    memory: int | None = None,
    latency: float | None = None,
    index: str = AUTO,
    dtype: Dtype = "float32",
) -> AnyCollection: ...


def create_collection(
    path: Location,
    encoder_digest: str,
    dim: int,
    *,
    encoder_path: str | Path | None = None,
    recall: float = DEFAULT_RECALL,
    memory: int | None = None,
    latency: float | None = None,
    index: str = AUTO,
    dtype: Dtype = "float32",
) -> AnyCollection:
    """Make a new, empty collection and open it.

    Args:
        path: a folder that does not exist or is empty, or the URL of a collection in Milvus
            (`contract.locations`) that does not exist. A `Path` is always a folder.
        encoder_digest: SHA-256 of the encoder file whose vectors it will hold.
        dim: length of a vector, E.
        encoder_path: where that file is; stored only as a hint.
        recall: recall@10 that searches promise once there are many items; 1: always exact, the only
            promise that Milvus keeps (`milvus`).
        memory: the most bytes the index may hold; None: as many as it needs.
        latency: milliseconds that half of the searches must not exceed; None: no limit.
        index: "auto": the fastest that keeps the promise; "flat"; or a FAISS factory string.
        dtype: how vectors are stored, only in a folder; float16 takes half the space on the disk
            and scores are off by less than 0.0005 (`stored_vectors`).

    Raises:
        UsageError: there is something already, or an impossible dim or promise.
        LookalikeError: it cannot be written.
    """
    if dim < 1:
        raise UsageError(f"dim is {dim}; a vector needs at least one number")
    promise = Promise(recall=recall, memory=memory, latency=latency, index=index)
    promise.check(dim)
    check_dtype(dtype)
    hint = None if encoder_path is None else str(Path(encoder_path).resolve())
    if in_milvus := milvus_location(path):
        from serving.collection.milvus import create

        if promise != Promise(recall=recall):
            raise UsageError(
                f"{path}: memory, latency and index are for a collection in a folder; Milvus keeps "
                "its own index"
            )
        if dtype != "float32":
            raise UsageError(f"{path}: dtype is {dtype}; a collection in Milvus holds float32")

        return create(in_milvus, encoder_digest, dim, encoder_path=hint, recall=recall)
    folder = Path(path)
    with new_folder(folder) as unfinished:
        Ledger.create(
            unfinished / FILE_NAME,
            encoder_sha256=encoder_digest,
            dim=dim,
            encoder_path=hint,
            promise=promise,
            dtype=dtype,
        )
    return Collection(folder)


@overload
def open_collection(
    path: Path,
    *,
    encoder_digest: str | None = None,
    load_index: bool = True,
    lock_seconds: float = LOCK_SECONDS,
    maintain_index: bool = False,
) -> Collection: ...


@overload
def open_collection(
    path: Location,
    *,
    encoder_digest: str | None = None,
    load_index: bool = True,
    lock_seconds: float = LOCK_SECONDS,
    maintain_index: bool = False,
) -> AnyCollection: ...


def open_collection(
    path: Location,
    *,
    encoder_digest: str | None = None,
    load_index: bool = True,
    lock_seconds: float = LOCK_SECONDS,
    maintain_index: bool = False,
) -> AnyCollection:
    """Open a collection.

    The last three arguments are for a folder; Milvus loads and maintains its index by itself.

    Args:
        path: its folder, or its URL if it is in Milvus (`contract.locations`). A `Path` is always a
            folder.
        encoder_digest: refuse a collection of another encoder; None does not check.
        load_index: read all vectors now; False reads them at the first search.
        lock_seconds: how long a write waits for another process before it is refused.
        maintain_index: build and renew the index in the background as the collection changes.

    Raises:
        CollectionMissing: there is nothing at the path.
        ArtifactError: it is not a collection, damaged, or of another encoder.
    """
    if in_milvus := milvus_location(path):
        from serving.collection.milvus import open_in_milvus

        return open_in_milvus(in_milvus, encoder_digest=encoder_digest)
    folder = check_folder(path)
    collection = Collection(folder, lock_seconds=lock_seconds, maintain_index=maintain_index)
    try:
        if encoder_digest is not None:
            collection.check_encoder(encoder_digest)
        if load_index:
            collection.refresh()
    except BaseException:
        collection.close()
        raise
    return collection


def check_folder(path: str | Path) -> Path:
    """Return the folder of a collection that is kept in one.

    Raises:
        CollectionMissing: there is nothing.
        ArtifactError: it is something else.
    """
    folder = Path(path)
    if not folder.exists():
        raise CollectionMissing(folder)
    if not (folder / FILE_NAME).is_file():
        raise ArtifactError(f"{folder} is not a collection: it has no {FILE_NAME}")
    return folder


def describe(path: Location) -> dict[str, Any]:
    """Return what a collection is and holds, ready for JSON, without reading its vectors.

    Raises:
        UsageError: there is nothing at the path.
        ArtifactError: it is not a collection or damaged.
    """
    with open_collection(path, load_index=False) as collection:
        return collection.stats()
