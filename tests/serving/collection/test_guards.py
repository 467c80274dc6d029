"""What must not hurt a collection: bad items, a full disk, an unwritable folder, a wrong clock."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import ArtifactError, LookalikeError, UsageError
from serving.collection import (
    AnyCollection,
    Collection,
    CollectionBusy,
    Record,
    create_collection,
    open_collection,
)
from serving.collection.contract.locations import Location
from serving.collection.exporting import export_parquet
from serving.collection.ledger import ledger
from serving.collection.upkeep.rebuilding import NewEncoder
from serving.collection.verification import verify
from tests.serving.collection.conftest import DIGEST, DIM
from tests.serving.collection.ledger.test_ledger import run_sql
from tests.serving.full_disk import largest_file

Make = Callable[[int], Record]


# What is added


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "k" * 65_536}, "65536 bytes; at most 1024"),
        ({"vector": [1.0] * (DIM + 1)}, f"[{DIM + 1}], this collection holds [{DIM}]"),
        ({"vector": [float("nan")] * DIM}, "nan at position 0"),
        ({"vector": [0.0] * DIM}, "the vector is zero"),
        ({"metadata": {"taken": object()}}, "JSON cannot hold its metadata"),
        ({"key": "there"}, "in the collection already: 'there'"),
    ],
)  # fmt: skip
def test_one_bad_item_refuses_its_batch_and_changes_nothing(
    location: Location, record: Make, change: dict[str, object], message: str
) -> None:
    with create_collection(location, DIGEST, DIM) as collection:
        collection.add([replace(record(0), key="there")])
        with pytest.raises(UsageError) as refused:
            collection.add([record(1), replace(record(2), **change), record(3)])  # type: ignore[arg-type]
        assert message in str(refused.value)
        assert collection.keys() == ["there"]


def test_another_encoder_is_told_how_to_bring_the_collection_over(collection: Collection) -> None:
    with pytest.raises(ArtifactError, match=r"lookalike collection rebuild .* --encoder NEW"):
        collection.check_encoder("cd" * 32)


# A full disk


def fill(collection: AnyCollection, count: int, start: int = 0) -> None:
    vectors = np.random.default_rng(start).standard_normal((count, DIM))
    collection.add(
        Record(f"{start + number:06}", vector, "/" * 200) for number, vector in enumerate(vectors)
    )


def store_rebuilt(collection: Collection, _: Path) -> None:
    encoder = NewEncoder(sha256="cd" * 32, dim=DIM, path="/new")
    with collection.rebuilding(encoder) as rebuilder:
        rebuilder.begin()
        pending = rebuilder.pending(0, 10_000)
        rebuilder.store([(one.number, Record(one.item.key, [1.0] * DIM, "")) for one in pending])


WRITES: dict[str, Callable[[Collection, Path], object]] = {
    "add": lambda collection, _: fill(collection, 3000, 10_000),
    "remove": lambda collection, _: collection.remove(collection.keys(limit=10_000)),
    "save": lambda collection, _: collection.save(),
    "tune": lambda collection, _: collection.tune(0.9),
    "compact": lambda collection, _: collection.compact(),
    "backup": lambda collection, out: collection.back_up(out / "copy"),
    "export": lambda collection, out: export_parquet(collection, out / "all.parquet"),
    "rebuild": store_rebuilt,
}


@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_changes_nothing(folder: Path, tmp_path: Path, write: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with create_collection(folder, DIGEST, DIM) as collection:
        fill(collection, 3000)
        collection.save()
        fill(collection, 100, 5000)
        before = [(item.key, np.asarray(item.vector).tobytes()) for item in collection.items()]
        with largest_file(40_000), pytest.raises(LookalikeError) as refused:
            WRITES[write](collection, out)
        assert str(out if write in ("backup", "export") else folder) in str(refused.value)
        assert list(out.iterdir()) == []
        assert not [file for file in (folder / "index").iterdir() if file.name.startswith(".")]
        after = [(item.key, np.asarray(item.vector).tobytes()) for item in collection.items()]
        assert (len(collection), after) == (3100, before)
        assert len(collection.search([[1.0] * DIM], 5000)[0]) == 3100
    result = verify(folder)
    assert (result.items, result.faults, result.snapshot) == (3100, 0, "whole"), result.messages
    with open_collection(folder) as again:  # and with room again it works
        WRITES[write](again, out)


def test_a_rebuilding_that_is_killed_at_its_end_leaves_no_index_of_old_vectors(
    collection: Collection, record: Make
) -> None:
    collection.add(map(record, range(50)))
    collection.save()
    encoder = NewEncoder(sha256="cd" * 32, dim=DIM, path="/new")
    with collection.rebuilding(encoder) as rebuilder:
        rebuilder.begin()
        pending = rebuilder.pending(0, 100)
        assert verify(collection.path).snapshot == "whole"
        rebuilder.store([(one.number, record(100 + one.number)) for one in pending])
        rebuilder.finish([])
    result = verify(collection.path)
    assert (result.faults, result.snapshot) == (0, "none"), result.messages


# A folder that may only be read


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user comes to; pytest's own let nobody else in."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


READER = """
    import os, sys
    import numpy as np
    from base.errors import LookalikeError
    from serving.collection import Record, open_collection
    from serving.collection.verification import verify

    folder = sys.argv[1]
    if os.getuid() == 0:  # nothing is forbidden to root
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with open_collection(folder) as collection:
        for line in sys.stdin:
            hits = collection.search([[1.0] * 8], 1000, filter={"even": True})[0]
            print(len(collection), len(hits), collection.get("item-003") is not None, flush=True)
        for write in (lambda: collection.add([Record("x", [1.0] * 8, "")]),
                      lambda: collection.remove(["item-003"]), collection.save):
            try:
                write()
            except LookalikeError as error:
                print(f"cannot write to {folder}" in str(error), flush=True)
    print(verify(folder).faults)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="users and modes are POSIX's")
