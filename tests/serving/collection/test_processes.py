"""Several threads and processes on one collection."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from serving.collection import Collection, CollectionBusy, Record, open_collection
from serving.collection.contract.records import checked_rows
from serving.collection.ledger.view import View
from tests.serving.collection.processes import running

Make = Callable[[int], Record]
DIM = 8


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

    def look(answered: list[tuple[str, ...]]) -> None:
        while not stop.is_set():
            answered.append(tuple(hit.key for hit in collection.search([query], 10)[0]))

    threads = [threading.Thread(target=look, args=(answered,)) for answered in seen]
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
    for answered in seen:
        moments = [answers.index(answer) for answer in answered]
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
