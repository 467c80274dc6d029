"""The format of a feature folder, field by field, and what a reader refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import ArtifactError
from base.files import sha256_bytes, sha256_file
from images.items import RefusedImage
from serving.embedding.results import Deleted, EmbeddedImage, Entry, Outcome
from serving.features.manifest import Manifest, SourceNote, read_manifest
from serving.features.reader import open_features
from serving.features.shards import describe, is_feature_folder, write_shard

ENCODER, PREPROCESS = "ab" * 32, "cd" * 32


def embedded(number: int) -> EmbeddedImage:
    angle = np.float32(number)
    vector = np.array([np.cos(angle), np.sin(angle), 0], np.float32)
    label = None if number % 2 else "été"
    return EmbeddedImage(f"k{number}", f"/p/k{number}", label, 640, 480 + number, "ef" * 32, vector)


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
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        shard = write_shard(tmp_path, manifest, number, entries[part])
        manifest = manifest.with_shard(shard)
    manifest.write(tmp_path)
    return tmp_path


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


def test_a_reader_gets_every_row_in_order(folder: Path) -> None:
    features = open_features(folder, encoder_sha256=ENCODER)
    blocks = list(features.blocks())
    assert [block.keys for block in blocks] == [["k0", "k2"], ["k3", "k4"]]
    assert [label for block in blocks for label in block.labels] == ["été", "été", None, "été"]
    assert blocks[1].heights.tolist() == [483, 484]
    assert blocks[1].embeddings.dtype == np.float32
    np.testing.assert_array_equal(blocks[1].embeddings[0], embedded(3).embedding)
    assert list(features.keys()) == ["k0", "k2", "k3", "k4"]
    assert [error.key for error in features.errors()] == ["k1"]
    assert len(features) == 4


def test_reading_begins_no_threads_that_outlive_python(folder: Path) -> None:
    """Those of pyarrow's datasets may hold the file's bytes, and abort the process at its end."""
    program = (
        "import sys; from serving.features.reader import open_features; "
        "features = open_features(sys.argv[1]); print(len(list(features.blocks())), "
        "len(list(features.errors())), 'pyarrow.dataset' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "2 1 False\n"


def test_a_shard_of_refused_images_only_is_fine(tmp_path: Path, folder: Path) -> None:
    manifest = read_manifest(folder)
    refused = [
        Entry(RefusedImage(k, f"/p/{k}", "read", "unreadable", "gone")) for k in ("k3", "k4")
    ]
    manifest.with_shard(write_shard(folder, manifest, 1, refused)).write(folder)
    features = open_features(folder)
    assert [len(block.keys) for block in features.blocks()] == [2, 0]
    assert list(features.blocks())[1].embeddings.shape == (0, 3)
    assert features.manifest.shards[1].first_key is None
    assert [error.key for error in features.errors()] == ["k1", "k3", "k4"]


def test_version_1_is_read_and_stays_what_it_is(folder: Path) -> None:
    """What was written before there were stamps: the same without them and the newer fields."""
    make_version_1(folder)
    features = open_features(folder)
    assert features.manifest.version == 1
    assert features.manifest.complete
    assert [block.keys for block in features.blocks()] == [["k0", "k2"], ["k3", "k4"]]
    entries = features.entries(features.manifest.shards[0])
    assert [(entry.outcome.key, entry.stamp) for entry in entries] == [
        ("k0", None),
        ("k2", None),
        ("k1", None),
    ]
    before = json.loads((folder / "manifest.json").read_text())
    features.manifest.write(folder)
    assert json.loads((folder / "manifest.json").read_text()) == before
    write_shard(folder, features.manifest, 0, entries)
    assert all(features.is_whole(shard) for shard in features.manifest.shards)


def make_version_1(folder: Path) -> None:
    """Turn a folder into what version 1 wrote."""
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format_version": 1}
    for name in ("dtype", "thumbnails", "updates", "updating", "arrays", "deleted"):
        del manifest[name]
    for shard in manifest["shards"]:
        del shard["deleted"], shard["thumbnails"]
        for part in (shard, shard["errors"]):
            table = pq.read_table(folder / part["file"]).drop_columns(["stamp"])
            labels = [name for name in table.column_names if name == "label"]
            pq.write_table(table, folder / part["file"], compression="zstd", use_dictionary=labels)
            part["sha256"] = sha256_file(folder / part["file"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


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


def test_describe_counts_and_names(folder: Path) -> None:
    facts = describe(folder)
    assert (facts["kind"], facts["rows"], facts["errors"]) == ("features", 4, 1)
    assert (facts["shards"], facts["shards_planned"], facts["complete"]) == (2, 2, True)
    assert is_feature_folder(folder)
    assert not is_feature_folder(folder / "shards")
    assert not is_feature_folder(folder / "nothing")


def test_features_of_another_encoder_are_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        open_features(folder, encoder_sha256="99" * 32)
    for words in ("abababababab", "999999999999", "Extract them again"):
        assert words in str(refused.value)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, flip_a_bit, lambda path: path.write_bytes(path.read_bytes()[:-1])],
)
@pytest.mark.parametrize("file", ["shards/00001.parquet", "errors/00000.parquet"])
def test_damaged_files_are_refused_with_the_remedy(
    folder: Path, file: str, damage: Callable[[Path], object]
) -> None:
    damage(folder / file)
    features = open_features(folder)
    with pytest.raises(ArtifactError, match=rf"{file}.*--resume"):
        list(features.blocks()), list(features.errors())


def test_a_file_with_other_columns_is_refused_even_if_its_digest_fits(folder: Path) -> None:
    path = folder / "shards" / "00001.parquet"
    for content in (b"PAR1 but not really", None):
        if content is None:
            pq.write_table(pa.table({"key": ["k3", "k4"]}), path)
        else:
            path.write_bytes(content)
        edit(folder, lambda m: m["shards"][1].update(sha256=sha256_file(path)))
        with pytest.raises(ArtifactError, match=r"00001\.parquet"):
            list(open_features(folder).blocks())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "words"),
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
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=words) as refused:
        open_features(folder)
    assert "manifest.json" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3"])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_features(folder)
    with pytest.raises(ArtifactError, match="not a feature folder"):
        open_features(folder / "shards")
