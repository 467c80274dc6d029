"""Which ResNet a table of tensors is, and whether it fits an encoder to the last number."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch

from base.errors import ArtifactError
from training.models.encoders import RESNETS, Stem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SHOWN = 8  # names of tensors in a message


def resnet_of(
    path: Path, state: Mapping[str, Tensor], encoder: str | None
) -> tuple[str, float, Stem]:
    """Name, width and stem from the names and shapes of a ResNet."""
    conv = state["conv1.weight"]
    channels, colors, side = conv.shape[0], conv.shape[1], conv.shape[2]
    if colors != 3:
        raise ArtifactError(f"{path}: its encoder takes {colors} channels, pictures have 3")
    if side not in (3, 7):
        raise ArtifactError(f"{path}: its first convolution is {side} x {side}: 7 or 3 are known")
    numbers: dict[int, int] = {}
    for part in state:
        match = re.match(r"layer([1-4])\.(\d+)\.", part)
        if match:
            stage = int(match[1])
            numbers[stage] = max(numbers.get(stage, 0), int(match[2]) + 1)
    depths = tuple(numbers.get(stage, 0) for stage in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in state
    named = [
        name
        for name, (block, known) in RESNETS.items()
        if known == depths and (block.expansion == 4) == bottleneck
    ]
    name = named[0] if named else None
    if name is None or encoder not in (None, name):
        kind = "bottlenecks" if bottleneck else "basic blocks"
        what = f"a ResNet with {'-'.join(map(str, depths))} {kind}"
        asked = f", not {encoder}" if encoder else f": {', '.join(RESNETS)} are known"
        raise ArtifactError(f"{path} holds {what}{f' ({name})' if name else ''}{asked}")
    return name, channels / 64, "small" if side == 3 else "imagenet"


def fit(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], encoder: str
) -> dict[str, Tensor]:
    """Return the tensors that an encoder wants, in its types and order.

    Counters of batches may be missing: they are used in training only.

    Raises:
        ArtifactError: a tensor is missing, has another shape or holds what is no number.
    """
    state: dict[str, Tensor] = {}
    for name, like in wanted.items():
        if name not in found and name.endswith("num_batches_tracked"):
            state[name] = like
            continue
        if name not in found:
            raise ArtifactError(f"{path} lacks {name} of {encoder}; {_remedy(found)}")
        tensor = found[name]
        if tensor.shape != like.shape:
            raise ArtifactError(
                f"{path}: {name} is {list(tensor.shape)}, in {encoder} it is {list(like.shape)}; "
                f"{_remedy(found)}"
            )
        state[name] = tensor.to(like.dtype)
        if not torch.isfinite(state[name]).all():
            raise ArtifactError(f"{path}: {name} holds what is no number: the training diverged")
    return state


def _remedy(found: Mapping[str, Tensor]) -> str:
    return f"it holds {inventory(found)}; say which encoder it is with --encoder"


def inventory(tensors: Mapping[str, Tensor]) -> str:
    """Return the first names and shapes, for a message."""
    shown = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:SHOWN]]
    more = len(tensors) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
