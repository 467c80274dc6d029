"""Reading a feature folder, and what the reader refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import ArtifactError
from base.files import sha256_file
from images.items import RefusedImage
from serving.embedding.results import Entry
from serving.features.manifest import read_manifest
from serving.features.reader import open_features
from serving.features.shards import write_shard
from tests.serving.features.folders import ENCODER, edit, embedded, make_version_1


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


def test_features_of_another_encoder_are_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        open_features(folder, encoder_sha256="99" * 32)
    for text in ("abababababab", "999999999999", "Extract them again"):
        assert text in str(refused.value)


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
