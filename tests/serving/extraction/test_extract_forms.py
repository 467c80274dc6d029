"""The same images in every form of SOURCE give the same vectors, under the documented keys."""

import json
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from base.errors import SourceError, UsageError
from serving.cli.cli import app
from serving.features.reader import open_features

Rows = dict[str, tuple[str | None, NDArray[np.float32]]]


def extracted(encoder: Path, source: object, out: Path, *options: object) -> Rows:
    """Label and vector of each key."""
    command = ["extract", encoder, source, "--out", out, *options]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    if done.exception is not None:
        raise done.exception
    rows: Rows = {}
    for file in sorted((out / "shards").glob("*.parquet")):
        table = pq.read_table(file)
        vectors = np.asarray(table["embedding"].to_pylist(), np.float32)
        for key, label, vector in zip(
            table["key"].to_pylist(), table["label"].to_pylist(), vectors, strict=True
        ):
            assert key not in rows
            rows[key] = (label, vector)
    return rows


@pytest.fixture
def forms(image_folder: Path, tmp_path: Path) -> dict[str, Path]:
    files = {path.relative_to(image_folder).as_posix(): path
             for path in sorted(image_folder.glob("*/*"))}  # fmt: skip
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name, path in files.items():
            tar.add(path, name)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in files.items():
            archive.write(path, name)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in files.values()]
    labels = [name.split("/")[0] for name in files]
    table = pa.table({"image": images, "label": labels, "key": list(files)})
    pq.write_table(table, tmp_path / "photos.parquet", row_group_size=7)
    return {kind: tmp_path / f"photos.{kind}" for kind in ("tar", "zip", "parquet")}


@pytest.fixture
def remote(image_folder: Path, forms: dict[str, Path]) -> Iterator[str]:
    """The folder and its forms in fsspec's memory."""
    fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
    memory, url = fsspec.filesystem("memory"), f"memory://{uuid.uuid4().hex}"
    memory.put(f"{image_folder}/", f"{url}/photos/", recursive=True)
    for form in forms.values():
        memory.put(str(form), f"{url}/{form.name}")
    yield url
    memory.rm(url, recursive=True)


def check_same(rows: Rows, expected: Rows) -> None:
    """The same keys in the same order, with the same labels and vectors."""
    assert list(rows) == list(expected)
    for key, (label, vector) in expected.items():
        assert rows[key][0] == label
        np.testing.assert_array_equal(rows[key][1], vector)


def test_every_form_gives_the_vectors_of_the_folder(
    tiny_encoder: Path, image_folder: Path, forms: dict[str, Path], remote: str, tmp_path: Path
) -> None:
    expected = extracted(tiny_encoder, image_folder, tmp_path / "folder")
    assert len(expected) == 40
    sources = [*forms.values(), image_folder.as_uri(), forms["tar"].as_uri()]
    sources += [f"{remote}/{name}" for name in ("photos", *(path.name for path in forms.values()))]
    for number, source in enumerate(sources):
        check_same(extracted(tiny_encoder, source, tmp_path / f"out-{number}"), expected)


def test_what_is_behind_a_url_is_resumed_and_brought_up_to_date(
    tiny_encoder: Path, image_folder: Path, remote: str, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
    expected = extracted(tiny_encoder, image_folder, tmp_path / "folder")
    out = tmp_path / "out"
    extracted(tiny_encoder, f"{remote}/photos", out)
    check_same(extracted(tiny_encoder, f"{remote}/photos", out, "--resume"), expected)
    gone = next(iter(expected))
    fsspec.filesystem("memory").rm(f"{remote}/photos/{gone}")
    del expected[gone]
    extracted(tiny_encoder, f"{remote}/photos", out, "--update")
    vectors = {key: vector for block in open_features(out).blocks()
             for key, vector in zip(block.keys, block.embeddings, strict=True)}  # fmt: skip
    assert vectors.keys() == expected.keys()
    features = open_features(out)
    assert [row.key for row in features.deleted(features.manifest.shards[0])] == [gone]


def test_job_arrays_cover_each_item_once(
    tiny_encoder: Path, forms: dict[str, Path], tmp_path: Path
) -> None:
    whole = extracted(tiny_encoder, forms["tar"], tmp_path / "whole")
    together: dict[str, tuple[str | None, NDArray[np.float32]]] = {}
    for number in range(3):
        share = extracted(
            tiny_encoder, forms["tar"], tmp_path / f"{number}", "--shard", f"{number}/3"
        )
        assert len(share) in {13, 14}
        assert not share.keys() & together.keys()
        together |= share
    assert together.keys() == whole.keys()
    note = open_features(tmp_path / "1").manifest.source
    assert note.name == f"{forms['tar']} [1/3]"
    with pytest.raises(UsageError, match="--shard 3/3 is not i/n"):
        extracted(tiny_encoder, forms["tar"], tmp_path / "x", "--shard", "3/3")


def test_labels_from_a_table(tiny_encoder: Path, forms: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("key,label\ndiscs/00.jpg,round\n")
    rows = extracted(tiny_encoder, forms["zip"], tmp_path / "out", "--labels", file)
    assert rows.pop("discs/00.jpg")[0] == "round"
    assert {label for label, _ in rows.values()} == {None}
    file.write_text("key,label\nno/such.jpg,round\n")
    with pytest.raises(SourceError, match=r"not in .*photos\.zip: no/such\.jpg"):
        extracted(tiny_encoder, forms["zip"], tmp_path / "other", "--labels", file)


def test_bad_members_are_listed_and_cost_nothing_else(
    tiny_encoder: Path, forms: dict[str, Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(forms["zip"], "a") as archive:
        archive.writestr("bad/empty.png", b"")
        archive.writestr("bad/text.jpg", b"no picture")
    command = ["extract", tiny_encoder, forms["zip"], "--out", tmp_path / "out", "--json"]
    done = CliRunner().invoke(app, [str(argument) for argument in command])
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.exit_code, report["rows"], report["refused"]) == (1, 40, 2)
    refused = {(entry["key"], entry["reason"]) for entry in report["first_refused"]}
    assert refused == {("bad/empty.png", "empty"), ("bad/text.jpg", "not-an-image")}
