"""How an item is stored in Milvus.

A collection has one entity an item, with the fields

    id        VARCHAR, primary: the UTF-8 bytes of the key in hexadecimal. So ids are in the order
              of keys and no expression ever quotes a key
    key, uri, label, sha256       VARCHAR; width, height INT64: as given
    metadata  VARCHAR: the object as JSON text, so that it comes back as it was (Milvus' JSON does
              not hold whole numbers beyond 64 bits)
    terms     ARRAY of VARCHAR and
    bounds    JSON: label and metadata once more, to be found by filters (`expressions`)
    draw      INT64: a number from the key's hash, evenly spread, to take samples by
    content   VARCHAR: SHA-256 over everything above and the vector: whether an item is the same
    vector    FLOAT_VECTOR of length one, under the metric IP. (COSINE would bring vectors to length
              one again, and milvus-lite forgets that it has to once a file is opened again.)

The collection's binding is JSON under `lookalike` in its properties, and its description:
encoder_sha256, dim, encoder_path, created, version.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from base.errors import ArtifactError, UsageError
from serving.collection.contract.records import MAX_KEY_BYTES, Hit, Record, Row
from serving.collection.milvus.expressions import MOST_TERMS, TERM_LENGTH, bounds_of, terms_of

VERSION = 1
PROPERTY = "lookalike"
LONGEST = 65_535  # bytes of a VARCHAR, and about those of a JSON field
DRAWS = 2**32
WITHOUT_VECTOR = ["id", "key", "uri", "label", "metadata"]
SIZES = ["width", "height", "sha256"]
ALL_FIELDS = [*WITHOUT_VECTOR, *SIZES, "vector"]
HNSW = {"M": 32, "efConstruction": 360}


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The encoder a collection is bound to; see `ledger.ledger.Binding`."""

    encoder_sha256: str
    dim: int
    encoder_path: str | None
    created: str
    version: int = VERSION

    def to_json(self) -> str:
        """Return it as Milvus stores it."""
        return json.dumps(asdict(self))


def fields(dim: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, data type and parameters of each field."""
    text = {"max_length": LONGEST}
    maybe = {"nullable": True}
    return [
        ("id", "VARCHAR", {"is_primary": True, "max_length": 2 * MAX_KEY_BYTES}),
        ("key", "VARCHAR", {"max_length": MAX_KEY_BYTES}),
        ("uri", "VARCHAR", text),
        ("label", "VARCHAR", text | maybe),
        ("width", "INT64", maybe),
        ("height", "INT64", maybe),
        ("sha256", "VARCHAR", {"max_length": 1024} | maybe),
        ("metadata", "VARCHAR", text),
        (
            "terms",
            "ARRAY",
            {"element_type": "VARCHAR", "max_capacity": MOST_TERMS, "max_length": TERM_LENGTH},
        ),
        ("bounds", "JSON", {}),
        ("draw", "INT64", {}),
        ("content", "VARCHAR", {"max_length": 64}),
        ("vector", "FLOAT_VECTOR", {"dim": dim}),
    ]


def binding_of(description: Mapping[str, Any], location: str) -> Binding:
    """Return what a collection that Milvus describes is bound to.

    Raises:
        ArtifactError: it is not one of ours, or of a newer version.
    """
    text = description.get("properties", {}).get(PROPERTY) or description.get("description")
    try:
        fields = json.loads(text or "")
        if fields["version"] > VERSION:
            raise ArtifactError(
                f"{location} was made by a newer Lookalike (version {fields['version']}, this one "
                f"knows {VERSION}); update this one"
            )
        return Binding(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{location} is not a collection of Lookalike's: it does not say which encoder it "
            "belongs to. Choose another name"
        ) from error


def id_of(key: str) -> str:
    """Return the id of a key."""
    return key.encode().hex()


def key_of(identifier: str) -> str:
    """Return the key of an id."""
    return bytes.fromhex(identifier).decode()


def entity(row: Row) -> dict[str, Any]:
    """Return a checked row as Milvus takes it.

    Raises:
        UsageError: naming the item, for what is too large for a field.
    """
    metadata = json.loads(row.metadata)
    terms, bounds = terms_of(row.label, metadata), bounds_of(row.label, metadata)
    sizes = {
        "uri": len(row.uri.encode()),
        "label": len((row.label or "").encode()),
        "metadata": len(row.metadata.encode()),
        "metadata, for ranges,": len(json.dumps(bounds)),
    }
    for name, size in sizes.items():
        if size > LONGEST:
            raise UsageError(
                f"item {row.key!r}: {name} has {size} bytes; Milvus takes at most {LONGEST}",
                param=name.partition(",")[0],
            )
    if row.sha256 is not None and len(row.sha256.encode()) > 1024:
        raise UsageError(f"item {row.key!r}: sha256 has more than 1024 bytes", param="sha256")
    if len(terms) > MOST_TERMS:
        raise UsageError(
            f"item {row.key!r}: its metadata has too many values to be found by in Milvus "
            f"({len(terms)} terms, at most {MOST_TERMS})",
            param="metadata",
        )
    return {
        "id": id_of(row.key),
        "key": row.key,
        "uri": row.uri,
        "label": row.label,
        "width": row.width,
        "height": row.height,
        "sha256": row.sha256,
        "metadata": row.metadata,
        "terms": terms,
        "bounds": bounds,
        "draw": int.from_bytes(hashlib.sha256(row.key.encode()).digest()[:4]),
        "content": _content(row),
        "vector": np.frombuffer(row.vector, "<f4"),
    }


def _content(row: Row) -> str:
    digest = hashlib.sha256(row.vector)
    fields = (row.key, row.uri, row.label, row.width, row.height, row.sha256, row.metadata)
    digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def record(entity: Mapping[str, Any]) -> Record:
    """Return an entity with `ALL_FIELDS` as the item it is."""
    return Record(
        key=entity["key"],
        vector=np.asarray(entity["vector"], np.float32),
        uri=entity["uri"],
        label=entity["label"],
        width=entity["width"],
        height=entity["height"],
        sha256=entity["sha256"],
        metadata=json.loads(entity["metadata"]),
    )


def row(entity: Mapping[str, Any]) -> Row:
    """Return an entity with `WITHOUT_VECTOR` and `SIZES` as a row with an empty vector."""
    names = ("key", "uri", "label", "width", "height", "sha256", "metadata")
    return Row(vector=b"", **{name: entity[name] for name in names})


def hit(entity: Mapping[str, Any], score: float) -> Hit:
    """Return an entity with `WITHOUT_VECTOR` as a neighbor."""
    return Hit(entity["key"], score, entity["uri"], entity["label"], json.loads(entity["metadata"]))
