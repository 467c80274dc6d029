import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from base.errors import SourceError
from images.sources.sources import open_source, read_uri

Array = NDArray[np.uint8]


def idx(array: Array) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


IMAGES = np.random.default_rng(0).integers(0, 256, (13, 5, 7), np.uint8)
LABELS = np.array([2, 0, 1, 10] * 3 + [2], np.uint8)


def pair(folder: Path, *, packed: bool) -> Path:
    suffix, pack = (".gz", gzip.compress) if packed else ("", bytes)
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS)))
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(pack(idx(IMAGES)))
    return path


@pytest.mark.parametrize("packed", [True, False])
def test_a_pair(tmp_path: Path, packed: bool) -> None:
    path = pair(tmp_path, packed=packed)
    source = open_source(path)
    items = list(source)
    assert len(source) == len(items) == 13
    assert source.classes == ("0", "1", "10", "2")
    assert [item.key for item in items[:2]] == ["train/00000", "train/00001"]
    assert [item.label for item in items[:4]] == ["2", "0", "1", "10"]
    assert items[12].uri == f"idx://{path}#12"
    for item, image in zip(items, IMAGES, strict=True):
        np.testing.assert_array_equal(item.read(), image)
        np.testing.assert_array_equal(read_uri(item.uri), image)


def test_plain_and_packed_files_may_be_mixed(tmp_path: Path) -> None:
    path = pair(tmp_path, packed=True)
    path.rename(tmp_path / "x")
    path.with_suffix("").write_bytes(idx(IMAGES))
    assert open_source(path.with_suffix("")).classes == ("0", "1", "10", "2")


def test_without_its_labels_file_it_is_unlabeled(tmp_path: Path) -> None:
    path = pair(tmp_path, packed=True)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    source = open_source(path)
    assert source.classes == ()
    assert {item.label for item in source} == {None}


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "shoes #1.bin").write_bytes(idx(IMAGES))
    item = next(iter(open_source(tmp_path / "shoes #1.bin")))
    assert item.key == "shoes #1/00000"
    np.testing.assert_array_equal(read_uri(item.uri), IMAGES[0])


def test_color(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    (tmp_path / "c-images-idx4-ubyte").write_bytes(idx(images))
    (tmp_path / "c-labels-idx1-ubyte").write_bytes(idx(np.array([1, 0], np.uint8)))
    first, second = open_source(tmp_path / "c-images-idx4-ubyte")
    np.testing.assert_array_equal(second.read(), images[1])
    assert first.label == "1"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "truncated: 454 of the 455 bytes"),
        (lambda data: data[:10], "truncated: it ends within its header"),
        (lambda data: data[:2], "not an IDX file of bytes"),
        (lambda _: b"", "not an IDX file of bytes"),
        (lambda data: data + b"x", "continues after 455 bytes"),
        (lambda data: b"\0\0\x0d" + data[3:], "starts with 00 00 0d 03, not 00 00 08"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "truncated"),
        (lambda data: data[:4] + bytes(4) + data[8:16], "holds no images"),
        (lambda _: idx(LABELS), "1 dimension"),
        (lambda _: idx(np.zeros((12, 5, 7), np.uint8)), "13,.* for 12 images"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damage_is_told_in_one_line(
    tmp_path: Path, packed: bool, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = pair(tmp_path, packed=packed)
    data = damage(idx(IMAGES))
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(path)
    assert path.parent.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_is_told_in_one_line(tmp_path: Path) -> None:
    path = pair(tmp_path, packed=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        open_source(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.booleans(), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=5))
def test_flipped_bytes_never_raise_anything_else(
    tmp_path: Path, packed: bool, flips: list[tuple[int, int]]
) -> None:
    path = pair(tmp_path, packed=packed)
    data = bytearray(path.read_bytes())
    for at, value in flips:
        data[at % len(data)] = value
    path.write_bytes(data)
    try:
        source = open_source(path)
    except SourceError:
        return
    assert len(list(source)) == len(source) > 0
