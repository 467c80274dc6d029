"""Nothing acknowledged is lost: SIGKILL and a full disk at any moment."""

import random
from pathlib import Path

import numpy as np
import pytest

from base.errors import LookalikeError
from serving.collection import Collection, Record, open_collection
from tests.serving.collection.processes import running
from tests.serving.full_disk import largest_file

DIM, BATCH = 8, 10

# A writer that never ends. Operation n removes batch n - 2 if n is 2, 5, 8, … and adds batch n
# otherwise; when it is acknowledged the writer says n. It kills itself at the step it is told, or
# is killed from outside.
WRITER = """
    import os, signal, sys
    import numpy as np
    from serving.collection import Record, open_collection
    from serving.collection.upkeep.index_sync import Follower
    from serving.collection.ledger.write_transaction import WriteTransaction

    folder, operation, step, left = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])

    def die_in(owner, name):
        original = getattr(owner, name)
        def wrapped(*arguments):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)
        setattr(owner, name, wrapped)

    if step == "amid":
        die_in(WriteTransaction, "insert")
    elif step == "before-commit":
        die_in(WriteTransaction, "finish")
    elif step == "after-commit":
        die_in(Follower, "follow")

    with open_collection(folder) as collection:
        while True:
            if operation % 3 == 2:
                collection.remove([f"{operation - 2}.{i}" for i in range(10)])
            else:
                vectors = np.random.default_rng(operation).standard_normal((10, 8))
                collection.add(Record(f"{operation}.{i}", v, "/") for i, v in enumerate(vectors))
            print(operation, flush=True)
            operation += 1
"""


def batches_after(operations: int) -> set[int]:
    """The batches that are there when so many operations are done."""
    there: set[int] = set()
    for operation in range(operations):
        there ^= {operation - 2} if operation % 3 == 2 else {operation}
    return there


def check(collection: Collection, batches: set[int]) -> None:
    """Each item of these batches is there once, is what was given and is found; nothing else."""
    items = collection.items(limit=1_000_000)
    assert [item.key for item in items] == sorted(f"{b}.{i}" for b in batches for i in range(BATCH))
    for item in items:
        batch, number = map(int, item.key.split("."))
        original = np.random.default_rng(batch).standard_normal((BATCH, DIM))[number]
        vector = np.asarray(item.vector)
        np.testing.assert_allclose(vector, original / np.linalg.norm(original), atol=1e-6)
    hits = collection.search([[1.0] * DIM], len(items) + 10)[0]
    assert sorted(hit.key for hit in hits) == [item.key for item in items]


def test_sigkill_loses_nothing_acknowledged_and_leaves_no_half_batch(
    collection: Collection,
) -> None:
    rng = random.Random(11)
    steps = ["amid", "before-commit", "after-commit", "outside", "amid", "outside", "outside"]
    done = 0
    for step in steps:
        left = rng.randrange(1, 40) if step == "amid" else rng.randrange(1, 6)
        acknowledged = done
        with running(WRITER, collection.path, done, step, left) as (writer, lines):
            for line in lines:
                acknowledged = int(line) + 1
                if step == "outside" and acknowledged - done >= left:
                    writer.kill()
            assert writer.wait() == -9
        with open_collection(collection.path) as opened:
            held = {int(key.split(".")[0]) for key in opened.keys(limit=1_000_000)}
            done = acknowledged + (held != batches_after(acknowledged))
            check(opened, batches_after(done))
        check(collection, batches_after(done))  # it was open all the time and caught up
        if step != "outside":
            assert done - acknowledged == (step == "after-commit")
    assert done > len(steps)


def test_a_full_disk_fails_the_batch_and_keeps_the_rest(
    folder: Path, collection: Collection
) -> None:
    acknowledged = 0

    def fill() -> None:
        nonlocal acknowledged
        while True:
            vectors = np.random.default_rng(acknowledged).standard_normal((100, DIM))
            collection.add(
                Record(f"{acknowledged}.{i:02}", v, "/" * 500) for i, v in enumerate(vectors)
            )
            acknowledged += 1

    with largest_file(300_000):
        with pytest.raises(LookalikeError, match=r"ledger\.db.*nothing was changed"):
            fill()
        assert acknowledged
        assert len(collection) == 100 * acknowledged
    with open_collection(folder) as opened:
        assert len(opened) == len(opened.search([[1.0] * DIM], 10_000)[0]) == 100 * acknowledged
    collection.add([Record("after", [1.0] * DIM, "")])
    assert len(collection) == 100 * acknowledged + 1
