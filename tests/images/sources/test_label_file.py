import json
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from base.errors import SourceError, UsageError
from images.sources.sources import open_source, read_uri
from tests.images.sources.archive_files import make_folder, png

NAMES = ("a/1.png", "a/2.png", "b/3.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def labels(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "key,label\na/1.png,hat\nb/3.png,big shoe\n",
        "\ufefflabel;path\n".replace(";", ",")
        + "hat,{photos}/a/1.png\nbig shoe,{photos}/b/3.png\n",
        'id,Path,Class\n1,photos/a/1.png,hat\n2,"photos/b/3.png",big shoe\n3,photos/a/2.png,\n',
    ],
)
def test_labels_by_key_and_by_path(photos: Path, text: str) -> None:
    file = labels(photos.parent, text.format(photos=photos))
    source = open_source(photos, labels=file)
    assert [item.label for item in source] == ["hat", None, "big shoe"]
    assert source.classes == ("big shoe", "hat")
    assert (len(source), source.name) == (3, str(photos))


def test_tabs(photos: Path) -> None:
    file = labels(photos.parent, "key\tlabel\na/1.png\thats, and caps\n", "l.tsv")
    assert open_source(photos, labels=file).classes == ("hats, and caps",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,label\na/1.png,x\nz/9.png,y\n", r"1 of 2 images .* z/9\.png; its keys .* a/1\.png"),
        ("a/1.png,hat\n", r"its first line is a/1\.png, hat; it must name the columns"),
        ("", r"its first line is \(nothing\)"),
        ("key,label\na/1.png,x\na/1.png,y\n", r"line 3: a/1\.png is listed twice"),
        ("key,label\n", "holds no labels"),
        ("key,color\na/1.png,x\n", "holds no labels"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(photos: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(photos, labels=labels(photos.parent, text))


def test_files_that_are_no_table(photos: Path) -> None:
    (photos.parent / "x.csv").write_bytes(b"key,label\n\xff\xfe\n")
    for name in ("gone.csv", "x.csv", "photos"):
        with pytest.raises(SourceError, match=r"cannot read .* as a CSV file"):
            open_source(photos, labels=photos.parent / name)


def test_a_csv_list_is_a_source(photos: Path) -> None:
    file = labels(photos.parent, "path,label\nphotos/b/3.png,shoe\nphotos/a/1.png,\ngone.png,x\n")
    source = open_source(file)
    assert [(item.key, item.label) for item in source] == [
        ("photos/b/3.png", "shoe"), ("photos/a/1.png", None), ("gone.png", "x"),
    ]  # fmt: skip
    first = next(iter(source))
    assert read_uri(first.uri) == first.read() == (photos / "b/3.png").read_bytes()
    with pytest.raises(SourceError, match="must name the columns"):
        open_source(labels(photos.parent, "photos/a/1.png\nphotos/a/2.png\n"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_are_disjoint_and_together_all(photos: Path, count: int) -> None:
    shards = [open_source(photos, shard=f"{number}/{count}") for number in range(count)]
    assert sorted(item.key for shard in shards for item in shard) == list(NAMES)
    assert sum(len(shard) for shard in shards) == 3
    assert all(shard.classes == ("a", "b") for shard in shards)
    assert len({shard.name for shard in shards}) == count


def test_what_is_not_a_shard_is_refused(photos: Path) -> None:
    for text in ("3/3", "1", "0/0", "-1/2", "a/b", "1/2/3", ""):
        with pytest.raises(UsageError, match="is not i/n"):
            open_source(photos, shard=text)
    with pytest.raises(SourceError, match=r"shard 3/4 .* is empty: it has 3 images"):
        open_source(photos, shard="3/4")


def test_no_labels_at_all_is_fine(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    assert json.dumps(open_source(tmp_path).classes) == "[]"


@pytest.mark.parametrize(("of_file", "of_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_as_macos_writes_them_and_as_others_do(
    tmp_path: Path, of_file: Literal["NFC", "NFD"], of_table: Literal["NFC", "NFD"]
) -> None:
    name = "Mütze/é.png"
    make_folder(tmp_path / "f", {normalize(of_file, name): png(1)})
    text = f"key,label\n{normalize(of_table, name)},hat\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    (item,) = open_source(tmp_path / "f", labels=tmp_path / "labels.csv")
    assert (item.key, item.label) == (normalize(of_file, name), "hat")
