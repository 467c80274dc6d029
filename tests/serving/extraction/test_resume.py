"""Extraction that is interrupted, and resumed as if it had not been."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from base.errors import LookalikeError
from export.encoder_file.encoder_file import Encoder
from serving.features.reader import Features, open_features
from tests.serving.extraction.runs import DIE_IN, SHARD, check_same, interrupt_in_third_shard, run
from tests.serving.full_disk import largest_file


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


KILLED = (
    DIE_IN
    + """
import sys
from pathlib import Path
from export.encoder_file.encoder_file import open_encoder
from images.sources.sources import open_source
from serving.extraction import extract, tasks
from serving.features import shards

encoder, source, out, step, left = *sys.argv[1:5], [int(sys.argv[5])]
if step == "between-file-and-manifest":
    die_in(tasks, "write_shard", left, after=True)
elif step == "between-the-files":
    die_in(shards, "write_bytes_atomic", left, after=True)
elif step == "before-a-rename":
    die_in(Path, "replace", left, after=False)

def print_done(done, total):
    print(done, flush=True)

extract.extract(open_encoder(encoder), open_source(source), out,
                resume=True, batch_size=3, shard_items=8, on_progress=print_done)
"""
)


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
        command = [sys.executable, "-c", KILLED]
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
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, out, on_progress=interrupt_in_third_shard)
    run(encoder, mixed_folder, out, resume=True, shard_items=1000)
    check_same(open_features(out), unbroken)


@pytest.mark.parametrize("size", [100, 2000, 3000])
def test_a_full_disk_fails_the_run_and_it_can_be_continued(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, unbroken: Features, size: int
) -> None:
    out = tmp_path / "out"
    with largest_file(size), pytest.raises(LookalikeError, match="cannot write"):
        run(encoder, mixed_folder, out)
    run(encoder, mixed_folder, out, resume=True)
    check_same(open_features(out), unbroken)
