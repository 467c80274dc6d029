from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from base.progress import Silent
from training.data.batches import HostBatches
from training.data.order import Order
from training.data.settings import DataSettings
from training.data.stream import StreamedBatches
from training.data.training_data import TrainingData, open_training_data
from training.data.value_range import resolve_range

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = torch.device("cpu")


def opened(source: Any, folder: Path, cache: str, memory_limit: int = 0) -> TrainingData:
    settings = DataSettings(image_size=16, cache=cache)  # type: ignore[arg-type]
    return open_training_data(
        source, settings, limit=None, folder=folder, memory_limit=memory_limit, progress=Silent()
    )


@pytest.mark.parametrize(
    ("cache", "memory_limit", "on_disk", "reader"),
    [
        ("auto", 10**9, False, HostBatches),
        ("auto", 1000, True, HostBatches),
        ("memory", 1000, False, HostBatches),
        ("disk", 10**9, True, HostBatches),
        ("stream", 10**9, False, StreamedBatches),
    ],
)
def test_the_batches_are_the_same_wherever_the_images_are(
    cache: str,
    memory_limit: int,
    *,
    on_disk: bool,
    reader: type,
    make_source: Callable[..., Any],
    tmp_path: Path,
) -> None:
    data = opened(make_source(12), tmp_path / "cache", cache, memory_limit)
    assert (tmp_path / "cache").exists() == on_disk
    batches = data.batches(Order(len(data), 4, 0), CPU)
    assert isinstance(batches, reader)
    expected = opened(make_source(12), tmp_path, "memory").batches(Order(12, 4, 0), CPU)
    for step in (0, 4):
        np.testing.assert_array_equal(batches(step).pixels, expected(step).pixels)


def test_a_range_is_measured_only_where_that_is_asked_for(make_source: Callable[..., Any]) -> None:
    numbers = DataSettings(image_size=16, range=(0, 255))
    assert resolve_range(numbers, []) is numbers  # type: ignore[arg-type]
    measured = resolve_range(DataSettings(image_size=16, range="auto"), make_source(4)).values
    assert measured is not None
    assert 0 <= measured[0] < measured[1] <= 255
