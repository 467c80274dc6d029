"""The tables of a feature folder, column by column."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from serving.embedding.results import Deleted, Entry
from serving.features.manifest import read_manifest
from serving.features.reader import open_features
from serving.features.shards import write_shard
from tests.serving.features.folders import ENCODER, embedded


def test_a_shard_has_exactly_the_columns_of_the_specification(folder: Path) -> None:
    """Read with pyarrow alone, as any other program would."""
    table = pq.read_table(folder / "shards" / "00000.parquet")
    assert [(field.name, str(field.type), field.nullable) for field in table.schema] == [
        ("key", "string", False),
        ("uri", "string", False),
        ("label", "string", True),
        ("width", "int32", False),
        ("height", "int32", False),
        ("sha256", "string", False),
        ("stamp", "string", True),
        ("embedding", "fixed_size_list<element: float not null>[3]", False),
    ]
    assert table.schema.metadata == {b"lookalike.encoder_sha256": ENCODER.encode()}
    assert table.drop_columns(["embedding"]).to_pylist() == [
        {
            "key": f"k{number}",
            "uri": f"/p/k{number}",
            "label": "été",
            "width": 640,
            "height": 480 + number,
            "sha256": "ef" * 32,
            "stamp": f"1 {number}",
        }
        for number in (0, 2)
    ]
    embeddings = np.array(table["embedding"].to_pylist(), np.float32)
    assert (
        embeddings.tobytes() == np.stack([embedded(0).embedding, embedded(2).embedding]).tobytes()
    )


def test_an_errors_table_has_exactly_the_columns_of_the_specification(folder: Path) -> None:
    table = pq.read_table(folder / "errors" / "00000.parquet")
    assert all(str(field.type) == "string" for field in table.schema)
    assert [field.name for field in table.schema if field.nullable] == ["stamp"]
    assert table.schema.metadata == {b"lookalike.encoder_sha256": ENCODER.encode()}
    assert table.to_pylist() == [
        {
            "key": "k1",
            "uri": "/p/k1",
            "stage": "decode",
            "reason": "truncated",
            "message": "the JPEG ends early",
            "stamp": "1 1",
        }
    ]


def test_all_shards_read_as_one_table_without_us(folder: Path) -> None:
    table = pq.read_table(folder / "shards")
    assert table["key"].to_pylist() == ["k0", "k2", "k3", "k4"]
    assert pq.read_table(folder / "errors")["key"].to_pylist() == ["k1"]


def test_the_same_outcomes_are_the_same_bytes(folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.glob("*/*.parquet")}
    manifest = read_manifest(folder)
    write_shard(folder, manifest, 1, [Entry(embedded(n), f"1 {n}") for n in (3, 4)])
    assert {file: file.read_bytes() for file in folder.glob("*/*.parquet")} == before


def test_embeddings_may_be_half_as_large(tmp_path: Path, folder: Path) -> None:
    manifest = replace(read_manifest(folder), dtype="float16")
    shard = write_shard(tmp_path, manifest, 1, [Entry(embedded(n)) for n in (3, 4)])
    replace(manifest, shards=(shard,)).write(tmp_path)
    table = pq.read_table(tmp_path / shard.file)
    assert str(table.schema.field("embedding").type) == (
        "fixed_size_list<element: halffloat not null>[3]"
    )
    (block,) = open_features(tmp_path).blocks()
    assert block.embeddings.dtype == np.float32
    np.testing.assert_allclose(block.embeddings[0], embedded(3).embedding, atol=1e-3)


def test_deleted_images_and_thumbnails_come_back(tmp_path: Path, folder: Path) -> None:
    manifest = replace(read_manifest(folder), thumbnails=True)
    entries = [Entry(embedded(3), None, b"RIFF"), Entry(embedded(4), "2 9", None)]
    gone = [Deleted("k8", "/p/k8", "ab" * 32), Deleted("k9", "/p/k9", None)]
    shard = write_shard(tmp_path, manifest, 1, entries, generation=3, deleted=gone)
    assert shard.file == "shards/00001-3.parquet"
    replace(manifest, shards=(shard,)).write(tmp_path)
    features = open_features(tmp_path)
    assert features.manifest.deleted == 2
    assert features.deleted(shard) == gone
    assert features.thumbnails(shard) == [b"RIFF", None]
    assert [entry.stamp for entry in features.entries(shard)] == [None, "2 9"]
