from __future__ import annotations

import json
from typing import TYPE_CHECKING

from training.run_folder.metrics import METRICS, Metrics, read_metrics

if TYPE_CHECKING:
    from pathlib import Path


def board_steps(run: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return [(scalar.step, round(scalar.value, 3)) for scalar in events.Scalars(tag)]


def test_a_line_is_on_disk_at_once(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        metrics.write(2, 16, loss=1.5, learning_rate=0.1)
        lines = (tmp_path / METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 2, "samples": 16, "loss": 1.5, "learning_rate": 0.1}
    ]


def test_opening_drops_what_lies_beyond_the_step(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        for step in range(1, 5):
            metrics.write(step, 8 * step, loss=float(step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 5, "sam')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    with Metrics(tmp_path, 2) as metrics:
        metrics.write(3, 24, loss=30.0)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
    ]
    assert board_steps(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_a_folder_without_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
