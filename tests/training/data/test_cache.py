from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from base.errors import LookalikeError, SourceError
from base.progress import Silent
from images.pixels.preprocess import PreprocessSpec, load_image, preprocess
from images.sources.sources import open_source
from training.data import cache_file
from training.data.cache import decode_source
from training.data.dataset import NO_LABEL, ImageDataset
from training.data.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = PreprocessSpec(size=16)


def test_images_labels_and_order_are_those_of_the_source(make_source: Callable[..., Any]) -> None:
    source = make_source(20)
    dataset = decode_source(source, SPEC)
    items = list(source)
    expected = [load_image(item.read(), SPEC)[0] for item in items]
    np.testing.assert_array_equal(dataset.images, np.stack(expected))
    assert [dataset.classes[label] for label in dataset.labels] == [item.label for item in items]
    assert dataset.images.dtype == np.uint8
    assert dataset.images.shape == (20, 16, 16, 3)
    assert dataset.refused == ()


def test_a_folder_is_read_with_its_bad_files_counted(image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for kind in ("discs", "ramps"):
        (folder / kind).mkdir(parents=True)
        for file in (image_folder / kind).iterdir():
            (folder / kind / file.name).write_bytes(file.read_bytes())
    whole = (folder / "discs" / "00.jpg").read_bytes()
    (folder / "discs" / "00.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "ramps" / "03.png").write_bytes(b"")
    dataset = decode_source(open_source(folder), SPEC)
    assert len(dataset) == 18
    assert [(r.key, r.reason) for r in dataset.refused] == [
        ("discs/00.jpg", "truncated"),
        ("ramps/03.png", "empty"),
    ]
    assert dataset.classes == ("discs", "ramps")
    assert np.bincount(dataset.labels).tolist() == [9, 9]


def test_unlabeled_images_have_no_label(make_source: Callable[..., Any]) -> None:
    dataset = decode_source(make_source(5, labeled=False), SPEC)
    assert dataset.labels.tolist() == [NO_LABEL] * 5


def test_a_limit_is_spread_over_the_source(make_source: Callable[..., Any]) -> None:
    source = make_source(40)
    some = decode_source(source, SPEC, limit=4)
    every = decode_source(source, SPEC)
    np.testing.assert_array_equal(some.images, every.images[spread(40, 4)])
    assert len(decode_source(source, SPEC, limit=400)) == 40


def test_the_digest_sees_pixels_labels_and_order(make_source: Callable[..., Any]) -> None:
    def digest(source: Any) -> str:
        return decode_source(source, SPEC).digest

    source = make_source(6)
    assert digest(source) == digest(make_source(6))
    contents = list(source.contents)
    changed = contents[0].copy()
    changed[:12] = 255 - changed[:12]
    relabeled = ["red", *source.labels[1:]]
    others = [
        dataclasses.replace(source, contents=[changed, *contents[1:]]),
        dataclasses.replace(source, labels=relabeled),
        dataclasses.replace(source, contents=[contents[1], contents[0], *contents[2:]]),
        make_source(5),
    ]
    assert len({digest(other) for other in others} | {digest(source)}) == 5


def test_a_source_without_one_usable_image_is_refused(make_source: Callable[..., Any]) -> None:
    source = dataclasses.replace(make_source(1), contents=[b"no picture"])
    with pytest.raises(SourceError, match=r"no usable picture in arrays: all 1 refused.*0000"):
        decode_source(source, SPEC)


def test_a_large_cache_is_a_file_that_is_used_again(
    make_source: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(12)
    contents = list(source.contents)
    source = dataclasses.replace(source, contents=[*contents[:3], b"bad", *contents[4:]])
    in_memory = decode_source(source, SPEC, folder=tmp_path / "cache", memory_limit=10**9)
    assert not (tmp_path / "cache").exists()
    options: dict[str, Any] = {"folder": tmp_path / "cache", "memory_limit": 1000}
    written = decode_source(source, SPEC, **options)
    monkeypatch.setattr(
        "training.data.cache.decode_in_order", lambda *_: pytest.fail("decoded twice")
    )
    read = decode_source(source, SPEC, **options)
    for dataset in (written, read):
        np.testing.assert_array_equal(dataset.images, in_memory.images)
        np.testing.assert_array_equal(dataset.labels, in_memory.labels)
        assert isinstance(dataset.images, np.memmap)
        assert (dataset.digest, dataset.refused) == (in_memory.digest, in_memory.refused)
        assert (dataset.classes, dataset.name) == (in_memory.classes, in_memory.name)
        assert len(dataset) == 11


class Listener(Silent):
    """Keeps what was said; raises KeyboardInterrupt when so many images are done."""

    def __init__(self, stop: int = -1) -> None:
        self.stop, self.said, self.done = stop, list[str](), list[int]()

    def message(self, line: str) -> None:
        self.said.append(line)

    def update(self, done: int, figures: str = "") -> None:  # noqa: ARG002
        self.done.append(done)
        if done == self.stop:
            raise KeyboardInterrupt


def cached(source: Any, folder: Path, progress: Listener, size: int = 16) -> ImageDataset:
    spec = PreprocessSpec(size=size)
    return decode_source(source, spec, whole=True, folder=folder, memory_limit=0, progress=progress)


def test_a_cache_that_was_stopped_is_resumed(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    source, folder = make_source(12), tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        cached(source, folder, Listener(stop=7))
    with (folder / "items.jsonl").open("a") as file:
        file.write('{"shape": [16')  # a killed writer's last line
    with (folder / "pixels.bin").open("ab") as file:
        file.write(b"half a picture")
    listener = Listener()
    dataset = cached(source, folder, listener)
    assert listener.done == [8, 9, 10, 11, 12]
    assert "12 pictures are decoded once, to about 0.0 GB" in listener.said[0]
    straight = decode_source(source, SPEC, whole=True)
    np.testing.assert_array_equal(dataset.images, straight.images)
    assert dataset.digest == straight.digest


@pytest.mark.parametrize("damage", ["pixels", "short", "entry", "declaration", "other form"])
def test_a_damaged_cache_is_repaired_or_made_anew(
    damage: str, make_source: Callable[..., Any], tmp_path: Path
) -> None:
    source, folder = make_source(12), tmp_path / "cache"
    straight = cached(source, folder, Listener())
    expected, digest = np.array(straight.images), straight.digest
    del straight
    pixels, items = (folder / "pixels.bin"), (folder / "items.jsonl")
    if damage == "pixels":
        content = bytearray(pixels.read_bytes())
        content[1000] ^= 1
        pixels.write_bytes(content)
    elif damage == "short":
        pixels.write_bytes(pixels.read_bytes()[:-1])
    elif damage == "entry":
        lines = items.read_text().splitlines(keepends=True)
        items.write_text("".join([*lines[:5], "what\n", *lines[6:]]))
    elif damage == "declaration":
        (folder / "cache.json").write_text("{")
    else:
        assert cached(source, folder, Listener(), size=8).images.shape == (12, 8, 8, 3)
    again = cached(source, folder, Listener())
    np.testing.assert_array_equal(again.images, expected)
    assert again.digest == digest
    assert json.loads((folder / "cache.json").read_text())["format"] == 2


def test_images_keep_their_shape_where_they_may(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    shapes = [(30, 20), (20, 30), (16, 16), (10, 12), (200, 16), (40, 40)]
    contents = [random.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    source = dataclasses.replace(make_source(6), contents=contents)
    dataset = decode_source(source, SPEC, whole=True)
    assert dataset.sizes is not None
    stored = [(24, 16), (16, 24), (16, 16), (10, 12), (32, 16), (16, 16)]
    assert dataset.sizes.tolist() == [list(size) for size in stored]
    np.testing.assert_array_equal(dataset[2], contents[2])
    np.testing.assert_array_equal(dataset[3], contents[3])  # not enlarged
    np.testing.assert_array_equal(dataset[4], contents[4][84:116])  # not shrunk: its middle
    expected = Image.fromarray(contents[0]).resize((16, 24), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(dataset[0], np.asarray(expected))
    canvas = dataset.canvas(np.array([3, 0, 4]))
    assert canvas.shape == (3, 32, 16, 3)
    np.testing.assert_array_equal(canvas[0, :10, :12], dataset[3])
    assert not canvas[0, 10:].any()
    assert not canvas[0, :, 12:].any()
    spec = PreprocessSpec(size=8)
    squares = dataset.squares([0, 3], spec)
    np.testing.assert_array_equal(squares, [preprocess(dataset[i], spec) for i in (0, 3)])
    assert dataset.squares([], spec).shape == (0, 8, 8, 3)
    on_disk = cached(source, tmp_path, Listener())
    assert on_disk.digest == dataset.digest
    np.testing.assert_array_equal(on_disk.images, dataset.images)
    alike = decode_source(dataclasses.replace(source, contents=contents[:1] * 6), SPEC, whole=True)
    assert alike.sizes is None
    assert alike.images.shape == (6, 24, 16, 3)


def test_the_stamp_sees_a_changed_file(image_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.jpg"
    file.parent.mkdir()
    file.write_bytes((image_folder / "discs" / "00.jpg").read_bytes())
    before = cache_file.stamp_of(open_source(tmp_path), "form")
    assert cache_file.stamp_of(open_source(tmp_path), "form") == before
    assert cache_file.stamp_of(open_source(tmp_path), "other") != before
    file.write_bytes((image_folder / "discs" / "02.jpg").read_bytes())
    assert cache_file.stamp_of(open_source(tmp_path), "form") != before


def test_a_full_disk_is_known_before_the_work(
    make_source: Callable[..., Any], tmp_path: Path
) -> None:
    file = cache_file.CacheFile(tmp_path / "cache", "stamp")
    entries = file.read(make_source(1), [])
    with pytest.raises(LookalikeError, match=r"the decoded pictures need .* GB and the disk has"):
        file.begin(entries, 10**18)


def test_decoding_reports_its_progress(make_source: Callable[..., Any]) -> None:
    listener = Listener()
    decode_source(make_source(5), SPEC, progress=listener)
    assert listener.done == [1, 2, 3, 4, 5]
