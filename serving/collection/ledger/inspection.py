"""What `verify` reads of a ledger: everything, and it trusts nothing."""

import json
import zlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from serving.collection.contract.filters import field_rows
from serving.collection.contract.stored_vectors import Dtype, bytes_of, loaded
from serving.collection.ledger.view import BLOCK_ROWS, View

LENGTH_TOLERANCE = 1e-3  # a stored vector further from length one was not written by us
MOST_FAULTS = 20  # of one kind that SQLite reports


class Inspection(View):
    """Look for faults. Each is described in one line, with the key of the item."""

    def database_faults(self) -> Iterator[str]:
        """Yield what SQLite finds wrong with its pages, indexes and constraints."""
        for (line,) in self._connection.execute(f"PRAGMA integrity_check({MOST_FAULTS})"):
            if line != "ok":
                yield f"the database is damaged: {line}"

    def stray_faults(self) -> Iterator[str]:
        """Yield rows that belong to no item and changes that are numbered wrongly."""
        for table, column in (("vectors", "sequence"), ("fields", "item")):
            strays = self._one(
                f"SELECT count(*) FROM {table}"  # noqa: S608 - names of our own
                f" WHERE {column} NOT IN (SELECT sequence FROM items)"
            )
            if strays:
                yield f"{strays} rows of the table {table} belong to no item"
        newest = self._one(
            "SELECT max(coalesce((SELECT max(sequence) FROM items), 0),"
            " coalesce((SELECT max(sequence) FROM removals), 0))"
        )
        if newest > self.sequence:
            yield f"there is a change {newest} after the last one, {self.sequence}"
        back = self._one("SELECT count(*) FROM removals WHERE item IN (SELECT sequence FROM items)")
        if back:
            yield f"{back} items are there although they were removed"

    def item_faults(self) -> Iterator[list[str]]:
        """Yield the faults of each item in order, a list per item (nearly always empty)."""
        fields = self._fields_by_item()
        here: tuple[int, set[Any]] = next(fields, (0, set()))
        cursor = self._connection.execute(
            "SELECT sequence, key, metadata, vector, crc32 FROM items"
            " LEFT JOIN vectors USING (sequence) ORDER BY sequence"
        )
        while rows := cursor.fetchmany(BLOCK_ROWS):
            for sequence, key, metadata, vector, crc32 in rows:
                while here[0] and here[0] < sequence:  # of no item: `stray_faults` reports them
                    here = next(fields, (0, set()))
                indexed = here[1] if here[0] == sequence else set()
                yield [
                    f"{key!r}: {fault}"
                    for fault in (
                        _vector_fault(vector, crc32, self.dim, self.dtype),
                        _metadata_fault(metadata, indexed),
                    )
                    if fault
                ]

    def _fields_by_item(self) -> Iterator[tuple[int, set[Any]]]:
        rows = self._connection.execute("SELECT item, name, kind, value FROM fields ORDER BY item")
        for item, group in groupby(rows, key=lambda row: int(row[0])):
            yield item, {tuple(row[1:]) for row in group}


def _vector_fault(vector: bytes | None, crc32: int | None, dim: int, dtype: Dtype) -> str | None:
    if vector is None:
        return "it has no vector"
    if len(vector) != bytes_of(dim, dtype):
        return f"its vector has {len(vector)} bytes instead of {bytes_of(dim, dtype)}"
    if zlib.crc32(vector) != crc32:
        return "its vector is not the one that was written"
    length = np.linalg.norm(loaded([vector], dim, dtype).astype(np.float64))
    if not abs(length - 1) < LENGTH_TOLERANCE:
        return f"its vector has length {length:.4g}, not one"
    return None


def _metadata_fault(metadata: str, indexed: set[Any]) -> str | None:
    try:
        expected = field_rows(json.loads(metadata))
    except (ValueError, AttributeError):
        return "its metadata is not a JSON object"
    return None if indexed == expected else "filters do not find it by its metadata"
