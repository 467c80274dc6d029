"""Snapshots of the index: loaded and followed, and never used when damaged or of another ledger."""

import hashlib
import logging
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from serving.collection import Collection, create_collection, open_collection
from serving.collection.ledger.ledger import FILE_NAME, Ledger
from serving.collection.upkeep.snapshot import load, saved_facts
from serving.collection.verification import verify
from tests.serving.collection.clustered import clustered, flip, numbered, tuned_collection

DIM, LONG_DIM = 24, 128


def test_a_snapshot_is_loaded_and_followed(tuned: Collection) -> None:
    queries = clustered(30, 7, DIM)
    before = tuned.search(queries, 5)
    tuned.close()
    with open_collection(tuned.path) as again:
        assert again.stats()["index"]["kind"] == "HNSW16,SQ8"
        assert again.search(queries, 5) == before
        again.add(numbered(queries[:1], first=700_000))
    with open_collection(tuned.path) as later:
        assert later.search(queries[:1], 1)[0][0].key == "700000"
        assert later.stats()["index"]["uncovered"] == 1


def test_the_first_item_after_opening_does_not_copy_all_others(tuned: Collection) -> None:
    tuned.close()
    with open_collection(tuned.path) as again:
        again.search(clustered(1, 8, DIM), 1)
        before = again._follower.index
        again.add(numbered(clustered(1, 8, DIM), first=700_000))
        after = again._follower.index
        assert before is not None
        assert after is not None
        assert len(after) == len(before) + 1
        assert np.shares_memory(before.flat.vectors, after.flat.vectors)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def restate(index: Path, old: str, new: str) -> None:
    """Change what the manifest says."""
    text = (index / "manifest.json").read_text()
    changed = re.sub(old, new, text, count=1)
    assert changed != text
    (index / "manifest.json").write_text(changed)


def move_out(index: Path) -> None:
    """Let the manifest name a file outside its folder; it is there and whole."""
    ids = next(index.glob("ids-*"))
    restate(index, f'"{ids.name}"', f'"../{ids.name}"')
    ids.rename(index.parent / ids.name)


def repeat_an_item(index: Path) -> None:
    """Write an item's number and vector in the row of the next one, checksums and all."""
    for kind, width in (("ids", 8), ("vectors", 4 * DIM)):
        path = next(index.glob(f"{kind}-*"))
        data = bytearray(path.read_bytes())
        before = hashlib.sha256(data).hexdigest()
        data[5 * width : 6 * width] = data[4 * width : 5 * width]
        path.write_bytes(data)
        restate(index, before, hashlib.sha256(data).hexdigest())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit in the graph": lambda index: flip(next(index.glob("graph-*"))),
    "bit in the vectors": lambda index: flip(next(index.glob("vectors-*"))),
    "short": lambda index: next(index.glob("ids-*")).write_bytes(b"12345678"),
    "long": lambda index: lengthen(next(index.glob("nodes-*"))),
    "no graph": lambda index: next(index.glob("graph-*")).unlink(),
    "no nodes": lambda index: next(index.glob("nodes-*")).unlink(),
    "no JSON": lambda index: (index / "manifest.json").write_text("{"),
    "another format": lambda index: (index / "manifest.json").write_text('{"format_version": 9}'),
    "another shape": lambda index: (index / "manifest.json").write_text("[1]"),
    "a moment before all": lambda index: restate(
        index, r'"sequence": \d+', f'"sequence": {-(10**30)}'
    ),
    "a moment to come": lambda index: restate(index, r'"sequence": \d+', '"sequence": 3001'),
    "a file outside": move_out,
    "an item twice": repeat_an_item,
    "more than memory": lambda index: restate(index, r'"bytes": \d+', f'"bytes": {10**18}'),
    "an endless effort": lambda index: restate(index, r'"effort": \d+', '"effort": Infinity'),
    "a scale in words": lambda index: restate(index, r'"scale": [\d.]+', '"scale": "much"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_is_not_used(
    tuned: Collection, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    queries = clustered(5, 7, DIM)
    exact = tuned.search(queries, 5, exact=True)
    tuned.close()
    DAMAGES[damage](tuned.path / "index")
    with closing(Ledger(tuned.path / FILE_NAME)) as ledger, ledger.reading() as view:
        assert load(tuned.path, view) is None  # what follows would wait for a moment to come
    with caplog.at_level(logging.WARNING), open_collection(tuned.path) as again:
        assert again.stats()["index"]["kind"] == "Flat"
        assert again.search(queries, 5) == exact
    assert "collection tune" in caplog.text


def test_a_snapshot_of_another_ledger_is_not_used(
    tuned: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    """As after an older backup was put in place and went on by itself."""
    tuned.close()
    (tuned.path / "ledger.db").unlink()
    with create_collection(tuned.path.parent / "other", "ab" * 32, DIM, recall=0.95) as other:
        other.add(numbered(clustered(3000, 9, DIM)))
    for file in other.path.glob("ledger.db*"):
        file.rename(tuned.path / file.name)
    with caplog.at_level(logging.WARNING), open_collection(tuned.path) as again:
        assert again.search(clustered(3000, 9, DIM)[:1], 1)[0][0].score == 1
    assert "it is of another ledger" in caplog.text


def test_a_new_snapshot_replaces_the_old_one_whole(tuned: Collection) -> None:
    tuned.add(numbered(clustered(5, 3, DIM), first=800_000))
    tuned.save()
    names = sorted(file.name for file in (tuned.path / "index").iterdir())
    assert names == sorted(
        ["manifest.json", *(f"{kind}-3005" for kind in ("graph", "ids", "nodes", "vectors"))]
    )


@pytest.mark.parametrize("damage", ["bit in the graph", "bit in the vectors", "no nodes"])
def test_a_damaged_snapshot_is_built_anew(
    few_lists: None, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tuned_collection(tmp_path / "c", memory=1) as collection:
        before = collection.search(clustered(5, 3, LONG_DIM), 5, exact=True)
    DAMAGES[damage](tmp_path / "c" / "index")
    with caplog.at_level(logging.WARNING), open_collection(tmp_path / "c") as again:
        assert again.search(clustered(5, 3, LONG_DIM), 5) == before
        assert again.stats()["index"]["exact"]
        assert again.maintain()
        assert again.stats()["index"]["kind"] == "IVF32,RaBitQ"
    assert "collection tune" in caplog.text
    assert verify(tmp_path / "c").faults == 0


def test_stats_say_what_was_saved_without_loading_it(few_lists: None, tmp_path: Path) -> None:
    with tuned_collection(tmp_path / "c", index="IVF32,SQ8") as collection:
        loaded = collection.stats()["index"]
    with open_collection(tmp_path / "c", load_index=False) as again:
        saved = again.stats()["index"]
        assert again.stats()["promise"] == {
            "recall": 0.9,
            "memory": None,
            "latency": None,
            "index": "IVF32,SQ8",
        }
    assert saved == loaded | {"loaded": False}
    assert {"median_ms", "p99_ms"} <= saved["measured"].keys()
    assert saved_facts(tmp_path) == {}
