from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from base.errors import UsageError
from training.errors import TrainingDivergedError
from training.tuning.lr_finder import Finding, find_learning_rate, sweep
from training.tuning.lr_plot import save_plot, text_plot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe

RATES = np.geomspace(1e-5, 1e3, 200)


class Parabola:
    """Gradient descent on curvature / 2 |w|^2, which converges below a rate of 2 / curvature."""

    def __init__(self, curvature: float) -> None:
        self.curvature, self.w = curvature, torch.ones(4)

    def step(self, rate: float) -> float:
        loss = float(self.curvature / 2 * self.w.square().sum())
        self.w = self.w - rate * self.curvature * self.w
        return loss


@pytest.mark.parametrize("curvature", [0.1, 1.0, 50.0])
def test_the_suggestion_lies_where_descent_is_known_to_work(curvature: float) -> None:
    result = sweep(Parabola(curvature).step, RATES)
    assert result.steepest is not None
    assert 0.003 / curvature < result.steepest < 2 / curvature
    assert result.steepest <= result.minimum
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < len(RATES)


def test_the_running_mean_is_not_drawn_to_its_start_at_zero() -> None:
    result = sweep(lambda _rate: 3.0, RATES)
    assert result.smoothed == pytest.approx([3.0] * len(RATES))
    assert result.steepest is None


@pytest.mark.parametrize("end", ["nan", "error", "rise"])
def test_a_sweep_ends_where_the_loss_runs_away(end: str) -> None:
    def step(rate: float) -> float:
        if rate < 1e-2:
            return 5.0
        if end == "error":
            raise TrainingDivergedError("the loss became nan")
        return float("nan") if end == "nan" else 500.0

    result = sweep(step, RATES)
    assert result.losses[:3] == [5.0] * 3
    assert all(np.isfinite(result.losses))
    assert 70 < len(result.rates) < 80


def test_a_recipe_gets_a_rate_before_its_scaling(
    make_recipe: Callable[..., Recipe], make_source: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = make_recipe(
        "schedule.scaling=linear",
        "training.progressive=[[0.0, 8], [0.5, 16]]",
        "training.batch_size=32",
    )
    finding = find_learning_rate(make_source(64), recipe, device="cpu", steps=60)
    assert finding.learning_rate == pytest.approx(finding.suggested * 256 / 32)
    assert 1e-6 < finding.suggested < 0.1
    assert finding.sweep.losses[0] == pytest.approx(np.log(63), abs=1.0)
    assert json.loads(json.dumps(finding.to_dict()))["batch_size"] == 32
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_named(
    make_recipe: Callable[..., Recipe], make_source: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="4 usable pictures, less than one batch of 8"):
        find_learning_rate(make_source(4), make_recipe(), device="cpu")


@pytest.fixture
def finding() -> Finding:
    result = sweep(Parabola(1.0).step, RATES)
    assert result.steepest is not None
    return Finding(
        recipe="toy",
        batch_size=8,
        scaling="none",
        suggested=result.steepest,
        learning_rate=result.steepest,
        minimum_tenth=result.minimum / 10,
        sweep=result,
    )


def test_the_curve_as_text(finding: Finding) -> None:
    lines = text_plot(finding).splitlines()
    assert len(lines) == 14
    assert max(map(len, lines)) <= 80
    assert lines[-2].strip() == f"▲ {finding.suggested:.2g}"
    assert lines[0].split()[0] == f"{max(finding.sweep.smoothed):.3f}"
    assert "•" in lines[0]


def test_the_curve_as_a_image(finding: Finding, tmp_path: Path) -> None:
    save_plot(finding, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        colors = image.convert("RGB").getcolors(2**16)
    assert colors is not None
    drawn = {color for _, color in colors}
    assert {(255, 255, 255), (0x1F, 0x6F, 0xB4), (0xC0, 0x39, 0x2B)} <= drawn
