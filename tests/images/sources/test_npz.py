import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from base.errors import SourceError
from images.sources.sources import open_source, read_uri

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 5, 7), np.uint8)
COLOR = RNG.integers(0, 256, (6, 5, 7, 3), np.uint8)
LABELS = np.array([1, 0, 2, 2, 0, 1])


def jpegs(count: int = 6) -> list[bytes]:
    files = []
    for index in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 9, 3), index * 20, np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


def encoded(files: list[bytes]) -> dict[str, NDArray[Any]]:
    lengths = [len(file) for file in files]
    return {
        "data": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
    }


def save(folder: Path, **arrays: NDArray[Any]) -> Path:
    np.savez_compressed(folder / "train.npz", allow_pickle=True, **arrays)
    return folder / "train.npz"


@pytest.mark.parametrize("name", ["data", "images", "x"])
@pytest.mark.parametrize("array", [GRAY, COLOR, GRAY.astype(np.uint16), GRAY > 9, COLOR[..., :1]])
def test_pixels(tmp_path: Path, name: str, array: NDArray[Any]) -> None:
    path = save(tmp_path, **{name: array})
    source = open_source(path)
    assert len(source) == 6
    assert source.classes == ()
    for index, item in enumerate(source):
        assert item.key == f"train/{index:05d}"
        assert item.uri == f"npz://{path}#{index}"
        assert item.label is None
        np.testing.assert_array_equal(item.read(), array[index])
        np.testing.assert_array_equal(read_uri(item.uri), array[index])


def test_image_files(tmp_path: Path) -> None:
    files = jpegs()
    source = open_source(save(tmp_path, **encoded(files), labels=LABELS.astype(np.uint8)))
    assert [item.read() for item in source] == files
    assert [read_uri(item.uri) for item in source] == files
    assert source.classes == ("0", "1", "2")


def test_labels_get_their_names_from_the_file_beside(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(["tie", "shoe", "hat", "unseen"]))
    source = open_source(save(tmp_path, images=GRAY, labels=LABELS))
    assert [item.label for item in source] == ["shoe", "tie", "hat", "hat", "tie", "shoe"]
    assert source.classes == ("hat", "shoe", "tie", "unseen")


def test_labels_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text("not for these")
    source = open_source(save(tmp_path, images=GRAY, labels=np.array(list("cabbac"))))
    assert [item.label for item in source] == list("cabbac")
    assert source.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GRAY}, "holds the arrays pictures; images go by data, images, x"),
        ({}, r"holds the arrays \(none\)"),
        ({"images": GRAY * 1j}, r"complex128 \[6, 5, 7\]; store pixels as uint8"),
        ({"images": COLOR.transpose(0, 3, 1, 2)}, r"channels last: transpose\(0, 2, 3, 1\)"),
        ({"images": GRAY[0]}, r"\[5, 7\]; images are"),
        ({"images": GRAY[:0]}, "holds no images"),
        ({"images": GRAY, "labels": LABELS[:5]}, r"int64 \[5\], not one .* \(6\)"),
        ({"images": GRAY, "labels": LABELS / 2}, "float64"),
        ({"images": np.array([None] * 6)}, "not a readable npz file"),
        ({"data": GRAY.ravel(), "offsets": np.array([0, 50, 20])}, "offsets must rise"),
        ({"data": GRAY.ravel(), "offsets": np.array([0, 211])}, "offsets must rise"),
        ({"data": GRAY.ravel(), "offsets": np.array([-1, 20])}, "offsets must rise"),
        ({"data": GRAY.ravel(), "offsets": np.array([], int)}, "offsets must rise"),
        ({"data": GRAY.ravel(), "offsets": np.array([0.0, 20])}, "whole offsets"),
        ({"data": GRAY.ravel().astype(int), "offsets": np.array([0, 20])}, "uint8"),
        ({"data": GRAY.ravel(), "offsets": np.array([0])}, "holds no images"),
    ],
)
def test_arrays_that_do_not_fit_are_told_in_one_line(
    tmp_path: Path, arrays: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_source(save(tmp_path, **arrays))
    assert "train.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ('["a", "b"]', "labels run from 0 to 2, there are 2 class names"),
        ('{"a": 1}', "not a JSON list of class names"),
        ("[1, 2, 3]", "not a JSON list of class names"),
        ("[", "not a JSON list of class names"),
    ],
)
def test_class_names_that_do_not_fit(tmp_path: Path, classes: str, message: str) -> None:
    (tmp_path / "classes.json").write_text(classes)
    with pytest.raises(SourceError, match=message):
        open_source(save(tmp_path, images=GRAY, labels=LABELS))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\3\4 but no zip", b"\x93NUMPY\x01\0"])
def test_what_is_no_zip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"x\.npz is not an npz file: it is not a zip archive"):
        open_source(tmp_path / "x.npz")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.none() | st.integers(0, 10_000),
)
def test_flipped_bytes_and_cuts_never_raise_anything_else(
    tmp_path: Path, flips: list[tuple[int, int]], cut: int | None
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=GRAY, labels=LABELS)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data[:cut])
    try:
        source = open_source(path)
    except SourceError:
        return
    assert len(list(source)) == len(source) > 0
