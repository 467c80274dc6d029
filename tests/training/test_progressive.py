from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from training.errors import RecipeError
from training.loop import Loop
from training.models.simclr import SimCLR
from training.recipes.build_model import build_model
from training.run_folder.checkpoint import load_checkpoint
from training.train import train
from training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe

STAGES = "training.progressive=[[0.0, 8], [0.5, 12], [0.75, 16]]"


def test_views_are_made_at_the_size_of_their_stage(
    make_recipe: Callable[..., Recipe],
    make_source: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = []
    forward = SimCLR.forward

    def noted(self: SimCLR, views: torch.Tensor) -> torch.Tensor:
        if self.training:
            sides.append(views.shape[-1])
        return forward(self, views)

    monkeypatch.setattr(SimCLR, "forward", noted)
    train(make_source(), make_recipe(STAGES), tmp_path / "run", device="cpu")
    assert sides == [8] * 6 + [12] * 3 + [16] * 3


def test_a_stopped_run_goes_on_at_its_size(
    make_recipe: Callable[..., Recipe],
    make_source: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = make_recipe(STAGES)
    train(make_source(), recipe, tmp_path / "whole", device="cpu")
    advance = Trainer.advance

    def stopped(self: Trainer) -> None:
        if self.step == 7:
            raise KeyboardInterrupt
        advance(self)
        if self.step == 7:
            loops[0]._save()

    loops: list[Loop] = []
    init = Loop.__init__

    def remembered(self: Loop, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        loops.append(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "advance", stopped)
        patched.setattr(Loop, "__init__", remembered)
        with pytest.raises(KeyboardInterrupt):
            train(make_source(), recipe, tmp_path / "cut", device="cpu")
    assert load_checkpoint(tmp_path / "cut").step == 7
    train(make_source(), recipe, tmp_path / "cut", device="cpu", resume=True)
    whole, cut = (load_checkpoint(tmp_path / name).encoder for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_an_encoder_of_one_size_refuses_others(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(
        "encoder.name=timm:vit_tiny_patch16_224",
        "data.image_size=32",
        "data.stored_size=32",
        "training.progressive=[[0.0, 16], [0.5, 32]]",
    )
    with pytest.raises(RecipeError, match="cannot read the views of 16 px"):
        build_model(recipe, torch.device("cpu"))
