"""What a user gave an item stays, whichever way the collection is filled again."""

import csv
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export.encoder_file.encoder_file import Encoder
from images.sources.sources import open_source
from serving.collect import add_export, add_features, add_source
from serving.collection import AnyCollection, Record, create_collection, open_collection
from serving.collection.contract.locations import Location
from serving.collection.exporting import export_parquet
from serving.collection.thumbnails import FOLDER, keep_all
from serving.extraction.extract import extract
from serving.features.reader import open_features

Fill = Callable[[AnyCollection, Path], Any]
OPTIONS: dict[str, Any] = {
    "on_duplicate": "replace",
    "on_progress": lambda _done, _total: None,
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photographs without labels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        paint(folder / f"{number}.png", number)
    return folder


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(params=["folder", "milvus"])
def collection(request: pytest.FixtureRequest, encoder: Encoder, tmp_path: Path) -> Any:
    """An empty collection on each back end."""
    location: Location = (
        tmp_path / "shop" if request.param == "folder" else request.getfixturevalue("milvus")
    )
    with create_collection(location, encoder.digest, encoder.embedding_dim) as made:
        yield made


def by_extraction(encoder: Encoder, into: AnyCollection, photos: Path) -> None:
    out = photos.parent / "features"
    extract(encoder, open_source(photos), out, update=True, collection=into, thumbnails=True)


def by_features(encoder: Encoder, into: AnyCollection, photos: Path) -> None:
    out = photos.parent / "features"
    extract(encoder, open_source(photos), out, update=True, thumbnails=True)
    add_features(into, open_features(out), **OPTIONS)


def by_images(encoder: Encoder, into: AnyCollection, photos: Path) -> None:
    add_source(into, encoder, open_source(photos), **OPTIONS)


@pytest.fixture(params=[by_extraction, by_features, by_images])
def fill(request: pytest.FixtureRequest, encoder: Encoder) -> Fill:
    """Fill a collection with a folder's images; again, it is brought up to date."""
    return functools.partial(request.param, encoder)


def correct(collection: AnyCollection, key: str) -> Record:
    """Give an item a label, metadata and a thumbnail, as a user does."""
    item = collection.get(key)
    assert item is not None
    corrected = replace(item, label="coat", metadata={"price": 5, "tags": ["a", "b"]})
    assert collection.add([corrected], "replace").replaced == 1
    if Path(collection.location).is_dir():
        keep_all(Path(collection.location) / FOLDER, [(key, item.sha256 or "", b"thumbnail")])
    return corrected


def user_data(collection: AnyCollection, key: str) -> tuple[str | None, Any]:
    item = collection.get(key)
    assert item is not None
    return item.label, item.metadata


CORRECTED = ("coat", {"price": 5, "tags": ["a", "b"]})


def test_filling_again_leaves_what_a_user_gave(
    collection: AnyCollection, photos: Path, fill: Fill
) -> None:
    fill(collection, photos)
    correct(collection, "2.png")
    thumbnails = photos.parent / "shop" / FOLDER
    before = {path: path.read_bytes() for path in thumbnails.glob("*/*")}
    item, sequence = collection.get("2.png"), collection.stats().get("sequence")
    fill(collection, photos)
    assert collection.stats().get("sequence") == sequence  # nothing was replaced
    paint(photos / "4.png", 99)
    fill(collection, photos)
    assert user_data(collection, "2.png") == CORRECTED
    after = collection.get("2.png")
    assert item is not None
    assert after is not None
    assert replace(after, vector=()) == replace(item, vector=())
    changed = collection.get("4.png")
    assert changed is not None
    paint(photos / "2.png", 77)  # another picture of the same thing
    fill(collection, photos)
    assert user_data(collection, "2.png") == CORRECTED
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_label_that_the_source_gives_is_taken_over(
    collection: AnyCollection, photos: Path, encoder: Encoder
) -> None:
    by_images(encoder, collection, photos)
    correct(collection, "2.png")
    table = photos.parent / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("key", "label"), ("2.png", "shirt")])
    add_source(collection, encoder, open_source(photos, labels=table), **OPTIONS)
    assert user_data(collection, "2.png") == ("shirt", CORRECTED[1])


def test_an_export_and_a_copy_bring_every_field(
    collection: AnyCollection, photos: Path, encoder: Encoder
) -> None:
    by_images(encoder, collection, photos)
    export_parquet(collection, photos.parent / "all.parquet")
    correct(collection, "2.png")
    add_export(collection, str(photos.parent / "all.parquet"), **OPTIONS)
    assert user_data(collection, "2.png") == (None, {})


def test_fields_to_keep_are_merged_one_by_one(collection: AnyCollection) -> None:
    vector = np.ones(collection.dim)
    full = Record("a", vector, "/a", "coat", 1, 2, "ab", {"n": 1})
    bare = Record("a", vector, "/b")
    names = ("uri", "label", "width", "height", "sha256", "metadata")
    collection.add([replace(full, keep=frozenset(names))])  # new: there is nothing to keep
    for name in names:
        collection.add([full], "replace")
        collection.add([replace(bare, keep=frozenset([name]))], "replace")
        item = collection.get("a")
        assert item is not None
        for other in names:
            assert getattr(item, other) == getattr(full if other == name else bare, other)
    collection.add([full], "replace")
    again = collection.add([replace(bare, keep=frozenset(names))], "replace")
    assert (again.replaced, again.unchanged) == (0, 1)
    assert collection.get("a") is not None


def test_of_two_rows_for_one_key_the_later_keeps_what_the_earlier_brings(
    collection: AnyCollection,
) -> None:
    vector = np.ones(collection.dim)
    label = Record("a", vector, "/a", "coat", metadata={"n": 1})
    for earlier in (label, replace(label, keep=frozenset(["metadata"]))):
        collection.remove(["a"])
        collection.add([replace(label, label="old", metadata={"n": 0})])
        later = Record("a", vector, "/b", keep=frozenset(["label", "metadata"]))
        collection.add([earlier, later], "replace")
        expected = {"n": 0} if earlier.keep else {"n": 1}
        assert user_data(collection, "a") == ("coat", expected)


def test_a_rebuilt_reader_sees_the_kept_fields_in_filters(
    encoder: Encoder, photos: Path, tmp_path: Path
) -> None:
    with create_collection(tmp_path / "c", encoder.digest, encoder.embedding_dim) as made:
        by_images(encoder, made, photos)
        correct(made, "2.png")
        paint(photos / "2.png", 5)
        by_images(encoder, made, photos)
    with open_collection(tmp_path / "c") as opened:
        query = np.ones((1, encoder.embedding_dim), np.float32)
        hits = opened.search(query, 5, filter={"price": 5, "tags": "a", "label": "coat"})[0]
    assert [hit.key for hit in hits] == ["2.png"]
