"""A collection in Milvus; the package says how it differs from one in a folder."""

import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from base.errors import LookalikeError, UsageError
from serving.collection.contract.errors import check_encoder, refuse_duplicates
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.keys import chunks, distinct_keys, is_utf8, page_start
from serving.collection.contract.records import (
    MAX_KEY_BYTES,
    AddReport,
    Hit,
    OnDuplicate,
    Record,
    Row,
    checked_rows,
    last_of_each,
    unit_vectors,
)
from serving.collection.contract.search_limits import check_bounds
from serving.collection.milvus import schema
from serving.collection.milvus.connection import Connection
from serving.collection.milvus.expressions import EVERYTHING, among
from serving.collection.milvus.local_filter import expression_of
from serving.collection.milvus.ranking import Scored, nearest, nearest_of_all
from serving.collection.milvus.schema import Binding

IDS = 1000  # in one expression
PAGE = 1000  # entities read at a time
BYTES_AT_ONCE = 8 * 1024 * 1024  # of entities in one call; Milvus takes 64 MiB
SEALED_AT = 5000
LEAST_EFFORT = 128  # ef of HNSW, where the URL does not say


class MilvusCollection(AnyCollection):
    """An open collection in Milvus; see `interface.AnyCollection`.

    All methods raise LookalikeError where Milvus fails or cannot be reached.
    """

    def __init__(self, connection: Connection, binding: Binding, index: str) -> None:
        self.encoder_digest = binding.encoder_sha256
        self.encoder_path = binding.encoder_path
        self.dim = binding.dim
        self._binding = binding
        self._connection = connection
        self._index = index
        self._write_lock = threading.Lock()
        self._unsealed = 0  # items written since milvus-lite was told to index them

    @property
    def location(self) -> str:
        """Its URL."""
        return self._connection.location.text

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        self._connection.close()

    def check_encoder(self, digest: str) -> None:
        """Refuse another encoder than the collection's own; see `AnyCollection`."""
        check_encoder(self.location, self.encoder_digest, digest)

    # Writing

    def add(self, records: Iterable[Record], on_duplicate: OnDuplicate = "refuse") -> AddReport:
        """Add a batch; see `AnyCollection`. In several calls if it is large, each as a whole.

        Raises:
            LookalikeError: Milvus failed; says how many items are in. Adding the same batch again
                with "replace" completes it.
        """
        if on_duplicate not in ("refuse", "replace"):
            message = f"on_duplicate is {on_duplicate!r}; choose refuse or replace"
            raise UsageError(message, param="on_duplicate")
        rows = checked_rows(records, self.dim)
        merged = last_of_each(rows)
        with self._write_lock:
            there = self._contents(list(merged))
            if on_duplicate == "refuse":
                refuse_duplicates([row.key for row in rows], there)
            old = self._stored([key for key, row in merged.items() if row.keep and key in there])
            last = {
                key: schema.entity(row.merged(old[key]) if key in old else row)
                for key, row in merged.items()
            }
            changed = [one for key, one in last.items() if one["content"] != there.get(key)]
            self._upsert(changed)
        replaced = sum(one["key"] in there for one in changed)
        return AddReport(len(last) - len(there), replaced, len(last) - len(changed), None)

    def _contents(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the digest of the content of those keys that are there."""
        contents: dict[str, str] = {}
        for ids in chunks([schema.id_of(key) for key in keys if _can_exist(key)], IDS):
            for one in self._query(among(ids), ["id", "content"], len(ids)):
                contents[schema.key_of(one["id"])] = one["content"]
        return contents

    def _stored(self, keys: Sequence[str]) -> dict[str, Row]:
        """Return what is stored of items, without their vectors."""
        return {
            one["key"]: schema.row(one)
            for ids in chunks([schema.id_of(key) for key in keys], IDS)
            for one in self._query(among(ids), schema.WITHOUT_VECTOR + schema.SIZES, len(ids))
        }

    def _upsert(self, entities: list[dict[str, Any]]) -> None:
        done = 0
        for batch in _by_size(entities, self.dim):
            try:
                self._connection.call("upsert", data=batch)
            except LookalikeError as error:
                raise LookalikeError(
                    f"{error} {done} of {len(entities)} items to be written are in; add the same "
                    "again and replace (--on-duplicate replace) to have the others"
                ) from error
            done += len(batch)
        self._unsealed += len(entities)
        # milvus-lite compares what it has not sealed row by row in Python; a server sees to it.
        if self._connection.location.file is not None and self._unsealed >= SEALED_AT:
            self._connection.call("flush")
            self._unsealed = 0

    def remove(self, keys: Iterable[str]) -> list[str]:
        """Remove items; return the keys that were there, in the order given."""
        requested = distinct_keys(keys)
        with self._write_lock:
            existing = set(self.existing(requested))
            removed = [key for key in requested if key in existing]
            for ids in chunks([schema.id_of(key) for key in removed], IDS):
                self._connection.call("delete", filter=among(ids))
        return removed

    # Searching

    def search(
        self,
        vectors: Sequence[ArrayLike] | NDArray[np.float32],
        k: int | None = 10,
        *,
        min_score: float | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the word of the HTTP interface
        exact: bool = False,
    ) -> list[list[Hit]]:
        """Return the nearest items of each query; see `AnyCollection`.

        `exact` fetches the vectors of all items from Milvus unless its index is FLAT, and a k of
        None always does.
        """
        check_bounds(k, min_score)
        queries = unit_vectors(vectors, self.dim, [f"query {q}" for q in range(len(vectors))])
        if not len(queries):
            return []
        expression = expression_of(filter, self._connection) if filter else ""
        if k is None or (exact and self._index != "FLAT"):
            pages = self._connection.pages(expression or EVERYTHING, ["id", "vector"], PAGE)
            return self._looked_up(nearest_of_all(queries, k or sys.maxsize, min_score, pages))

        def ask(queries: NDArray[np.float32], limit: int) -> list[list[dict[str, Any]]]:
            return list(
                self._connection.read(
                    "search",
                    anns_field="vector",
                    data=queries.tolist(),
                    limit=limit,
                    filter=expression,
                    output_fields=[*schema.WITHOUT_VECTOR, "vector"],
                    search_params={"metric_type": "IP", "params": self._effort(limit)},
                )
            )

        return [
            [schema.hit(entity, score) for score, entity in hits]
            for hits in nearest(queries, k, min_score, ask)
        ]

    def _effort(self, limit: int) -> dict[str, int]:
        """Return the parameters of a search; HNSW examines no fewer items than it returns."""
        effort = dict(self._connection.location.search)
        if self._index.startswith("HNSW"):
            effort["ef"] = max(effort.get("ef", LEAST_EFFORT), limit)
        return effort

    def _looked_up(self, results: list[list[Scored]]) -> list[list[Hit]]:
        """Return the hits of entities that have only ids."""
        ids = list(dict.fromkeys(one["id"] for hits in results for _, one in hits))
        existing = {
            one["id"]: one
            for chunk in chunks(ids, IDS)
            for one in self._query(among(chunk), schema.WITHOUT_VECTOR, len(chunk))
        }
        return [
            [schema.hit(existing[one["id"]], score) for score, one in hits if one["id"] in existing]
            for hits in results
        ]

    # Reading

    def get(self, key: str) -> Record | None:
        """Return an item with its vector, or None."""
        if not _can_exist(key):
            return None
        entities = self._query(among([schema.id_of(key)]), schema.ALL_FIELDS, 1)
        return schema.record(entities[0]) if entities else None

    def existing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that are there, in the order given."""
        there = self._contents(list(dict.fromkeys(keys)))
        return [key for key in keys if key in there]

    def keys(self, *, after: str | None = None, limit: int = 1000) -> list[str]:
        """Return the next keys in ascending order, after one that need not be there."""
        return [schema.key_of(one["id"]) for one in self._page(after, limit, ["id"])]

    def items(self, *, after: str | None = None, limit: int = 1000) -> list[Record]:
        """Return the next items in the order of their keys, with their vectors."""
        return [schema.record(one) for one in self._page(after, limit, schema.ALL_FIELDS)]

    def _page(self, after: str | None, limit: int, fields: list[str]) -> list[dict[str, Any]]:
        expression = f'id > "{schema.id_of(page_start(after))}"'
        page: list[dict[str, Any]] = []
        for entities in self._connection.pages(expression, fields, min(limit, PAGE)):
            page += entities
            if len(page) >= limit:
                break
        return page[:limit]

    def sample(self, count: int) -> list[Record]:
        """Return a random sample of the items; fewer where there are fewer."""
        rng = np.random.default_rng()
        drawn = 2 * count + 20  # so that they are rarely fewer than requested
        share = min(1.0, drawn / max(1, len(self)))
        first = int(rng.uniform(0, 1 - share) * schema.DRAWS)
        last = first + int(share * schema.DRAWS)
        entities = self._query(f"draw >= {first} and draw <= {last}", schema.ALL_FIELDS, 2 * drawn)
        sample = rng.permutation(len(entities))[:count].tolist()
        return [schema.record(entities[position]) for position in sample]

    def __len__(self) -> int:
        return int(self._query("", ["count(*)"], None)[0]["count(*)"])

    def stats(self) -> dict[str, Any]:
        """Return what the collection is and holds, ready for JSON."""
        return {
            "kind": "collection",
            "path": self.location,
            "items": len(self),
            "dim": self.dim,
            "encoder_sha256": self.encoder_digest,
            "encoder_path": self.encoder_path,
            "created": self._binding.created,
            "recall": 1.0 if self._index == "FLAT" else None,
            "index": {
                "kind": self._index.lower(),
                "exact": self._index == "FLAT",
                "search": self._effort(0),
            },
            "milvus": self._connection.version(),
        }

    def _query(self, expression: str, fields: list[str], limit: int | None) -> list[dict[str, Any]]:
        bound = {} if limit is None else {"limit": limit}
        return list(
            self._connection.read("query", filter=expression, output_fields=fields, **bound)
        )


def _can_exist(key: object) -> bool:
    return isinstance(key, str) and is_utf8(key) and len(key.encode()) <= MAX_KEY_BYTES


def _by_size(entities: list[dict[str, Any]], dim: int) -> Iterable[list[dict[str, Any]]]:
    """Yield the entities in batches of about BYTES_AT_ONCE."""
    batch: list[dict[str, Any]] = []
    size = 0
    for one in entities:
        batch.append(one)
        size += 4 * dim + 2 * len(one["metadata"]) + len(one["uri"]) + 32 * len(one["terms"]) + 500
        if size >= BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
