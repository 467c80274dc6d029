"""Updates: what has changed is done, the rest is left alone, whatever interrupts it."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from base.errors import ArtifactError, UsageError
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.sources import paths
from images.sources.sources import open_source
from serving.extraction.extract import extract
from serving.extraction.report import TooManyRefused
from serving.extraction.report import ExtractReport
from serving.features.reader import Features, open_features
from tests.serving.features.test_shards import make_version_1

SHARD = 8


def run(encoder: Encoder, source: Path, out: Path, **options: object) -> ExtractReport:
    given = {"batch_size": 3, "shard_items": SHARD, "update": True, **options}
    return extract(encoder, open_source(source), out, **given)  # type: ignore[arg-type]


def vectors(features: Features) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    for block in features.blocks():
        for key, vector in zip(block.keys, block.embeddings, strict=True):
            assert key not in found
            found[key] = vector
    return found


def check_is_as_new(encoder: Encoder, source: Path, out: Path, fresh: Path) -> Features:
    """The folder holds what a new extraction would: each key once, in one of the tables."""
    shutil.rmtree(fresh, ignore_errors=True)
    run(encoder, source, fresh)
    features, new = open_features(out), open_features(fresh)
    assert features.manifest.complete
    assert features.manifest.source.items == new.manifest.source.items
    ours, theirs = vectors(features), vectors(new)
    assert ours.keys() == theirs.keys()
    for key, vector in theirs.items():
        np.testing.assert_allclose(ours[key], vector, atol=1e-6)
    errors = sorted((entry.key, entry.reason) for entry in features.errors())
    assert errors == sorted((entry.key, entry.reason) for entry in new.errors())
    named = {table.file for shard in features.manifest.shards for table in shard.tables}
    there = {str(path.relative_to(out)) for path in out.glob("*/*")}
    assert there == named  # nothing of before is left
    return features


def image(value: int) -> bytes:
    buffer = io.BytesIO()
    grid = np.arange(48 * 48 * 3).reshape(48, 48, 3)
    Image.fromarray(((grid * (value + 3)) % 251).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def change(folder: Path) -> set[str]:
    """Every sort of change; returns the keys that must be read to know what they are now."""
    (folder / "discs/01.png").write_bytes(image(1))
    (folder / "ramps/05-empty.png").write_bytes(image(2))  # was refused
    os.utime(folder / "squares/03.png", ns=(1, 1))  # the same content
    (folder / "ramps/00.jpg").write_bytes(b"no longer a picture")
    (folder / "discs/02.jpg").unlink()
    (folder / "stripes/99-cut.jpg").unlink()
    for number in range(11):
        (folder / f"aaa-{number:02}.png").write_bytes(image(10 + number))
    changed = {"discs/01.png", "ramps/05-empty.png", "squares/03.png", "ramps/00.jpg"}
    return changed | {f"aaa-{number:02}.png" for number in range(11)}


@pytest.fixture
def done(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> Path:
    """The mixed folder's features."""
    run(encoder, mixed_folder, tmp_path / "done")
    return tmp_path / "done"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files that are read."""
    found: set[str] = set()

    def noted(path: str) -> bytes:
        found.add("/".join(Path(path).parts[-2:]).removeprefix("mixed/"))
        return read_file(path)

    read_file = paths.read_file
    monkeypatch.setattr(paths, "read_file", noted)
    return found


def test_only_what_changed_is_read(
    encoder: Encoder, mixed_folder: Path, done: Path, read: set[str], tmp_path: Path
) -> None:
    assert run(encoder, mixed_folder, done).changes is not None
    assert read == set()
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/*.parquet")}
    expected = change(mixed_folder)
    report = run(encoder, mixed_folder, done)
    assert read == expected
    assert vars(report.changes) == {"added": 11, "changed": 4, "same": 1, "kept": 37, "deleted": 2}
    assert (report.items, report.rows, report.refused) == (52, 50, 2)
    features = check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")
    gone = [row for shard in features.manifest.shards for row in features.deleted(shard)]
    assert {row.key: row.sha256 is None for row in gone} == {
        "discs/02.jpg": False,
        "stripes/99-cut.jpg": True,
    }
    kept = [path for path, time in before.items()
            if path.exists() and path.stat().st_mtime_ns == time]  # fmt: skip
    assert len(kept) >= 2  # shards in which nothing changed are the same files
    assert features.manifest.updates == 1


def test_what_was_deleted_may_come_back(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away.jpg"
    (mixed_folder / "discs/04.jpg").rename(away)
    assert run(encoder, mixed_folder, done).rows == 39
    assert open_features(done).manifest.deleted == 1
    away.rename(mixed_folder / "discs/04.jpg")
    report = run(encoder, mixed_folder, done)
    assert report.changes is not None
    assert (report.rows, report.changes.added, report.changes.changed) == (40, 1, 0)
    assert open_features(done).manifest.deleted == 0
    check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")


def test_a_few_new_images_every_night_fill_up_the_last_shard(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    for night in range(5):
        for number in range(3):
            (mixed_folder / f"night-{night}-{number}.png").write_bytes(image(night * 3 + number))
        run(encoder, mixed_folder, done)
    features = check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")
    assert [shard.items for shard in features.manifest.shards] == [8, 8, 8, 8, 8, 6, 6, 6]


def test_what_stays_unreadable_is_tried_and_nothing_written(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "list.txt"
    source.write_text(f"{mixed_folder}/discs/00.jpg\n{mixed_folder}/missing.jpg\n")
    run(encoder, source, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")}
    report = run(encoder, source, out)
    assert (report.rows, report.refused) == (1, 1)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")} == before
    (mixed_folder / "missing.jpg").write_bytes((mixed_folder / "discs/02.jpg").read_bytes())
    assert run(encoder, source, out).refused == 0
    check_is_as_new(encoder, source, out, tmp_path / "fresh")


def test_new_labels_need_no_reading(
    encoder: Encoder, mixed_folder: Path, done: Path, read: set[str], tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("key,label\ndiscs/00.jpg,round\n")
    extract(encoder, open_source(mixed_folder, labels=table), done, update=True)
    assert read == set()
    labels = {key: label for block in open_features(done).blocks()
              for key, label in zip(block.keys, block.labels, strict=True)}  # fmt: skip
    assert labels["discs/00.jpg"] == "round"
    assert {label for key, label in labels.items() if key != "discs/00.jpg"} == {None}


def make_tar(path: Path, folder: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.glob("*/*")):
            archive.add(file, file.relative_to(folder).as_posix())
    return path


def test_an_archive_packed_anew_is_compared_by_content(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_tar(tmp_path / "photos.tar", mixed_folder), tmp_path / "out"
    run(encoder, source, out)
    (mixed_folder / "discs/00.jpg").write_bytes(image(1))
    (mixed_folder / "aaa").mkdir()
    (mixed_folder / "aaa/new.png").write_bytes(image(2))
    make_tar(source, mixed_folder)  # all members lie elsewhere now
    embedded = 0
    encode = Encoder.encode

    def counted(self: Encoder, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal embedded
        embedded += len(images)
        return encode(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", counted)
        report = run(encoder, source, out)
    assert embedded == 2
    assert report.changes is not None
    assert (report.changes.added, report.changes.changed, report.changes.same) == (1, 43, 39)
    check_is_as_new(encoder, source, out, tmp_path / "fresh")
    uris = {uri for block in open_features(out).blocks() for uri in block.uris}
    assert uris == {item.uri for item in open_source(source)} - {
        entry.uri for entry in open_features(out).errors()
    }


def test_version_1_is_compared_by_content_and_becomes_version_2(
    encoder: Encoder, mixed_folder: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_version_1(done)
    before = vectors(open_features(done))

    def forbidden(*_: object) -> None:
        raise AssertionError("nothing is to be embedded")

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", forbidden)
        assert run(encoder, mixed_folder, done).rows == 40
        features = open_features(done)
        assert features.manifest.version == 2
        assert vectors(features).keys() == before.keys()
        report = run(encoder, mixed_folder, done)
    assert report.changes is not None
    assert (report.changes.kept, report.changes.changed) == (43, 0)


def test_an_update_begins_and_continues_what_is_unfinished(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done > 2 * SHARD:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, out, on_progress=interrupt)
    change(mixed_folder)
    with pytest.raises(KeyboardInterrupt):
        run(encoder, mixed_folder, out, on_progress=interrupt)
    run(encoder, mixed_folder, out)
    check_is_as_new(encoder, mixed_folder, out, tmp_path / "fresh")


def test_a_damaged_shard_is_made_anew(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    (done / "shards/00001.parquet").write_bytes(b"")
    assert run(encoder, mixed_folder, done).rows == 40
    check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from export.encoder_file.encoder_file import open_encoder
    from images.sources.sources import open_source
    from serving.extraction import extract

    encoder, source, out, left = *sys.argv[1:4], int(sys.argv[4])

    def die_in(name):
        original = getattr(Path, name)
        def wrapped(*arguments, **options):
            global left
            if name == "replace" or arguments[0].suffix == ".parquet":
                left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)
        setattr(Path, name, wrapped)

    die_in("replace")
    die_in("unlink")
    extract.extract(open_encoder(encoder), open_source(source), out,
                    update=True, batch_size=3, shard_items=8)
"""


