"""docs/paper-audit.md: every line of its table holds, and stands where it says."""

from __future__ import annotations

from math import isclose, log
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from training.augment.augment import Augmentation
from training.models.encoders import build_encoder
from training.models.projection_head import LAYERS
from training.optim.losses import LossSettings, nt_xent
from training.optim.optimizers import parameter_groups
from training.optim.schedule import peak_learning_rate, warmup_cosine
from training.parallel.global_batch_norm import GlobalBatchNorm
from training.protocols.linear import GRID
from training.protocols.supervised import CROP_AND_FLIP, MOMENTUM, Lesson
from training.recipes.recipe_files import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper-audit.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| paper ")
]


def _parameters(name: str, width: float) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_encoder(name, width=width).parameters())


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    torch.manual_seed(0)
    ones: Callable[..., torch.Tensor] = torch.ones
    return {
        "imagenet": load_recipe("imagenet"),
        "imagenet_v2": load_recipe("imagenet-v2"),
        "cifar10": load_recipe("cifar10"),
        "parameters": _parameters,
        "small": build_encoder("resnet18", width=0.125),
        "z": torch.randn(8, 4),
        "ones": ones,
        "BatchNorm": _BatchNorm,
        "LOSSES": get_args(get_type_hints(LossSettings)["name"]),
        **{
            item.__name__: item
            for item in (
                Augmentation,
                GlobalBatchNorm,
                Lesson,
                LossSettings,
                build_encoder,
                isclose,
                log,
                nt_xent,
                parameter_groups,
                peak_learning_rate,
                warmup_cosine,
            )
        },
        "LAYERS": LAYERS,
        "GRID": GRID,
        "MOMENTUM": MOMENTUM,
        "CROP_AND_FLIP": CROP_AND_FLIP,
    }


def test_the_table_is_whole() -> None:
    assert len(ROWS) > 55
    assert {len(row) for row in ROWS} == {4}
    sections = " ".join(row[0] for row in ROWS)
    for section in ("2.1", "2.2", "2.3", "4.1", "4.2", "5.1", "5.2", "A", "B.1", "B.5", "B.9"):
        assert section in sections


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_line_holds_where_it_says(row: list[str], names: dict[str, Any]) -> None:
    _, _, expression, location = row
    assert eval(expression.strip("`"), {"__builtins__": __builtins__, **names})
    path, _, subject = location.partition(" ")
    assert subject.strip("`") in (ROOT / path).read_text(encoding="utf-8")
