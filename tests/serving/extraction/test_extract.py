"""Extraction: every item exactly once, and what it refuses to begin with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from base.locks import folder_lock
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Item, Source
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.extraction.ray_engine import RayEngine
from serving.features.reader import Features, open_features
from tests.serving.extraction.runs import SHARD, run


def test_every_item_is_in_one_of_the_tables_once(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    progress: list[tuple[int, int]] = []
    report = run(
        encoder, mixed_folder, tmp_path / "out", on_progress=lambda *done: progress.append(done)
    )
    features = open_features(tmp_path / "out", encoder_sha256=encoder.digest)
    keys = list(features.keys())
    refused = [entry.key for entry in features.errors()]
    assert refused == ["discs/00-text.jpg", "ramps/05-empty.png", "stripes/99-cut.jpg"]
    assert sorted(keys + refused) == [item.key for item in open_source(mixed_folder)]
    assert (report.items, report.rows, report.refused, report.resumed) == (43, 40, 3, 0)
    assert [entry.key for entry in report.first_refused] == refused
    assert [shard.items for shard in features.manifest.shards] == [8, 8, 8, 8, 8, 3]
    assert progress[0] == (0, 43)
    assert progress[-1] == (43, 43)
    assert features.manifest.complete
    for block in features.blocks():
        np.testing.assert_allclose(np.linalg.norm(block.embeddings, axis=1), 1, atol=1e-6)


def test_a_limit_takes_the_first_items(
    encoder: Encoder, image_folder: Path, tmp_path: Path
) -> None:
    report = run(encoder, image_folder, tmp_path / "out", limit=13)
    keys = [item.key for item in open_source(image_folder)]
    assert list(open_features(tmp_path / "out").keys()) == keys[:13]
    assert report.items == 13
    assert run(encoder, image_folder, tmp_path / "all", limit=1000).items == 40


def test_an_existing_folder_is_refused_with_the_remedy(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features
) -> None:
    with pytest.raises(UsageError, match=r"finished extraction.*delete"):
        run(encoder, mixed_folder, unbroken.path)
    unfinished = tmp_path / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, unfinished, on_progress=interrupt_at_once)
    with pytest.raises(UsageError, match=r"unfinished extraction.*--resume"):
        run(encoder, mixed_folder, unfinished)
    for resume in (False, True):
        with pytest.raises(UsageError, match="not a feature folder"):
            run(encoder, mixed_folder, mixed_folder, resume=resume)
    with pytest.raises(UsageError, match="cannot make the folder"):
        run(encoder, mixed_folder, mixed_folder / "discs/00.jpg")


def interrupt_at_once(_done: int, _total: int) -> None:
    raise KeyboardInterrupt


def test_another_encoder_is_refused(
    other_encoder: Path, mixed_folder: Path, unbroken: Features
) -> None:
    other = open_encoder(other_encoder)
    with pytest.raises(ArtifactError) as refused:
        run(other, mixed_folder, unbroken.path, resume=True)
    for text in (other.digest[:12], unbroken.manifest.encoder_sha256[:12], "another folder"):
        assert text in str(refused.value)


def test_another_limit_or_number_of_images_is_refused(
    encoder: Encoder, mixed_folder: Path, unbroken: Features
) -> None:
    with pytest.raises(ArtifactError, match=r"43 items.*20 items.*--limit 20"):
        run(encoder, mixed_folder, unbroken.path, resume=True, limit=20)
    (mixed_folder / "discs/00.jpg").unlink()
    with pytest.raises(ArtifactError, match=r"43 items.*42 items"):
        run(encoder, mixed_folder, unbroken.path, resume=True)


def test_other_images_of_the_same_number_are_refused(
    encoder: Encoder, mixed_folder: Path, unbroken: Features
) -> None:
    (mixed_folder / "ramps/04.jpg").rename(mixed_folder / "ramps/04-renamed.jpg")
    before = unbroken.manifest.to_dict()
    with pytest.raises(ArtifactError, match=r"items 8 to 15 .*another folder"):
        run(encoder, mixed_folder, unbroken.path, resume=True)
    assert open_features(unbroken.path).manifest.to_dict() == before


def test_a_second_run_on_the_same_folder_is_refused(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with folder_lock(tmp_path / "out"), pytest.raises(LookalikeError, match="is extracting into"):
        run(encoder, mixed_folder, tmp_path / "out")


@pytest.mark.parametrize("option", ["limit", "batch_size", "shard_items"])
def test_unusable_numbers_are_refused(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, option: str
) -> None:
    with pytest.raises(UsageError, match="is 0"):
        run(encoder, mixed_folder, tmp_path / "out", **{option: 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["isolate", "thumbnails"])
def test_what_needs_the_images_here_is_refused_on_a_cluster(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, option: str
) -> None:
    with pytest.raises(UsageError, match="read on this machine"):
        run(encoder, mixed_folder, tmp_path / "out", engine=RayEngine(), **{option: True})
    assert not (tmp_path / "out").exists()


def test_a_source_that_ends_early_is_an_error(
    encoder: Encoder, image_folder: Path, tmp_path: Path
) -> None:
    class Short:
        name, classes = "short", ()

        def __len__(self) -> int:
            return 30

        def __iter__(self) -> Iterator[Item]:
            return iter(list(open_source(image_folder))[:20])

    source: Source = Short()
    with pytest.raises(LookalikeError, match="short ended after 20 items"):
        extract(encoder, source, tmp_path / "out", shard_items=SHARD)
    assert not open_features(tmp_path / "out").manifest.complete


def test_memory_does_not_hold_more_than_a_few_shards(encoder: Encoder, tmp_path: Path) -> None:
    """The writer holds the pipeline back: three shards' items are in memory."""
    alive = most = 0

    class Tracked:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

        def __call__(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
            return np.full((32, 32, 3), 99, np.uint8)

    class Long:
        name, classes = "long", ()

        def __len__(self) -> int:
            return 400

        def __iter__(self) -> Iterator[Item]:
            for number in range(400):
                yield Item(f"k{number}", f"/{number}", None, Tracked())

    report = extract(encoder, Long(), tmp_path / "out", batch_size=4, shard_items=10)
    assert report.rows == 400
    assert most <= 6 * 10  # and what is under way


@pytest.mark.parametrize("out", ["s3://bucket/features", "file:///tmp/features"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_is_not_written_to(
    encoder: Encoder, image_folder: Path, out: str, kind: Callable[[str], Any]
) -> None:
    with pytest.raises(UsageError, match="is a URL; extract into a folder of this machine"):
        run(encoder, image_folder, kind(out))
    assert not Path(out.partition("//")[0]).exists()
