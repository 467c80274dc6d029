"""Optimizers over two groups of parameters: weights, and what is neither decayed nor adapted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from training.errors import require
from training.optim.lars import Lars

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The table [optimizer] of a recipe; a field of another optimizer is not looked at."""

    name: Literal["lars", "sgd", "adamw"] = "lars"
    weight_decay: float = 1e-6
    momentum: float = 0.9  # lars, sgd
    nesterov: bool = False  # sgd
    trust_coefficient: float = 0.001  # lars
    betas: tuple[float, float] = (0.9, 0.999)  # adamw

    def __post_init__(self) -> None:
        require(
            self.weight_decay >= 0, f"optimizer.weight_decay = {self.weight_decay}: must be >= 0"
        )
        require(0 <= self.momentum < 1, f"optimizer.momentum = {self.momentum}: must be in [0,1)")
        require(self.trust_coefficient > 0, "optimizer.trust_coefficient must be above 0")
        require(0 <= min(self.betas) <= max(self.betas) < 1, "optimizer.betas must be in [0,1)")


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay and adaptation; batch norms and biases with neither.

    The paper's code excludes "batch_normalization" and "bias" by name (tf2/model.py); here a vector
    is one of those, however it is shaped: ConvNeXt scales its layers by [C,1,1], a vision
    transformer has a class token of [1,1,C].
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    weights = [p for p in parameters if not _is_vector(p)]
    rest = [p for p in parameters if _is_vector(p)]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": rest, "weight_decay": 0.0, "adapt": False},
    ]


def _is_vector(parameter: nn.Parameter) -> bool:
    return sum(side > 1 for side in parameter.shape) < 2


def build_optimizer(
    module: nn.Module,
    settings: OptimizerSettings,
    rates: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer; its learning rate is set before each step from the schedule's array.

    `rates` may split the groups by a key "rate", a multiple of that learning rate.

    "lars" is the paper's (section 2), for batches of 512 and more. "sgd" is momentum SGD with L2
    decay inside the gradient. "adamw" needs neither large batches nor a tuned rate.
    """
    groups: list[dict[str, Any]] = parameter_groups(module, settings.weight_decay)
    if rates is not None:
        groups = rates(groups)
    if settings.name == "lars":
        return Lars(
            groups,
            lr=0.0,
            momentum=settings.momentum,
            trust_coefficient=settings.trust_coefficient,
        )
    if settings.name == "sgd":
        return torch.optim.SGD(
            groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, foreach=True
        )
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the rate of all groups; one with a "rate" of its own gets that multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)
