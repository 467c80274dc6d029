"""Contestants train, are measured alike and reported under the agreed names; nothing is judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.accuracy_contestants import LIGHTLY, LIGHTLY_ADAMW, OURS, compete, rate_at
from benchmarks.accuracy_per_minute import main, report

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 30)):
        labels = np.arange(count) % 2
        images = random.integers(0, 120, (count, 32, 32, 3), dtype=np.uint8)
        images[labels == 1, :, :, 0] += 130
        np.save(tmp_path / f"{split}.npy", images)
        np.save(tmp_path / f"{split}-labels.npy", labels)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    return tmp_path


@pytest.mark.parametrize("name", [OURS, LIGHTLY, LIGHTLY_ADAMW])
def test_a_contestant_trains_for_its_time_and_is_measured(name: str, folder: Path) -> None:
    if name != OURS:
        pytest.importorskip("lightly")
    seconds = 1.5 if name == OURS else 0.5  # a step or two
    result = compete(name, seed=3, seconds=seconds, folder=folder)
    assert result["seed"] == 3
    assert result["cpu_s"] >= seconds
    assert result["samples"] > 0
    assert result["samples"] % 128 == 0
    assert (90 if name == OURS else 0) <= result["knn"] <= 100  # ours: red against gray


def test_rates_follow_the_clock() -> None:
    assert rate_at(0.0, 0.1, 0.1) == 0
    assert rate_at(0.05, 0.1, 0.1) == pytest.approx(0.05)
    assert rate_at(0.1, 0.1, 0.1) == pytest.approx(0.1)
    assert rate_at(0.55, 0.1, 0.1) == pytest.approx(0.05, rel=1e-3)
    assert rate_at(0.9999, 0.1, 0.1) < 1e-6


def test_without_images_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["accuracy_per_minute", "--short", "--data", str(tmp_path)])
    main()
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["metrics"] == {"knn_ours": None, "knn_lightly": None}
    assert f"{tmp_path} has no train.npz" in document["details"]["not measured"]


def test_the_report_takes_lightlys_better_row(capsys: pytest.CaptureFixture[str]) -> None:
    def result(knn: float) -> dict[str, float]:
        return {"knn": knn, "seed": 0, "samples": 10, "cpu_s": 1.0}

    report({OURS: [result(50), result(52)], LIGHTLY: [result(40)], LIGHTLY_ADAMW: [result(43)]}, 60)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["metrics"] == {"knn_ours": 51, "knn_lightly": 43}
    assert document["details"]["knn_lightly"] == LIGHTLY_ADAMW
