"""Names and labels that are not valid Unicode, in every kind of source."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import SourceError
from images.items import Item, Source
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import make_folder, make_tar, make_zip, png

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")

ODD = os.fsdecode(b"caf\xe9")
HALF = "caf\ud83d"  # half of a surrogate pair


def check(source: Source) -> list[Item]:
    """Check that all names are text, that keys differ, and that uris lead back."""
    items = list(source)
    assert len({item.key for item in items}) == len(items) == len(source)
    for item in items:
        "".join((item.key, item.uri, item.label or "")).encode()
        content, again = item.read(), read_uri(item.uri)
        assert np.array_equal(np.asarray(content), np.asarray(again))
    assert set(source.classes) >= {item.label for item in items if item.label is not None}
    return items


def save_parquet(path: Path) -> Path:
    features = {"label": {"names": [HALF, "b"], "_type": "ClassLabel"}}
    table = pa.table({"image": [png(0), png(1)], "label": [0, 1]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    with path.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file)
    return path


def save_npz(path: Path) -> Path:
    with path.open("wb") as file:
        np.savez(file, data=np.zeros((2, 4, 4), np.uint8), labels=np.array([HALF, "b"]))
    return path


def save_idx(path: Path) -> Path:
    path.write_bytes(b"\0\0\x08\x03" + b"\0\0\0\1" * 3 + b"\7")
    return path


def save_list(path: Path) -> Path:
    make_folder(path.parent, {"1.png": png(0)})
    path.write_text("1.png\tcafé\n")
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda path: make_folder(path, {f"{ODD}/{ODD}.png": png(0), "b/1.png": png(1)}),
    "tar": lambda path: make_tar(path, {f"{ODD}/{ODD}.png": png(0), "b/1.png": png(1)}),
    "zip": lambda path: make_zip(path, {"é/1.png": png(0), "b/1.png": png(1)}),
    "npz": lambda path: save_npz(path.with_suffix(".npz")),
    "parquet": lambda path: save_parquet(path.with_suffix(".parquet")),
    "idx": save_idx,
    "list": lambda path: save_list(path.with_suffix(".txt")),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_whose_name_is_not_utf8(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path / ODD)
    check(open_source(path))
    if form != "folder":
        items = check(open_source(f"{tmp_path}/caf*"))
        assert items[0].key.startswith("caf\\xe9")


def test_labels_of_half_a_surrogate_pair(tmp_path: Path) -> None:
    members = {"1.jpg": png(0), "1.json": b'{"label": "caf\\ud83d"}', "2.jpg": png(1)}
    for path in (
        make_tar(tmp_path / "a.tar", members),
        save_parquet(tmp_path / "a.parquet"),
        save_npz(tmp_path / "a.npz"),
    ):
        source = open_source(path)
        assert check(source)[0].label == "caf\\ud83d"
        assert "caf\\ud83d" in source.classes
    (tmp_path / "classes.json").write_text('["x\\udc00", "y"]')
    np.savez(tmp_path / "b.npz", data=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 1]))
    assert open_source(tmp_path / "b.npz").classes == ("x\\udc00", "y")


def test_an_escaped_name_and_a_file_literally_called_so_are_two_items(tmp_path: Path) -> None:
    files = {f"{ODD}.png": png(0), "caf\\xe9.png": png(1), "caf\\xe9.png@2": b"", "é.png": png(2)}
    source = open_source(make_folder(tmp_path / "photos", files))
    by_key = {item.key: item.read() for item in check(source)}
    assert by_key == {
        "caf\\xe9.png": png(1), "caf\\xe9.png@2": png(0), "é.png": png(2)
    }  # fmt: skip
    del files["caf\\xe9.png@2"]
    assert len(check(open_source(make_tar(tmp_path / "a.tar", files)))) == 3
    alone = make_folder(tmp_path / "alone", {f"{ODD}.png": png(0)})
    assert [item.key for item in check(open_source(alone))] == ["caf\\xe9.png"]


def test_archives_whose_names_look_alike_have_different_keys(tmp_path: Path) -> None:
    for name in (ODD, "caf\\xe9"):
        make_tar(tmp_path / f"{name}.tar", {"1.png": png(len(name))})
    items = check(open_source(f"{tmp_path}/*.tar"))
    assert {item.key for item in items} == {"caf\\xe9.tar/1.png", "caf\\xe9.tar@2/1.png"}


def test_columns_whose_names_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [png(0)], "zzzz": ["x"]}), path)
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"\xe9\xff\xfe\xe9"))
    with pytest.raises(SourceError, match="names of columns that are not UTF-8; rename them"):
        open_source(path)