def test_who_may_only_read_searches(shared: Path, record: Make) -> None:
    folder = shared / "shop"
    with create_collection(folder, DIGEST, DIM) as collection:
        collection.add(map(record, range(60)))
        collection.save()
    for path in (folder, folder / "index"):
        path.chmod(0o555)
    for file in (*folder.glob("*.*"), *(folder / "index").iterdir()):
        file.chmod(0o444)
    command = [sys.executable, "-c", textwrap.dedent(READER), str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def ask() -> str:
            print("search", file=reader.stdin, flush=True)
            return reader.stdout.readline() if reader.stdout is not None else ""

        assert ask() == "60 30 True\n"  # alone: the file holds everything
        if os.getuid() == 0:  # or there is nobody else to write
            with open_collection(folder) as writer:
                writer.add([record(100)])
                writer.remove(["item-003"])
                assert ask() == "60 31 False\n", "it sees what someone else writes"
            assert ask() == "60 31 False\n"
        rest, _ = reader.communicate()
    assert rest.split() == ["True"] * 3 + ["0"]


def test_what_was_read_while_someone_began_to_write_does_not_count(
    collection: Collection, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection.add([record(1)])
    collection.close()
    monkeypatch.setattr(ledger, "is_writable", lambda _: False)
    with open_collection(collection.path) as reader:
        assert len(reader) == 1

        def read() -> None:
            with reader._ledger.reading() as view:
                assert view.count() == 1
                run_sql(collection.path, "UPDATE items SET label = 'other'")

        with pytest.raises(CollectionBusy, match="try again"):
            read()
        item = reader.get("item-001")
        assert item is not None
        assert item.label == "other"


# A clock that goes back


@pytest.mark.parametrize("seconds", [0, 4_000_000_000])
def test_nothing_depends_on_the_clock(
    folder: Path, record: Make, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files from 1970 or 2096, a collection made in the future: the order is that of changes."""
    with create_collection(folder, DIGEST, DIM) as collection:
        collection.add(map(record, range(50)))
        collection.save()
        collection.remove(["item-001"])
    run_sql(folder, "UPDATE collection SET created = '2096-10-02T07:06:40+00:00'")
    for file in (folder, *folder.rglob("*")):
        os.utime(file, (seconds, seconds))
    monkeypatch.setattr("time.time", lambda: 1.0)
    with open_collection(folder) as again, open_collection(folder) as reader:
        assert len(reader.search([record(1).vector], 100)[0]) == 49
        again.add([record(1)])
        again.add([replace(record(2), label="new")], "replace")
        labels = {hit.key: hit.label for hit in reader.search([record(1).vector], 100)[0]}
        assert (len(labels), labels["item-002"]) == (50, "new")
        again.save()
    found_of = verify(folder)
    assert (found_of.items, found_of.faults, found_of.snapshot) == (50, 0, "whole")
