"""Copies between folders and Milvus: everything, once, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from base.progress import OnProgress
from serving.collection import AnyCollection, Record, create_collection, open_collection
from serving.collection.contract.locations import Location
from serving.collection.thumbnails import kept_path
from serving.copying import copy, open_target

DIGEST, DIM = "ab" * 32, 8


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.copying.ITEMS", 16)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A collection of 100 items with every kind of content."""
    vectors = np.random.default_rng(0).standard_normal((100, DIM))
    folder = tmp_path / "shop"
    with create_collection(
        folder, DIGEST, DIM, encoder_path=tmp_path / "encoder.onnx", recall=0.9
    ) as made:
        made.add(
            Record(
                key=f"{number:02} é\"'\\",
                vector=vector,
                uri=f"/pictures/{number}.jpg",
                label=["one", 'tw"o', None][number % 3],
                width=number + 1 if number % 2 else None,
                metadata={"n": number, "big": 2**70, "list": [1, "x", None]} if number % 5 else {},
            )
            for number, vector in enumerate(vectors)
        )
    return folder


def everything(collection: AnyCollection) -> list[tuple[Any, ...]]:
    return [
        dataclasses.astuple(dataclasses.replace(item, vector=np.asarray(item.vector).tobytes()))
        for item in collection.items(limit=1000)
    ]


def run(original: Location, target: Location, on_progress: OnProgress | None = None) -> Any:
    with (
        open_collection(original) as opened,
        open_target(opened, target, None) as copied,
    ):
        report = copy(opened, copied, on_progress=on_progress or (lambda *_: None))
        assert everything(copied) == everything(opened)
        assert copied.encoder_digest == opened.encoder_digest == DIGEST
        assert copied.encoder_path == opened.encoder_path
    return report.copied, report.unchanged, report.items


def test_to_milvus_and_back_nothing_is_lost(shop: Path, milvus: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    assert run(shop, milvus, lambda *done: seen.append(done)) == (100, 0, 100)
    assert seen == [(min(done, 100), 100) for done in range(0, 116, 16)]
    assert run(milvus, tmp_path / "back") == (100, 0, 100)
    assert run(shop, tmp_path / "again") == (100, 0, 100)
    with open_collection(tmp_path / "again") as again:
        assert again.stats()["recall"] == 0.9


def test_a_copy_that_was_stopped_goes_on(shop: Path, milvus: str) -> None:
    def stop(done: int, _: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(shop, milvus, stop)
    with open_collection(milvus) as half:
        assert len(half) == 32
        half.add([Record(half.keys(limit=1)[0], [1.0] * DIM, "changed")], "replace")
    assert run(shop, milvus) == (69, 31, 100)
    assert run(shop, milvus) == (0, 100, 100)


def test_a_target_with_other_items_is_refused_and_left_alone(shop: Path, milvus: str) -> None:
    with create_collection(milvus, DIGEST, DIM) as other:
        other.add([Record("mine", [1.0] * DIM, "")])
        with pytest.raises(UsageError, match="'mine'"):
            run(shop, milvus)
        assert other.keys() == ["mine"]


def test_another_encoder_is_refused(shop: Path, tmp_path: Path) -> None:
    create_collection(tmp_path / "other", "cd" * 32, DIM).close()
    with pytest.raises(ArtifactError, match="cdcdcdcd"):
        run(shop, tmp_path / "other")


def test_a_change_during_the_copy_is_noticed(shop: Path, tmp_path: Path) -> None:
    def change(done: int, _: int) -> None:
        if done == 16:
            with open_collection(shop) as writer:
                writer.add([Record("!before everything", [1.0] * DIM, "")])

    with pytest.raises(LookalikeError, match=r"holds 100 items.*101"):
        run(shop, tmp_path / "copy", change)


def test_kept_thumbnails_go_along_from_folder_to_folder(shop: Path, tmp_path: Path) -> None:
    kept = {kept_path(shop / "thumbnails", str(n), DIGEST): bytes([n]) * 100 for n in range(9)}
    for path, image in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    run(shop, tmp_path / "copy")
    copies = {tmp_path / "copy" / path.relative_to(shop): kept[path] for path in kept}
    assert {path: path.read_bytes() for path in (tmp_path / "copy").rglob("*.webp")} == copies
    gone = min(copies)
    gone.unlink()
    gone.with_suffix(".tmp").write_bytes(b"cut off by a kill")
    run(shop, tmp_path / "copy")
    assert {path: path.read_bytes() for path in copies} == copies
    assert not gone.with_suffix(".tmp").exists()


def test_thumbnails_that_cannot_be_copied_are_named(shop: Path, tmp_path: Path) -> None:
    kept = kept_path(shop / "thumbnails", "0", DIGEST)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"WEBP")
    run(shop, tmp_path / "copy")
    (tmp_path / "copy/thumbnails").rename(tmp_path / "elsewhere")
    (tmp_path / "copy/thumbnails").write_bytes(b"in the way")
    with pytest.raises(LookalikeError, match=r"cannot copy the thumbnails .*/shop/thumbnails to"):
        run(shop, tmp_path / "copy")
