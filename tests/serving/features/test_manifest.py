"""The manifest of a feature folder, field by field, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from base.errors import ArtifactError
from base.files import sha256_bytes, sha256_file
from serving.features.reader import open_features
from serving.features.shards import describe, is_feature_folder
from tests.serving.features.folders import ENCODER, PREPROCESS, edit


def test_the_manifest_has_exactly_the_fields_of_the_specification(folder: Path) -> None:
    def keys_digest(*names: str) -> str:
        return sha256_bytes("".join(f"{name}\0/p/{name}\0" for name in names).encode())

    def file(name: str) -> dict[str, str]:
        return {"file": name, "sha256": sha256_file(folder / name)}

    none = {"deleted": None, "thumbnails": None}
    assert json.loads((folder / "manifest.json").read_text()) == {
        "format": "lookalike-features",
        "format_version": 2,
        "encoder_sha256": ENCODER,
        "preprocess_sha256": PREPROCESS,
        "embedding_dim": 3,
        "dtype": "float32",
        "thumbnails": False,
        "source": {"name": "photos", "items": 5, "limit": None},
        "shard_items": 3,
        "shards": [
            {
                **file("shards/00000.parquet"),
                "rows": 2,
                "first_item": 0,
                "items": 3,
                "items_sha256": keys_digest("k0", "k1", "k2"),
                "first_key": "k0",
                "last_key": "k2",
                "errors": {**file("errors/00000.parquet"), "rows": 1},
                **none,
            },
            {
                **file("shards/00001.parquet"),
                "rows": 2,
                "first_item": 3,
                "items": 2,
                "items_sha256": keys_digest("k3", "k4"),
                "first_key": "k3",
                "last_key": "k4",
                "errors": {**file("errors/00001.parquet"), "rows": 0},
                **none,
            },
        ],
        "updates": 0,
        "updating": False,
        "arrays": None,
        "created_with": {"lookalike": "1"},
        "rows": 4,
        "errors": 1,
        "deleted": 0,
        "complete": True,
    }


def test_describe_counts_and_names(folder: Path) -> None:
    facts = describe(folder)
    assert (facts["kind"], facts["rows"], facts["errors"]) == ("features", 4, 1)
    assert (facts["shards"], facts["shards_planned"], facts["complete"]) == (2, 2, True)
    assert is_feature_folder(folder)
    assert not is_feature_folder(folder / "shards")
    assert not is_feature_folder(folder / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format="other"), "not the manifest"),
        (lambda m: m.update(format_version=3), "version 3.*knows 2.*update"),
        (lambda m: m.pop("encoder_sha256"), "encoder_sha256"),
        (lambda m: m.update(embedding_dim="3"), "embedding_dim is '3'"),
        (lambda m: m.update(shard_items=True), "shard_items is True"),
        (lambda m: m.update(rows=5), "rows"),
        (lambda m: m.update(complete=False), "complete"),
        (lambda m: m.update(color="red"), "color"),
        (lambda m: m["shards"][0].pop("errors"), "errors"),
        (lambda m: m["shards"][0].update(more=1), "shards"),
        (lambda m: m.update(source="photos"), "damaged"),
        (lambda m: m.update(dtype="int8"), "dtype is 'int8'"),
        (lambda m: m.update(updating=1), "updating is 1"),
        (lambda m: m.update(arrays={}), "embeddings"),
        (lambda m: m["shards"][0].pop("deleted"), "deleted|shards"),
        (lambda m: m.update(shards=7), "damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=message) as refused:
        open_features(folder)
    assert "manifest.json" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3"])
def test_a_manifest_that_is_not_an_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_features(folder)
    with pytest.raises(ArtifactError, match="not a feature folder"):
        open_features(folder / "shards")