@pytest.mark.slow
def test_killed_at_any_file_it_is_consistent_and_goes_on(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    """Before every rename and every removal; each time readable, in the end as if never killed."""
    change(mixed_folder)
    kills = 0
    for left in (0, 1, 2, 3, 5, 8, 13, 40):
        command = [sys.executable, "-c", textwrap.dedent(KILLED)]
        arguments = [str(encoder.path), str(mixed_folder), str(done), str(left)]
        code = subprocess.run([*command, *arguments], check=False).returncode
        assert code in (0, -9)
        kills += code == -9
        features = open_features(done)
        assert len(vectors(features)) + features.manifest.errors >= 41
        list(features.errors())
    assert kills >= 5
    run(encoder, mixed_folder, done)
    check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")


def test_strangers_are_refused_with_the_remedy(
    encoder: Encoder, other_encoder: Path, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ArtifactError, match="continue with that one, or extract into another folder"
    ):
        run(open_encoder(other_encoder), mixed_folder, done)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(image(0))
    before = open_features(done).manifest
    with pytest.raises(UsageError, match="none of their keys is in"):
        run(encoder, other, done)
    with pytest.raises(ArtifactError, match="--limit 20"):
        run(encoder, mixed_folder, done, limit=20)
    with pytest.raises(UsageError, match=r"as float32, not float16"):
        run(encoder, mixed_folder, done, dtype="float16")
    assert open_features(done).manifest == before
    change(mixed_folder)
    run(encoder, mixed_folder, done)
    with pytest.raises(UsageError, match="continue with --update"):
        run(encoder, mixed_folder, done, update=False, resume=True)
    with pytest.raises(UsageError, match=r"finished extraction.*--update"):
        run(encoder, mixed_folder, done, update=False)


def test_half_floats_are_kept_through_updates(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    run(encoder, mixed_folder, tmp_path / "half", dtype="float16")
    change(mixed_folder)
    run(encoder, mixed_folder, tmp_path / "half")
    run(encoder, mixed_folder, tmp_path / "full")
    half, full = (open_features(tmp_path / name) for name in ("half", "full"))
    assert half.manifest.dtype == "float16"
    expected = vectors(full)
    for key, vector in vectors(half).items():
        np.testing.assert_allclose(vector, expected[key], atol=1e-3)


def test_too_many_refused_stop_the_run_and_nothing_finished_is_lost(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(TooManyRefused, match="2 images were refused, --max-errors allows 1") as two:
        run(encoder, mixed_folder, out, update=False, max_errors=1)
    assert [entry.key for entry in two.value.first] == ["discs/00-text.jpg", "ramps/05-empty.png"]
    assert two.value.exit_code == 3
    done = open_features(out).manifest
    assert len(done.shards) == 2
    assert not done.complete
    with pytest.raises(TooManyRefused):  # those of the run before count too
        run(encoder, mixed_folder, out, update=False, resume=True, max_errors=1)
    report = run(encoder, mixed_folder, out, update=False, resume=True, max_errors=3)
    assert (report.rows, report.refused) == (40, 3)
    with pytest.raises(TooManyRefused):
        run(encoder, mixed_folder, tmp_path / "none", update=False, max_errors=0)
