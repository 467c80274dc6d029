"""A small feature folder."""

from pathlib import Path

import pytest

from images.items import RefusedImage
from serving.embedding.results import Entry, Outcome
from serving.features.manifest import Manifest, SourceNote
from serving.features.shards import write_shard
from tests.serving.features.folders import ENCODER, PREPROCESS, embedded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished feature folder: five items in two shards, the second of the items refused."""
    outcomes: list[Outcome] = [embedded(number) for number in range(5)]
    outcomes[1] = RefusedImage("k1", "/p/k1", "decode", "truncated", "the JPEG ends early")
    entries = [Entry(outcome, f"1 {number}") for number, outcome in enumerate(outcomes)]
    manifest = Manifest(
        encoder_sha256=ENCODER,
        preprocess_sha256=PREPROCESS,
        embedding_dim=3,
        source=SourceNote(name="photos", items=5, limit=None),
        shard_items=3,
        created_with={"lookalike": "1"},
    )
    for number, rows in enumerate((slice(0, 3), slice(3, 5))):
        shard = write_shard(tmp_path, manifest, number, entries[rows])
        manifest = manifest.with_shard(shard)
    manifest.write(tmp_path)
    return tmp_path
