"""Labels and metadata on their way from a source into features and a collection."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from base.errors import ArtifactError
from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.collection import create_collection
from serving.extraction.extract import extract
from serving.features.reader import open_features
from tests.serving.extraction.runs import image

OPTIONS: dict[str, Any] = {"batch_size": 2, "shard_items": 2}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images in two classes and two splits."""
    for number, name in enumerate(["train/a/0", "train/b/1", "val/a/2", "val/b/3"]):
        path = tmp_path / f"photos/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    return tmp_path / "photos"


def rows(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Return label and metadata of each key."""
    described = {}
    for block in open_features(folder).blocks():
        for key, label, text in zip(block.keys, block.labels, block.metadata, strict=True):
            described[key] = label, text
    return described


def test_the_split_is_kept_as_metadata(encoder: Encoder, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with create_collection(tmp_path / "c", encoder.digest, encoder.embedding_dim) as collection:
        extract(encoder, open_source(photos), out, collection=collection, **OPTIONS)
        item = collection.get("val/b/3.png")
        assert item is not None
        assert (item.label, item.metadata) == ("b", {"split": "val"})
    assert rows(out)["train/a/0.png"] == ("a", json.dumps({"split": "train"}))
    assert "metadata" in pq.read_schema(out / "shards/00000.parquet").names
    (photos / "val").rename(photos / "test")
    extract(encoder, open_source(photos), out, update=True, **OPTIONS)
    assert rows(out)["test/b/3.png"] == ("b", json.dumps({"split": "test"}))


def test_without_metadata_there_is_no_such_column(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    extract(encoder, open_source(photos / "val"), tmp_path / "out", **OPTIONS)
    assert "metadata" not in pq.read_schema(tmp_path / "out/shards/00000.parquet").names


def test_a_run_is_not_resumed_with_other_labels(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    out, table = tmp_path / "out", tmp_path / "other.csv"
    table.write_text("key,label\ntrain/a/0.png,new\nval/b/3.png,newer\n")
    extract(encoder, open_source(photos), out, **OPTIONS)
    (out / "shards/00001.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"other labels: train/a/0\.png is a there"):
        extract(encoder, open_source(photos, labels=table), out, resume=True, **OPTIONS)
    extract(encoder, open_source(photos, labels=table), out, update=True, **OPTIONS)
    assert [label for label, _ in rows(out).values()] == ["new", None, None, "newer"]
