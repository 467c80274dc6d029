"""Updates: what has changed is done, the rest is left alone."""

import errno
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from base.errors import ArtifactError, UsageError
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.items import Content, Pixels
from images.pixels.preprocess import PreprocessSpec, load_image
from images.sources.sources import open_source
from serving.extraction.engine import LocalEngine
from serving.extraction.extract import extract
from serving.extraction.report import TooManyRefused
from serving.features.reader import open_features
from tests.serving.extraction.runs import change, check_is_as_new, image, run, update, vectors
from tests.serving.features.folders import make_version_1


def test_only_what_changed_is_read(
    encoder: Encoder, mixed_folder: Path, done: Path, read: set[str], tmp_path: Path
) -> None:
    assert update(encoder, mixed_folder, done).changes is not None
    assert read == set()
    before = {path: path.stat().st_mtime_ns for path in done.glob("*/*.parquet")}
    expected = change(mixed_folder)
    report = update(encoder, mixed_folder, done)
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
    assert update(encoder, mixed_folder, done).rows == 39
    assert open_features(done).manifest.deleted == 1
    away.rename(mixed_folder / "discs/04.jpg")
    report = update(encoder, mixed_folder, done)
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
        update(encoder, mixed_folder, done)
    features = check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")
    assert [shard.items for shard in features.manifest.shards] == [8, 8, 8, 8, 8, 6, 6, 6]


def test_what_stays_unreadable_is_tried_and_nothing_written(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "list.txt"
    source.write_text(f"{mixed_folder}/discs/00.jpg\n{mixed_folder}/missing.jpg\n")
    update(encoder, source, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")}
    report = update(encoder, source, out)
    assert (report.rows, report.refused) == (1, 1)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*.parquet")} == before
    (mixed_folder / "missing.jpg").write_bytes((mixed_folder / "discs/02.jpg").read_bytes())
    assert update(encoder, source, out).refused == 0
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
    update(encoder, source, out)
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
        report = update(encoder, source, out)
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
        assert update(encoder, mixed_folder, done).rows == 40
        features = open_features(done)
        assert features.manifest.version == 2
        assert vectors(features).keys() == before.keys()
        report = update(encoder, mixed_folder, done)
    assert report.changes is not None
    assert (report.changes.kept, report.changes.changed) == (43, 0)


def test_another_encoder_source_or_option_is_refused(
    encoder: Encoder, other_encoder: Path, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ArtifactError, match="continue with that one, or extract into another folder"
    ):
        update(open_encoder(other_encoder), mixed_folder, done)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.png").write_bytes(image(0))
    before = open_features(done).manifest
    with pytest.raises(UsageError, match="none of their keys is in"):
        update(encoder, other, done)
    with pytest.raises(UsageError, match=r"--limit 20 would take images out"):
        update(encoder, mixed_folder, done, limit=20)
    with pytest.raises(UsageError, match=r"as float32, not float16"):
        update(encoder, mixed_folder, done, dtype="float16")
    assert open_features(done).manifest == before
    change(mixed_folder)
    update(encoder, mixed_folder, done)
    with pytest.raises(UsageError, match="continue with --update"):
        run(encoder, mixed_folder, done, resume=True)
    with pytest.raises(UsageError, match=r"finished extraction.*--update"):
        run(encoder, mixed_folder, done)


def test_half_floats_are_kept_through_updates(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    update(encoder, mixed_folder, tmp_path / "half", dtype="float16")
    change(mixed_folder)
    update(encoder, mixed_folder, tmp_path / "half")
    update(encoder, mixed_folder, tmp_path / "full")
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
        run(encoder, mixed_folder, out, max_errors=1)
    assert [entry.key for entry in two.value.first] == ["discs/00-text.jpg", "ramps/05-empty.png"]
    assert two.value.exit_code == 3
    done = open_features(out).manifest
    assert len(done.shards) == 2
    assert not done.complete
    with pytest.raises(TooManyRefused):  # those of the run before count too
        run(encoder, mixed_folder, out, resume=True, max_errors=1)
    report = run(encoder, mixed_folder, out, resume=True, max_errors=3)
    assert (report.rows, report.refused) == (40, 3)
    with pytest.raises(TooManyRefused):
        run(encoder, mixed_folder, tmp_path / "none", max_errors=0)


def test_what_lies_in_a_folder_that_cannot_be_listed_now_is_kept(
    encoder: Encoder, mixed_folder: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scan(path: Path) -> object:
        if Path(path).name == "discs":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path)

    before = vectors(open_features(done))
    gone = next(path for path in sorted(mixed_folder.glob("stripes/*.jpg")) if path.stat().st_size)
    gone.unlink()
    monkeypatch.setattr(os, "scandir", scan)  # root, as whom tests may run, may list everything
    report = update(encoder, mixed_folder, done)
    assert report.skipped_folders == ["discs"]
    assert report.changes is not None
    assert report.changes.deleted == 1
    assert report.items == report.rows + report.refused
    after = vectors(open_features(done))
    assert any(key.startswith("discs/") for key in after)
    assert before.keys() - after.keys() <= {f"stripes/{gone.name}"}


@pytest.mark.parametrize("limit", [None, 30, 1000])
def test_a_trial_run_grows(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path, limit: int | None
) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    run(encoder, mixed_folder, out, limit=10)
    with pytest.raises(ArtifactError, match=r"10 items .*--limit 10.*grow with --update"):
        run(encoder, mixed_folder, out, resume=True, limit=limit)
    assert update(encoder, mixed_folder, out, limit=limit).items == min(limit or 43, 43)
    run(encoder, mixed_folder, fresh, limit=limit)
    ours, theirs = open_features(out), open_features(fresh)
    assert vectors(ours).keys() == vectors(theirs).keys()
    assert ours.manifest.source == theirs.manifest.source
    assert ours.manifest.complete
    assert update(encoder, mixed_folder, out).items == 43


def test_a_limit_that_the_source_never_reached_can_be_left_out(
    encoder: Encoder, mixed_folder: Path, tmp_path: Path
) -> None:
    run(encoder, mixed_folder, tmp_path / "out", limit=100)
    update(encoder, mixed_folder, tmp_path / "out")
    assert open_features(tmp_path / "out").manifest.source.limit is None
    assert open_features(tmp_path / "out").manifest.complete


def test_what_was_renamed_or_moved_is_not_embedded_again(
    encoder: Encoder, mixed_folder: Path, done: Path, tmp_path: Path
) -> None:
    before = vectors(open_features(done))
    (mixed_folder / "discs").rename(mixed_folder / "circles")
    (mixed_folder / "stripes/02.jpg").rename(mixed_folder / "3.jpg")
    (mixed_folder / "stripes/new.png").write_bytes(image(5))
    decoded: list[Content] = []

    def load(content: Content, spec: PreprocessSpec) -> tuple[Pixels, tuple[int, int]]:
        loaded = load_image(content, spec)
        decoded.append(content)
        return loaded

    report = update(encoder, mixed_folder, done, engine=LocalEngine(load=load))
    assert decoded == [image(5)]
    assert report.changes is not None
    features = check_is_as_new(encoder, mixed_folder, done, tmp_path / "fresh")
    after = vectors(features)
    assert (after["3.jpg"] == before["stripes/02.jpg"]).all()
    assert (after["circles/00.jpg"] == before["discs/00.jpg"]).all()
    labels = {
        key: label for b in features.blocks() for key, label in zip(b.keys, b.labels, strict=True)
    }
    assert (labels["3.jpg"], labels["circles/00.jpg"]) == (None, "circles")
