"""Several threads and processes on one collection; SIGKILL and a full disk at any moment."""

import random
import resource
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from base.errors import LookalikeError
from serving.collection import Collection, CollectionBusy, Record, open_collection
from serving.collection.contract.records import checked_rows
from serving.collection.ledger.view import View

Make = Callable[[int], Record]
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


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(
    script: str, *arguments: object
) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """A process and the lines it says; killed at the end if it still runs."""
    with start(script, *arguments) as process:
        assert process.stdout is not None
        try:
            yield process, iter(process.stdout)
        finally:
            process.kill()


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
        given = np.random.default_rng(batch).standard_normal((BATCH, DIM))[number]
        vector = np.asarray(item.vector)
        np.testing.assert_allclose(vector, given / np.linalg.norm(given), atol=1e-6)
    found = collection.search([[1.0] * DIM], len(items) + 10)[0]
    assert sorted(hit.key for hit in found) == [item.key for item in items]


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


def test_a_second_writer_is_refused_until_the_first_is_gone(
    collection: Collection, record: Make
) -> None:
    collection.add([record(1)])
    script = """
        import sys
        from serving.collection import open_collection

        with open_collection(sys.argv[1]) as collection, collection.writing():
            print("holding", flush=True)
            sys.stdin.read()
    """
    with running(script, collection.path) as (holder, lines):
        assert next(lines) == "holding\n"
        with open_collection(collection.path, lock_seconds=0.05) as second:
            for write in (lambda: second.add([record(2)]), lambda: second.remove(["item-001"])):
                with pytest.raises(CollectionBusy, match=f"process {holder.pid} "):
                    write()
            assert second.keys() == ["item-001"]
            assert second.search([record(1).vector], 1)[0][0].key == "item-001"
            holder.kill()
            holder.wait()
            second.add([record(2)])
    assert len(collection) == 2


def test_a_reader_sees_what_another_process_writes(collection: Collection, record: Make) -> None:
    collection.add([record(1)])
    assert collection.search([record(1).vector], 10)[0][0].key == "item-001"
    script = """
        import sys
        from serving.collection import Record, open_collection

        with open_collection(sys.argv[1]) as collection:
            collection.add([Record("theirs", [1.0] * 8, "/theirs")])
            collection.remove(["item-001"])
    """
    with running(script, collection.path) as (writer, _):
        assert writer.wait() == 0
    assert [hit.key for hit in collection.search([[1.0] * DIM], 10)[0]] == ["theirs"]
    collection.add([record(2)])
    assert len(collection.search([[1.0] * DIM], 10)[0]) == 2


def test_searches_during_writes_are_of_one_moment(collection: Collection) -> None:
    """Each answer is that of the collection after some number of operations, never a mixture."""
    operations = 40
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((operations, DIM))
    query = rng.standard_normal(DIM)

    def key(operation: int) -> str:
        return f"{operation:03}"

    answers: list[tuple[str, ...]] = [()]  # the right one after each number of operations
    for done in range(1, operations + 1):
        there = [n for n in range(done) if n + 5 >= done]  # each add removes the one 5 before
        cosines = {key(n): vectors[n] @ query / np.linalg.norm(vectors[n]) for n in there}
        answers.append(tuple(sorted(cosines, key=lambda name: -cosines[name])))
    seen: list[list[tuple[str, ...]]] = [[], [], []]
    stop = threading.Event()

    def look(found: list[tuple[str, ...]]) -> None:
        while not stop.is_set():
            found.append(tuple(hit.key for hit in collection.search([query], 10)[0]))

    threads = [threading.Thread(target=look, args=(found,)) for found in seen]
    for thread in threads:
        thread.start()
    try:
        for operation in range(operations):
            with collection._ledger.writing() as writing:  # add and remove in one transaction
                record = Record(key(operation), vectors[operation], "")
                writing.insert(checked_rows([record], DIM)[0])
                if operation >= 5:
                    writing.remove(writing.find([key(operation - 5)])[key(operation - 5)][0])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for found in seen:
        moments = [answers.index(answer) for answer in found]
        assert moments == sorted(moments)
    assert tuple(hit.key for hit in collection.search([query], 10)[0]) == answers[-1]


def test_threads_may_write_at_the_same_time(collection: Collection) -> None:
    def write(number: int) -> None:
        rng = np.random.default_rng(number)
        for i in range(8):
            collection.add([Record(f"{number}.{i}", rng.standard_normal(DIM), "")])
            if i % 2:
                collection.remove([f"{number}.{i - 1}"])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert collection.keys() == [f"{n}.{i}" for n in range(4) for i in range(1, 8, 2)]
    assert len(collection.search([[1.0] * DIM], 100)[0]) == 16


def test_a_search_overtaken_by_a_write_looks_again(
    collection: Collection, record: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between this search's view of the ledger and its look at the index, another one got ahead."""
    collection.add([record(1), record(2)])
    reading = collection._ledger.reading
    best = Record("best", record(1).vector, "")

    @contextmanager
    def overtaken() -> Iterator[View]:
        monkeypatch.undo()
        with reading() as view:
            collection.add([best])
            collection.remove(["item-001"])
            assert collection.search([best.vector], 1)[0][0].key == "best"
            yield view

    monkeypatch.setattr(collection._ledger, "reading", overtaken)
    hits = collection.search([best.vector], 10)[0]
    assert [hit.key for hit in hits] == ["best", "item-002"]


def test_a_thread_waits_for_the_writing_of_another(collection: Collection, record: Make) -> None:
    with collection.writing():
        collection.add([record(0)])
        other = threading.Thread(target=collection.add, args=([record(99)],))
        other.start()
        for number in range(1, 30):
            collection.add([record(number)])
        assert len(collection) == 30
    other.join()
    assert len(collection) == 31


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this: what a full disk does, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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
