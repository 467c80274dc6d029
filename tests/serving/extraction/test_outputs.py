"""What an extraction writes beside its shards: an array, thumbnails, a collection."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from base.errors import ArtifactError, UsageError
from export.encoder_file.encoder_file import Encoder
from serving.collect import add_features
from serving.collection import Collection, KeyExists, create_collection, open_collection
from serving.collection.thumbnails import kept_path
from serving.features.reader import open_features
from serving.http.engine.thumbnails import Thumbnails
from serving.http.request.errors import HttpError
from tests.serving.extraction.runs import (
    DIE_IN,
    change,
    check_is_as_new,
    run,
    vectors,
)


def check_array(out: Path) -> None:
    """Row i of the array is the embedding of row i of the keys."""
    array = np.load(out / "embeddings.npy", mmap_mode="r")
    keys = pq.read_table(out / "keys.parquet").to_pydict()["key"]
    features = open_features(out)
    expected = vectors(features)
    assert keys == list(expected)
    assert str(array.dtype) == features.manifest.dtype
    np.testing.assert_array_equal(array, np.stack(list(expected.values())))
    arrays = features.manifest.arrays
    assert arrays is not None
    assert features.is_intact(arrays.embeddings)
    assert features.is_intact(arrays.keys)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_array_of_all_embeddings(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, dtype: str
) -> None:
    out = tmp_path / "out"
    run(encoder, mixed_folder, out, npy=True, dtype=dtype)
    check_array(out)
    written = (out / "embeddings.npy").stat().st_mtime_ns
    run(encoder, mixed_folder, out, resume=True, npy=True)
    assert (out / "embeddings.npy").stat().st_mtime_ns == written
    (out / "keys.parquet").write_bytes(b"")
    run(encoder, mixed_folder, out, resume=True, npy=True)
    check_array(out)
    change(mixed_folder)
    run(encoder, mixed_folder, out, update=True)  # a folder that has an array keeps it true
    check_array(out)
    assert len(np.load(out / "embeddings.npy")) == 50


def test_thumbnails_follow_their_rows(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(encoder, mixed_folder, out, thumbnails=True)
    change(mixed_folder)
    run(encoder, mixed_folder, out, update=True)
    features = check_is_as_new_with_thumbnails(encoder, mixed_folder, out, tmp_path / "fresh")
    assert features == 50
    with pytest.raises(UsageError, match="begun without thumbnails"):
        run(encoder, mixed_folder, tmp_path / "fresh", update=True, thumbnails=True)


def check_is_as_new_with_thumbnails(encoder: Encoder, source: Path, out: Path, fresh: Path) -> int:
    check_is_as_new(encoder, source, out, fresh)
    features = open_features(out)
    shown = 0
    for shard in features.manifest.shards:
        sizes = zip(features.block(shard).widths, features.block(shard).heights, strict=True)
        for size, content in zip(sizes, features.thumbnails(shard), strict=True):
            assert content is not None
            with Image.open(io.BytesIO(content)) as image:
                assert image.format == "WEBP"
                assert image.size == size  # all are smaller than a thumbnail may be
            shown += 1
    return shown


@pytest.fixture
def shop(encoder: Encoder, tmp_path: Path) -> Iterator[Collection]:
    path = tmp_path / "shop"
    with create_collection(path, encoder.digest, encoder.embedding_dim) as collection:
        assert isinstance(collection, Collection)
        yield collection


def check_holds(collection: Collection, out: Path) -> None:
    """Each image of the folder once, with its vector, and nothing else."""
    expected = vectors(open_features(out))
    assert collection.keys(limit=1000) == sorted(expected)
    for item in collection.items(limit=1000):
        np.testing.assert_allclose(np.asarray(item.vector), expected[item.key], atol=1e-6)


def test_a_collection_gets_what_the_folder_has(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, shop: Collection
) -> None:
    out = tmp_path / "out"
    report = run(encoder, mixed_folder, out, collection=shop, thumbnails=True)
    assert report.collected is not None
    assert vars(report.collected) == {"added": 40, "replaced": 0, "unchanged": 0, "removed": 0}
    check_holds(shop, out)
    item = shop.get("discs/01.png")
    assert item is not None
    assert item.sha256 is not None
    kept = kept_path(shop.path / "thumbnails", item.key, item.sha256)
    with Image.open(kept) as image:
        assert image.format == "WEBP"
    sequence = shop.stats()["sequence"]
    run(encoder, mixed_folder, out, resume=True, collection=shop)
    assert shop.stats()["sequence"] == sequence
    (out / ".into.json").unlink()  # as if killed between adding and noting
    (out / ".into.json").write_text(json.dumps({"collection": [], "shards": {}}))
    report = run(encoder, mixed_folder, out, update=True, collection=shop)
    assert report.collected is not None
    assert report.collected.unchanged == 40
    assert shop.stats()["sequence"] == sequence
    change(mixed_folder)
    report = run(encoder, mixed_folder, out, update=True, collection=shop)
    assert report.collected is not None
    assert (report.collected.added, report.collected.removed) == (12, 2)
    check_holds(shop, out)


def test_a_collection_shows_the_thumbnails_of_features_that_are_added(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, shop: Collection
) -> None:
    run(encoder, mixed_folder, tmp_path / "out", thumbnails=True)
    features = open_features(tmp_path / "out")
    add_features(shop, features, on_duplicate="refuse", on_progress=lambda _done, _total: None)
    item = shop.get("discs/01.png")
    assert item is not None
    shown = Thumbnails(shop.path / "thumbnails", encoder.preprocess, max_pixels=10**6)
    at_hand = shown.of(item, 384)
    (mixed_folder / "discs/01.png").unlink()
    again = Thumbnails(shop.path / "thumbnails", encoder.preprocess, max_pixels=10**6)
    assert again.of(item, 384) == at_hand
    nowhere = Thumbnails(None, encoder.preprocess, max_pixels=10**6)
    with pytest.raises(HttpError):
        nowhere.of(item, 384)


def test_what_a_collection_has_already_or_cannot_take_is_refused_before_any_work(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, shop: Collection
) -> None:
    run(encoder, mixed_folder, tmp_path / "one", collection=shop)
    with pytest.raises(KeyExists, match=r"discs/00\.jpg.*replace them with --update"):
        run(encoder, mixed_folder, tmp_path / "two", collection=shop)
    assert open_features(tmp_path / "two").manifest.shards == ()
    with create_collection(tmp_path / "other", "ab" * 32, encoder.embedding_dim) as other:
        with pytest.raises(ArtifactError, match="cannot be compared"):
            run(encoder, mixed_folder, tmp_path / "three", collection=other)
        assert not (tmp_path / "three/manifest.json").exists()


KILLED = (
    DIE_IN
    + """
