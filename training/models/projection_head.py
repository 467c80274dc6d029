"""Projection heads g(.): features h to the projection z on which the loss is computed.

Thrown away after training: h beats z by more than 10 points (SimCLR section 4.2).
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from base.text import did_you_mean
from training.errors import RecipeError, require

HeadKind = Literal["v1", "v2"]
LAYERS: dict[str, int] = {"v1": 2, "v2": 3}


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """The table [head] of a recipe, g(.): see `projection_head`."""

    kind: HeadKind = "v1"
    hidden: int | None = None  # default: the encoder's feature_dim
    out_dim: int = 128

    def __post_init__(self) -> None:
        require(self.hidden is None or self.hidden > 0, f"head.hidden = {self.hidden}: must be > 0")
        require(self.out_dim > 0, f"head.out_dim = {self.out_dim}: must be above 0")


def projection_head(
    kind: HeadKind, in_dim: int, hidden: int | None = None, out_dim: int = 128
) -> nn.Sequential:
    """Build g(.): [N,in_dim] -> z [N,out_dim].

    "v1" has 2 layers (SimCLR section 2.1), "v2" has 3 (Chen et al. 2020b, section 2). In both, as
    in google-research/simclr (model_util.py): each layer is a linear map without bias and a batch
    norm, then ReLU but for the last one, whose batch norm has a scale and no shift. Weights are
    drawn from a normal distribution of deviation 0.01.

    Args:
        kind: "v1" or "v2".
        in_dim: the encoder's feature_dim.
        hidden: width of the inner layers; default in_dim, as in the paper.
        out_dim: E, the width of z; 128 in the paper.

    Raises:
        RecipeError: unknown kind.
    """
    if kind not in LAYERS:
        raise RecipeError(f"unknown head '{kind}'{did_you_mean(kind, LAYERS)}")
    inner = [hidden or in_dim] * (LAYERS[kind] - 1)
    modules: list[nn.Module] = []
    width = in_dim
    for out in inner:
        modules += [_linear(width, out), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
        width = out
    last_norm = nn.BatchNorm1d(out_dim)
    last_norm.register_parameter("bias", None)
    return nn.Sequential(*modules, _linear(width, out_dim), last_norm)


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=False)
    nn.init.normal_(layer.weight, std=0.01)
    return layer
