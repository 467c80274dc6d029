"""Opening and stopping a service, without a server around it."""

import asyncio
from pathlib import Path

import pytest

from base.errors import UsageError
from serving.http.engine.lifecycle import Lifecycle
from serving.http.policy.settings import Settings


def test_there_is_nothing_to_work_with_before_it_is_open() -> None:
    lifecycle = Lifecycle(Settings)
    assert not lifecycle.alive
    assert not lifecycle.warm
    with pytest.raises(RuntimeError, match="not open"):
        _ = lifecycle.runtime


def test_settings_are_read_once_and_not_before_they_are_needed(tiny_encoder: Path) -> None:
    calls: list[int] = []

    def read() -> Settings:
        calls.append(1)
        return Settings(encoder=tiny_encoder)

    lifecycle = Lifecycle(read)
    assert calls == []
    lifecycle.check()
    lifecycle.open()
    runtime = lifecycle.runtime
    lifecycle.open()
    assert lifecycle.runtime is runtime
    assert calls == [1]
    asyncio.run(lifecycle.stop())


def test_it_is_warm_between_start_and_stop(tiny_encoder: Path) -> None:
    states: list[tuple[bool, bool]] = []

    async def main() -> None:
        lifecycle = Lifecycle(lambda: Settings(encoder=tiny_encoder))
        lifecycle.open()
        await lifecycle.start()
        assert lifecycle.alive
        await lifecycle.runtime.embedder.warm_up()
        states.append((lifecycle.alive, lifecycle.warm))
        assert lifecycle.runtime.access is None
        assert await lifecycle.runtime.count_items() is None
        await lifecycle.stop()
        states.append((lifecycle.alive, lifecycle.warm))

    asyncio.run(main())
    assert states == [(True, True), (False, False)]


def test_a_check_opens_nothing(tiny_encoder: Path, tmp_path: Path) -> None:
    settings = Settings(encoder=tiny_encoder, collection=tmp_path / "none")
    lifecycle = Lifecycle(lambda: settings)
    with pytest.raises(UsageError, match="there is no collection at"):
        lifecycle.check()
    assert not (tmp_path / "none").exists()
    asyncio.run(lifecycle.stop())  # without having been opened
