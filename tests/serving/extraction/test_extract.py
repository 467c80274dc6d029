"""Extraction: every item exactly once, whatever interrupts it."""

import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from base.locks import folder_lock
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Item, Source
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.extraction.report import ExtractReport
from serving.features.reader import Features, open_features

SHARD = 8  # items of a shard: 43 items make 6 shards


def run(encoder: Encoder, source: Path, out: Path, **options: object) -> ExtractReport:
    given = {"batch_size": 3, "shard_items": SHARD, **options}
    return extract(encoder, open_source(source), out, **given)  # type: ignore[arg-type]


@pytest.fixture
def unbroken(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> Features:
    """What a run without interruption makes."""
    run(encoder, mixed_folder, tmp_path / "unbroken")
    return open_features(tmp_path / "unbroken")


def check_same(features: Features, unbroken: Features) -> None:
    """The same manifest, and so the same bytes in every file."""
    assert features.manifest.to_dict() == unbroken.manifest.to_dict()
    assert all(features.is_whole(shard) for shard in features.manifest.shards)
    left = sorted(path.name for path in features.path.rglob("*") if path.name.endswith(".tmp"))
    assert left == []


def test_every_item_is_in_one_of_the_tables_once(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    report = run(
        encoder, mixed_folder, tmp_path / "out", on_progress=lambda *done: told.append(done)
    )
    features = open_features(tmp_path / "out", encoder_sha256=encoder.digest)
    keys = list(features.keys())
    refused = [entry.key for entry in features.errors()]
    assert refused == ["discs/00-text.jpg", "ramps/05-empty.png", "stripes/99-cut.jpg"]
    assert sorted(keys + refused) == [item.key for item in open_source(mixed_folder)]
    assert (report.items, report.rows, report.refused, report.resumed) == (43, 40, 3, 0)
    assert [entry.key for entry in report.first_refused] == refused
    assert [shard.items for shard in features.manifest.shards] == [8, 8, 8, 8, 8, 3]
    assert told[0] == (0, 43)
    assert told[-1] == (43, 43)
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


# Interrupted


@pytest.mark.parametrize("after", [0, 1, 4, 9, 14])
def test_ctrl_c_leaves_a_folder_that_can_be_continued(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features, after: int
) -> None:
    calls = 0

    def interrupt(_done: int, _total: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, out, on_progress=interrupt)
    done = open_features(out).manifest
    assert not done.complete
    assert sum(shard.items for shard in done.shards) == after // 3 * SHARD
    report = run(encoder, mixed_folder, out, resume=True)
    assert report.resumed == sum(shard.items for shard in done.shards)
    assert (report.rows, report.refused) == (40, 3)
    check_same(open_features(out), unbroken)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from export.encoder_file.encoder_file import open_encoder
    from images.sources.sources import open_source
    from serving.extraction import extract, tasks
    from serving.features import shards

    encoder, source, out, step, left = *sys.argv[1:5], int(sys.argv[5])

    def die_in(owner, name, after):
        original = getattr(owner, name)
        def wrapped(*arguments, **options):
            global left
            left -= 1
            result = original(*arguments, **options) if after or left >= 0 else None
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(owner, name, wrapped)

    if step == "between-file-and-manifest":
        die_in(tasks, "write_shard", after=True)
    elif step == "between-the-files":
        die_in(shards, "write_bytes_atomic", after=True)
    elif step == "before-a-rename":
        die_in(Path, "replace", after=False)

    def say(done, total):
        print(done, flush=True)

    extract.extract(open_encoder(encoder), open_source(source), out,
                    resume=True, batch_size=3, shard_items=8, on_progress=say)
"""


def test_sigkill_at_any_step_loses_nothing_and_repeats_nothing(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features
) -> None:
    out = tmp_path / "out"
    steps = [
        ("before-a-rename", 0),
        ("before-a-rename", 4),
        ("between-the-files", 2),
        ("between-file-and-manifest", 1),
        ("outside", 6),
    ]
    finished: tuple[object, ...] = ()
    for step, left in steps:
        command = [sys.executable, "-c", textwrap.dedent(KILLED)]
        arguments = [str(encoder.path), str(mixed_folder), str(out), step, str(left)]
        with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for number, _ in enumerate(process.stdout):
                if step == "outside" and number == left:
                    process.kill()
        assert process.returncode == -9
        if (out / "manifest.json").exists():
            manifest = open_features(out).manifest
            assert manifest.shards[: len(finished)] == finished  # nothing done is done again
            finished = manifest.shards
    assert 0 < len(finished) < 6
    written = {shard.file: (out / shard.file).stat().st_mtime_ns for shard in manifest.shards}
    report = run(encoder, mixed_folder, out, resume=True)
    assert report.resumed == sum(shard.items for shard in manifest.shards)
    assert all((out / file).stat().st_mtime_ns == time for file, time in written.items())
    check_same(open_features(out), unbroken)


def test_a_damaged_or_missing_shard_is_made_again(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features
) -> None:
    out = tmp_path / "out"
    shutil.copytree(unbroken.path, out)
    (out / "shards/00001.parquet").write_bytes(b"")
    (out / "errors/00004.parquet").unlink()
    (out / "shards/.00009.parquet.123.tmp").write_bytes(b"left by a killed run")
    report = run(encoder, mixed_folder, out, resume=True)
    assert report.resumed == 43 - 2 * SHARD
    check_same(open_features(out), unbroken)


def test_resuming_what_is_finished_only_looks(
    encoder: Encoder, mixed_folder: Path, unbroken: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("nothing is to be embedded")

    monkeypatch.setattr(Encoder, "encode", forbidden)
    report = run(encoder, mixed_folder, unbroken.path, resume=True)
    assert (report.resumed, report.rows, report.refused) == (43, 40, 3)
    assert len(report.first_refused) == 3


def test_resuming_what_never_began_begins(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".manifest.json.123.tmp").write_bytes(b"{")  # killed before the first manifest
    run(encoder, mixed_folder, out, resume=True)
    (out / ".manifest.json.123.tmp").unlink(missing_ok=True)
    check_same(open_features(out), unbroken)


def test_a_resumed_run_keeps_the_size_of_the_shards(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features
) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done > 2 * SHARD:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, out, on_progress=interrupt)
    run(encoder, mixed_folder, out, resume=True, shard_items=1000)
    check_same(open_features(out), unbroken)


# Refused


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
    for words in (other.digest[:12], unbroken.manifest.encoder_sha256[:12], "another folder"):
        assert words in str(refused.value)


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


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 2000, 3000])
def test_a_full_disk_fails_the_run_and_it_can_be_continued(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features, size: int
) -> None:
    out = tmp_path / "out"
    with largest_file(size), pytest.raises(LookalikeError, match="cannot write"):
        run(encoder, mixed_folder, out)
    run(encoder, mixed_folder, out, resume=True)
    check_same(open_features(out), unbroken)


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
