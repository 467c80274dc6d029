from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from images.errors import LookalikeError, SourceError
from images.preprocess import PreprocessSpec, load_image
from images.sources import open_source
from training import cache_file
from training.cache import decode_source
from training.pictures import NO_LABEL
from training.progress import Silent
from training.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = PreprocessSpec(size=16)


def test_pictures_labels_and_order_are_those_of_the_source(make_source: Callable[..., Any]) -> None:
    source = make_source(20)
    pictures = decode_source(source, SPEC)
    items = list(source)
    expected = [load_image(item.read(), SPEC)[0] for item in items]
    np.testing.assert_array_equal(pictures.images, np.stack(expected))
    assert [pictures.classes[label] for label in pictures.labels] == [item.label for item in items]
    assert pictures.images.dtype == np.uint8
    assert pictures.images.shape == (20, 16, 16, 3)
    assert pictures.refused == ()


def test_a_folder_is_read_with_its_bad_files_counted(picture_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for kind in ("discs", "ramps"):
        (folder / kind).mkdir(parents=True)
        for file in (picture_folder / kind).iterdir():
            (folder / kind / file.name).write_bytes(file.read_bytes())
    whole = (folder / "discs" / "00.jpg").read_bytes()
    (folder / "discs" / "00.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "ramps" / "03.png").write_bytes(b"")
    pictures = decode_source(open_source(folder), SPEC)
    assert len(pictures) == 18
    assert [(r.key, r.reason) for r in pictures.refused] == [
        ("discs/00.jpg", "truncated"),
        ("ramps/03.png", "empty"),
    ]
    assert pictures.classes == ("discs", "ramps")
    assert np.bincount(pictures.labels).tolist() == [9, 9]


def test_unlabelled_pictures_have_no_label(make_source: Callable[..., Any]) -> None:
    pictures = decode_source(make_source(5, labelled=False), SPEC)
    assert pictures.labels.tolist() == [NO_LABEL] * 5


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
    relabelled = ["red", *source.labels[1:]]
    others = [
        dataclasses.replace(source, contents=[changed, *contents[1:]]),
        dataclasses.replace(source, labels=relabelled),
        dataclasses.replace(source, contents=[contents[1], contents[0], *contents[2:]]),
        make_source(5),
    ]
    assert len({digest(other) for other in others} | {digest(source)}) == 5


def test_a_source_without_one_usable_picture_is_refused(make_source: Callable[..., Any]) -> None:
    source = dataclasses.replace(make_source(1), contents=[b"no picture"])
    with pytest.raises(SourceError, match=r"no usable picture in arrays: all 1 refused.*0000"):
        decode_source(source, SPEC)


def test_a_large_cache_is_a_file_that_is_used_again(
    make_source: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(12)
    contents = list(source.contents)
    source = dataclasses.replace(source, contents=[*contents[:3], b"bad", *contents[4:]])
    in_memory = decode_source(source, SPEC, folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    options: dict[str, Any] = {"folder": tmp_path / "cache", "memory_limit": 1000}
    written = decode_source(source, SPEC, **options)
    monkeypatch.setattr("training.cache.load_image", lambda *_: pytest.fail("decoded twice"))
    read = decode_source(source, SPEC, **options)
    for pictures in (written, read):
        np.testing.assert_array_equal(pictures.images, in_memory.images)
        np.testing.assert_array_equal(pictures.labels, in_memory.labels)
        assert isinstance(pictures.images, np.memmap)
        assert (pictures.digest, pictures.refused) == (in_memory.digest, in_memory.refused)
        assert (pictures.classes, pictures.name) == (in_memory.classes, in_memory.name)
        assert len(pictures) == 11


def test_a_cache_of_other_pictures_or_of_a_killed_run_is_made_anew(
    picture_folder: Path, tmp_path: Path
) -> None:
    def decode(size: int) -> tuple[int, ...]:
        spec = PreprocessSpec(size=size)
        return decode_source(
            open_source(picture_folder), spec, folder=tmp_path / "cache", memory_limit=10
        ).images.shape

    assert decode(16) == (40, 16, 16, 3)
    assert decode(8) == (40, 8, 8, 3)
    (tmp_path / "cache" / "cache.json").write_text("{")
    assert decode(8) == (40, 8, 8, 3)
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["format"] == 1


def test_the_stamp_sees_a_changed_file(picture_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "a" / "x.jpg"
    file.parent.mkdir()
    file.write_bytes((picture_folder / "discs" / "00.jpg").read_bytes())
    before = cache_file.stamp_of(open_source(tmp_path), SPEC)
    assert cache_file.stamp_of(open_source(tmp_path), SPEC) == before
    file.write_bytes((picture_folder / "discs" / "02.jpg").read_bytes())
    assert cache_file.stamp_of(open_source(tmp_path), SPEC) != before


def test_a_full_disk_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match=r"the decoded pictures need .* GB and the disk has"):
        cache_file.create(tmp_path / "cache", (10**9, 10**4, 10**4, 3))


def test_decoding_reports_its_progress(make_source: Callable[..., Any]) -> None:
    class Listener(Silent):
        done: list[int]

        def update(self, done: int, figures: str = "") -> None:  # noqa: ARG002
            self.done.append(done)

    listener = Listener()
    listener.done = []
    decode_source(make_source(5), SPEC, reporter=listener)
    assert listener.done == [1, 2, 3, 4, 5]
