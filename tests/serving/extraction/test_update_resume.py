"""Updates that are interrupted, and continued by the same command."""

import subprocess
import sys
from pathlib import Path

import pytest

from export.encoder_file.encoder_file import Encoder
from serving.features.reader import open_features
from tests.serving.extraction.runs import (
    DIE_IN,
    change,
    check_is_as_new,
    interrupt_in_third_shard,
    update,
    vectors,
)


def test_an_update_begins_and_continues_what_is_unfinished(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        update(encoder, mixed_folder, out, on_progress=interrupt_in_third_shard)
    change(mixed_folder)
    with pytest.raises(KeyboardInterrupt):
        update(encoder, mixed_folder, out, on_progress=interrupt_in_third_shard)
    update(encoder, mixed_folder, out)
    check_is_as_new(encoder, mixed_folder, out, tmp_path / "fresh")


def test_a_damaged_shard_is_made_anew(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    (done / "shards/00001.parquet").write_bytes(b"")
    assert update(encoder, mixed_folder, done).rows == 40
    check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")


KILLED = (
    DIE_IN
    + """
import sys
from pathlib import Path
from export.encoder_file.encoder_file import open_encoder
from images.sources.sources import open_source
from serving.extraction import extract

encoder, source, out, left = *sys.argv[1:4], [int(sys.argv[4])]
die_in(Path, "replace", left, after=False)
die_in(Path, "unlink", left, after=False, counts=lambda path, **_: path.suffix == ".parquet")
extract.extract(open_encoder(encoder), open_source(source), out,
                update=True, batch_size=3, shard_items=8)
"""
)


@pytest.mark.slow
def test_killed_at_any_file_it_is_consistent_and_can_be_continued(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    """Before every rename and every removal; each time readable, in the end as if never killed."""
    change(mixed_folder)
    kills = 0
    for left in (0, 1, 2, 3, 5, 8, 13, 40):
        command = [sys.executable, "-c", KILLED]
        arguments = [str(encoder.path), str(mixed_folder), str(done), str(left)]
        code = subprocess.run([*command, *arguments], check=False).returncode
        assert code in (0, -9)
        kills += code == -9
        features = open_features(done)
        assert len(vectors(features)) + features.manifest.errors >= 41
        list(features.errors())
    assert kills >= 5
    update(encoder, mixed_folder, done)
    check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")
