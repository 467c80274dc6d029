"""Access to a collection: searches that are timed, changes one after the other."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from images.pixels.preprocess import PreprocessSpec
from serving.collection import Record, create_collection, open_collection
from serving.http.engine.collection_access import CollectionAccess
from serving.http.engine.cores import SMALL, Cores
from serving.http.engine.thumbnails import Thumbnails
from serving.http.telemetry import timing

DIM = 4
Scenario = Callable[[CollectionAccess], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Scenario], None]:
    """Run a scenario with access to a collection of the unit vectors `0` to `3`."""
    with create_collection(tmp_path / "shop", "0" * 64, DIM) as collection:
        rows = np.eye(DIM, dtype=np.float32)
        collection.add(Record(f"{n}", row, "/") for n, row in enumerate(rows))

    def play(scenario: Scenario) -> None:
        async def main() -> None:
            cores = Cores(1, SMALL)
            thumbnails = Thumbnails(None, PreprocessSpec(size=32), max_pixels=10**6)
            access = CollectionAccess(open_collection(tmp_path / "shop"), thumbnails, cores)
            try:
                await scenario(access)
            finally:
                await access.stop()
                await cores.stop()

        asyncio.run(main())

    return play


SEARCHES: dict[str, Callable[[CollectionAccess], Awaitable[object]]] = {
    "search": lambda access: access.search(np.ones(DIM, np.float32), 2),
    "similar": lambda access: access.similar("0", k=2),
    "mixed": lambda access: access.search_mixed(["0"], ["1"], k=2),
}


@pytest.mark.parametrize("search", SEARCHES)
def test_every_search_is_timed(run: Callable[[Scenario], None], search: str) -> None:
    async def scenario(access: CollectionAccess) -> None:
        account = timing.begin()
        hits = await SEARCHES[search](access)
        assert isinstance(hits, list)
        assert hits
        assert set(account) == {"search"}

    run(scenario)


def test_items_are_counted_and_looked_up_untimed(run: Callable[[Scenario], None]) -> None:
    async def scenario(access: CollectionAccess) -> None:
        account = timing.begin()
        assert (await access.count(), access.dim) == (DIM, DIM)
        item = await access.get("2")
        assert item is not None
        assert item.key == "2"
        assert await access.get("absent") is None
        assert account == {}

    run(scenario)


def test_changes_are_made_one_after_the_other(run: Callable[[Scenario], None]) -> None:
    at_once: list[int] = []
    running = 0

    def change(access: CollectionAccess, key: str) -> None:
        nonlocal running
        running += 1
        at_once.append(running)
        access.current.add([Record(key, [1.0] * DIM, "/")])
        running -= 1

    async def scenario(access: CollectionAccess) -> None:
        await asyncio.gather(*(access.write(change, access, f"new {n}") for n in range(8)))
        assert await access.count() == DIM + 8

    run(scenario)
    assert at_once == [1] * 8


def test_stopping_closes_the_collection(run: Callable[[Scenario], None]) -> None:
    kept: list[CollectionAccess] = []

    async def scenario(access: CollectionAccess) -> None:
        kept.append(access)

    run(scenario)
    with pytest.raises(Exception, match="closed"):
        kept[0].current.get("0")