import sys
from pathlib import Path
from export.encoder_file.encoder_file import open_encoder
from images.sources.sources import open_source
from serving.extraction import extract
from serving.collection import open_collection, Collection

encoder, source, out, shop, left = *sys.argv[1:5], [int(sys.argv[5])]
die_in(Path, "replace", left, after=False)
die_in(Collection, "add", left, after=True)
with open_collection(shop, load_index=False) as collection:
    extract.extract(open_encoder(encoder), open_source(source), out, collection=collection,
                    npy=True, update=True, batch_size=3, shard_items=8)
"""
)


@pytest.mark.slow
def test_killed_anywhere_the_collection_has_each_image_once(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, shop: Collection
) -> None:
    out, kills = tmp_path / "out", 0
    for left in (1, 3, 6, 9, 14, 80):
        if left == 9:
            change(mixed_folder)
        command = [sys.executable, "-c", KILLED]
        arguments = [encoder.path, mixed_folder, out, shop.path, left]
        done = subprocess.run([*command, *map(str, arguments)], check=False, env=dict(os.environ))
        assert done.returncode in (0, -9)
        kills += done.returncode == -9
    assert kills >= 4
    with open_collection(shop.path) as collection:
        run(encoder, mixed_folder, out, update=True, npy=True, collection=collection)
        assert isinstance(collection, Collection)
        check_holds(collection, out)
    check_array(out)
