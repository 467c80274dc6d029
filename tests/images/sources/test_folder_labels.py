from pathlib import Path

import pytest

from base.errors import UsageError
from images.sources.folder_labels import folder_labels
from images.sources.passed_over import passed_over
from images.sources.sources import open_source
from tests.images.sources.archive_files import make_folder, make_tar, make_zip, png

LAYOUTS: dict[str, tuple[list[str], list[str | None], list[str | None]]] = {
    "class folders": (["hat/1.png", "hat/old/2.png", "3.png"], ["hat", "hat", None], [None] * 3),
    "a wrapper": (["x/hat/1.png", "x/shoe/2.png", "x/3.png"], ["hat", "shoe", None], [None] * 3),
    "one class": (["hat/1.png", "hat/old/2.png"], ["hat", "hat"], [None] * 2),
    "splits": (["train/a/1.png", "val/a/2.png", "val/b/3.png"], ["a", "a", "b"],
               ["train", "val", "val"]),
    "splits below a wrapper": (["d/Train/a/1.png", "d/test/2.png"], ["a", None], ["Train", "test"]),
    "a wrapper below splits": (["train/x/a/1.png", "test/x/b/2.png"], ["a", "b"],
                               ["train", "test"]),
    "splits without classes": (["train/1.png", "validation/2.png"], [None] * 2,
                               ["train", "validation"]),
    "not all are splits": (["train/a/1.png", "bus/a/2.png"], ["train", "bus"], [None] * 2),
    "detector": (["images/train/1.png", "images/val/2.png"], [None] * 2, ["train", "val"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_tar_and_zip_have_the_same_labels_and_splits(tmp_path: Path, layout: str) -> None:
    names, labels, splits = LAYOUTS[layout]
    files = {name: png(i) for i, name in enumerate(names)}
    for i, name in enumerate(names):  # captions and boxes are no classes
        files[f"{name[:-4]}.txt"] = [b"a hat", b"0 0.5 0.5 0.25 0.25\n", b"7"][i]
        files[f"{name[:-4]}.json"] = b'{"caption": "a hat", "boxes": [1]}'
    expected = [
        (name, label, ({"split": split} if split else {}) | {"caption": "a hat"})
        for name, label, split in zip(names, labels, splits, strict=True)
    ]
    for path in (make_folder(tmp_path / "f", files), make_tar(tmp_path / "a.tar", files),
                 make_zip(tmp_path / "a.zip", files)):  # fmt: skip
        source = open_source(path)
        seen = [(item.key, item.label, item.metadata) for item in source]
        assert sorted(seen, key=lambda row: row[0]) == sorted(expected, key=lambda row: row[0])
        assert source.classes == tuple(sorted({label for label in labels if label}))


def test_labels_of_samples_count_in_folder_tar_and_zip(tmp_path: Path) -> None:
    files = {
        "x/1.png": png(1), "x/1.cls": b"hat\n", "x/1.json": b'{"label": "other"}',
        "x/2.png": png(2), "x/2.json": b'{"class_name": "shoe"}',
        "y/3.png": png(3), "y/3.json": b"[]", "y/other.json": b'{"label": "z"}',
    }  # fmt: skip
    for path in (make_folder(tmp_path / "f", files), make_tar(tmp_path / "a.tar", files),
                 make_zip(tmp_path / "a.zip", files)):  # fmt: skip
        assert [item.label for item in open_source(path)] == ["hat", "shoe", "y"]


@pytest.mark.parametrize(
    ("label_from", "labels"),
    [
        ("first", ["fruit", "fruit", "milk"]),
        ("last", ["gala", "pear", "milk"]),
        ("2", ["apple", "pear", None]),
        ("9", [None, None, None]),
        ("none", [None, None, None]),
    ],
)
def test_the_folder_that_is_the_label_can_be_chosen(
    tmp_path: Path, label_from: str, labels: list[str | None]
) -> None:
    files = {"train/fruit/apple/gala/1.png": png(1), "train/fruit/pear/2.png": png(2),
             "train/milk/3.png": png(3), "train/milk/3.cls": b"white"}  # fmt: skip
    for path in (make_folder(tmp_path / "f", files), make_tar(tmp_path / "a.tar", files),
                 make_zip(tmp_path / "a.zip", files)):  # fmt: skip
        source = open_source(path, label_from=label_from)
        assert [item.label for item in source] == labels
        assert {(item.metadata or {}).get("split") for item in source} == {"train"}
    pattern = open_source(tmp_path / "*.zip", label_from=label_from)
    assert [item.label for item in pattern] == labels


@pytest.mark.parametrize("label_from", ["0", "-1", "second", "", "1.5"])
def test_another_choice_of_the_label_is_refused(label_from: str) -> None:
    with pytest.raises(UsageError, match="first, last, none or a number"):
        folder_labels(["a/1.png"], label_from)


def test_labels_come_from_one_of_table_and_folders(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", {"a/1.png": png(1)})
    with pytest.raises(UsageError, match="leave one option out"):
        open_source(folder, labels=tmp_path / "l.csv", label_from="last")


def test_what_lies_beside_images_is_metadata(tmp_path: Path) -> None:
    fields = b'{"caption": "a cat", "width": 640, "nsfw": false, "score": 0.5, "label": "cat", '
    fields += b'"bad": NaN, "none": null, "exif": {"x": 1}, "big": 1e400, "\\ud800": "\\udfff"}'
    files = {"1.png": png(1), "1.json": fields, "2.png": png(2), "2.json": b"[" * 9000}
    expected = {"caption": "a cat", "width": 640, "nsfw": False, "score": 0.5, r"\ud800": r"\udfff"}
    for path in (make_folder(tmp_path / "f", files), make_tar(tmp_path / "a.tar", files),
                 make_zip(tmp_path / "a.zip", files)):  # fmt: skip
        first, second = open_source(path)
        assert (first.label, first.metadata) == ("cat", expected)
        assert (second.label, second.metadata) == (None, None)


def test_captions_in_a_tar_are_metadata_and_boxes_are_not(tmp_path: Path) -> None:
    files = {
        "1.png": png(1), "1.txt": "eine Mütze\n".encode(),
        "2.png": png(2), "2.txt": b"\xff",
        "3.png": png(3), "3.txt": b"0 0.5 0.5 0.1 0.1\n1 0.2 0.5 0.1 0.1\n",
        "4.txt": b"of the text", "4.json": b'{"caption": "of the fields"}', "4.png": png(4),
    }  # fmt: skip
    metadata = [item.metadata for item in open_source(make_tar(tmp_path / "a.tar", files))]
    assert metadata == [{"caption": "eine Mütze"}, None, None, {"caption": "of the fields"}]


JSON_LINES = """{"file_name": "a/1.png", "text": "ein Hut", "label": "hat"}

[]
{"file_name": "./2.png", "text": "x"}
{"text": "of none"}
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", JSON_LINES),
        ("metadata.csv", "file_name,text,label\na/1.png,ein Hut,hat\n./2.png,x,\n"),
    ],
)  # fmt: skip
def test_a_metadata_file_describes_the_images_below_its_folder(
    tmp_path: Path, name: str, content: str
) -> None:
    files = {"train/a/1.png": png(1), "train/2.png": png(2), "test/3.png": png(3),
             f"train/{name}": content.encode()}  # fmt: skip
    for path in (make_folder(tmp_path / "f", files), make_tar(tmp_path / "a.tar", files),
                 make_zip(tmp_path / "a.zip", files)):  # fmt: skip
        items = {item.key: (item.label, item.metadata) for item in open_source(path)}
        assert items == {
            "train/a/1.png": ("hat", {"split": "train", "text": "ein Hut"}),
            "train/2.png": (None, {"split": "train", "text": "x"}),
            "test/3.png": (None, {"split": "test"}),
        }
        assert passed_over(open_source(path)).summary() == ""
