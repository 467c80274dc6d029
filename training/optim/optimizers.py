"""Optimizers over two groups of parameters: weights, and what is neither decayed nor adapted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from training.optim.lars import Lars

if TYPE_CHECKING:
    from torch import nn

    from training.recipes.recipe import Optimizer


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
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


def build_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """Build the optimizer; its learning rate is set before each step from the schedule's array.

    "lars" is the paper's (section 2), for batches of 512 and more. "sgd" is momentum SGD with L2
    decay inside the gradient. "adamw" needs neither large batches nor a tuned rate.
    """
    groups = parameter_groups(module, settings.weight_decay)
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
    """Set the rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
