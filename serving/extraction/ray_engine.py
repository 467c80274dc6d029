"""Embedding on a Ray cluster: what `embed` does on one machine, done by Ray Data's actors.

    items ──▶ tables of key, uri, label ──▶ actors, a session each ──▶ outcomes, in the items' order
              (Ray's object store)          (embed, on every node)     (the caller's)

What travels is text and embeddings: an actor reads each image from its uri, so every node must see
the source under the same path or URL (a shared file system, s3://, gs://, …). The encoder file
travels once. Ray Data moves the work of a node that dies to the others; the caller writes the
shards, so a run that is killed is resumed like one of a single machine.
"""

from __future__ import annotations

import json
import logging
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from base.errors import LookalikeError
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Item, RefusedImage, metadata_text
from images.sources.uris import read_uri
from serving.embedding.embed import BATCH_SIZE, Seconds, embed, in_batches
from serving.embedding.results import EmbeddedImage, Outcome

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import ModuleType

BLOCK_ITEMS = 512  # items of a table: some seconds of an actor's work
ITEM_FIELDS = ("key", "uri", "label")  # and metadata, as text


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Embeds on a Ray cluster; an `ExtractionEngine`.

    Attributes:
        address: of the cluster; None takes RAY_ADDRESS, or starts Ray on this machine alone.
        actors: how many; None takes all the cluster has room for.
        cpus: threads of an actor, for decoding and encoding.
        gpus: of an actor; with one, a few `cpus` are needed to decode for it.
        batch_size: images an actor's session gets at once.
    """

    remote: ClassVar[bool] = True
    address: str | None = None
    actors: int | None = None
    cpus: int = 1
    gpus: int = 0
    batch_size: int = BATCH_SIZE

    def embed(
        self, encoder: Encoder, batches: Iterable[list[Item]], *, seconds: Seconds
    ) -> Generator[list[Outcome]]:
        """Embed batches of items on the cluster.

        Args:
            encoder: its file is sent to the actors.
            batches: lists of items; taken all before the work begins.
            seconds: grows meanwhile, by the times of all actors.

        Yields:
            for each batch the outcomes of its items, in the same order.

        Raises:
            ModuleNotFoundError: Ray Data is not installed.
            LookalikeError: the cluster cannot be reached, has no room or fails.
        """
        ray = _connect(self.address)
        sizes: list[int] = []

        def items() -> Iterable[Item]:
            for batch in batches:
                sizes.append(len(batch))
                yield from batch

        blocks = [_to_table(block) for block in in_batches(items(), BLOCK_ITEMS)]
        if not blocks:
            return
        actors = min(self.actors or self._room(ray), len(blocks))
        content = (encoder.path.name, encoder.path.read_bytes(), encoder.digest)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        data = ray.data.from_arrow(blocks).map_batches(
            _Actor,
            fn_constructor_args=(content, self.cpus, self.batch_size),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        outcomes = _outcomes(data, seconds)
        with closing(outcomes):
            for size in sizes:
                yield list(islice(outcomes, size))

    def _room(self, ray: ModuleType) -> int:
        """Return how many actors the cluster holds at once."""
        has = ray.cluster_resources()
        room = int(has.get("CPU", 0) // self.cpus)
        if self.gpus:
            room = min(room, int(has.get("GPU", 0) // self.gpus))
        if room < 1:
            raise LookalikeError(
                f"the Ray cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs: "
                f"no room for an actor of {self.cpus} CPUs and {self.gpus} GPUs"
            )
        return room


def _connect(address: str | None) -> ModuleType:
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it prints its plans on stderr
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # the libraries under Ray raise their own
            where = address or "this machine or the one RAY_ADDRESS names"
            raise LookalikeError(f"cannot reach a Ray cluster at {where}: {error}") from error
    return ray


def _to_table(items: list[Item]) -> pa.Table:
    columns = {name: [getattr(item, name) for item in items] for name in ITEM_FIELDS}
    columns["metadata"] = [metadata_text(item.metadata) for item in items]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _to_item(row: dict[str, Any]) -> Item:
    text = row.pop("metadata")
    metadata = None if text is None else json.loads(text)
    return Item(**row, read=partial(read_uri, row["uri"]), metadata=metadata)


class _Actor:
    """One session somewhere in the cluster; Ray calls it with one table after the other."""

    def __init__(self, content: tuple[str, bytes, str], threads: int, batch_size: int) -> None:
        name, data, digest = content
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            self._encoder = open_encoder(path, threads=threads)
        if self._encoder.digest != digest:
            raise LookalikeError(f"{name} arrived as {self._encoder.digest[:12]}…")
        self._threads = threads
        self._batch_size = batch_size

    def __call__(self, table: pa.Table) -> pa.Table:
        items = [_to_item(row) for row in table.to_pylist()]
        seconds = Seconds()
        batches = in_batches(items, self._batch_size)
        done = embed(self._encoder, batches, threads=self._threads, seconds=seconds)
        rows = [_to_row(outcome) for outcomes in done for outcome in outcomes]
        rows[0]["seconds"] = asdict(seconds)
        return pa.Table.from_pylist(rows, schema=_schema(self._encoder.embedding_dim))


def _schema(dim: int) -> pa.Schema:
    """Of the rows that travel back: an image has an embedding, or what failed and why."""
    texts = ("key", "uri", "label", "sha256", "stage", "reason", "message", "metadata")
    return pa.schema(
        {
            **dict.fromkeys(texts, pa.string()),
            **dict.fromkeys(("width", "height"), pa.int32()),
            "embedding": pa.list_(pa.float32(), dim),
            "seconds": pa.struct({field.name: pa.float64() for field in fields(Seconds)}),
        }
    )


def _to_row(outcome: Outcome) -> dict[str, Any]:
    return {field.name: getattr(outcome, field.name) for field in fields(outcome)}


def _tables(data: Any) -> Generator[pa.Table]:
    try:
        yield from data.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception as error:  # of any library under Ray, and of what an actor raised
        reason = str(error).strip().splitlines()[-1]
        raise LookalikeError(
            f"the Ray cluster failed: {reason}; what is finished stays, continue with --resume"
        ) from error


def _outcomes(data: Any, seconds: Seconds) -> Generator[Outcome]:
    """Yield the rows of the dataset as they come, its times added up."""
    for table in _tables(data):
        embeddings = table["embedding"].combine_chunks()
        vectors = embeddings.values.to_numpy(zero_copy_only=False)  # NaN for the refused
        vectors = vectors.reshape(-1, embeddings.type.list_size)[embeddings.offset :]
        rows = table.drop_columns(["embedding"]).to_pylist()
        for row, vector in zip(rows, vectors, strict=False):
            for name, spent in (row.pop("seconds") or {}).items():
                setattr(seconds, name, getattr(seconds, name) + spent)
            kind: type[Outcome] = EmbeddedImage if row["stage"] is None else RefusedImage
            row["embedding"] = vector
            yield kind(**{field.name: row[field.name] for field in fields(kind)})
