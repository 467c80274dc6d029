"""The original SimCLR's ResNets (google-research/simclr, v1 and v2), by their variables' names.

TensorFlow 1 numbers layers as they are made: `base_model/conv2d/kernel`, then `conv2d_1`, and batch
norms likewise. So the n-th convolution of the file is the n-th that `resnet.py` of that project
makes: stem, then per block the projection of the shortcut before the block's own.
Kernels are [height, width, in, out] there and [out, in, height, width] here.

Its ResNets of basic blocks (18, 34) project the first shortcut too, which these encoders do not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from training.models.encoders import RESNETS, Stem, stem_of_kernel
from training.weights.weight_layouts import NONE, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

SIMCLR = Layout(name="google-research/simclr", prefix=r"base_model/", norm=NONE, norm_small=NONE)
_KERNEL = re.compile(r"^(.*?)conv2d(?:_(\d+))?/kernel(?::0)?$")
_NORM = re.compile(r"^(.*?)(?:sync_)?batch_normalization(?:_(\d+))?/(\w+?)(?::0)?$")
_STATISTICS = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorflowResNet:
    """A ResNet of TensorFlow under torchvision's names."""

    prefix: str
    encoder: str
    width: float
    stem: Stem
    selective_kernels: bool
    state: dict[str, Tensor]


def read_tensorflow(path: Path, tensors: Mapping[str, Tensor]) -> TensorflowResNet | None:
    """Return the ResNet in a table of TensorFlow's variables; None: not such a table.

    Raises:
        ArtifactError: such a table, but no ResNet of bottlenecks.
    """
    prefix = next((match[1] for name in tensors if (match := _KERNEL.match(name))), None)
    if prefix is None:
        return None
    kernels: dict[int, Tensor] = {}
    norms: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kernel, norm = _KERNEL.match(name), _NORM.match(name)
        if kernel is not None and kernel[1] == prefix:
            kernels[int(kernel[2] or 0)] = tensor
        elif norm is not None and norm[1] == prefix and norm[3] in _STATISTICS:
            norms.setdefault(int(norm[2] or 0), {})[_STATISTICS[norm[3]]] = tensor
    for encoder, (block, depths) in RESNETS.items():
        for selective in (False, True):
            if block.expansion == 4 and len(_order(depths, selective=selective)) == len(kernels):
                return _named(prefix, encoder, kernels, norms, selective=selective)
    choices = ", ".join(name for name, (block, _) in RESNETS.items() if block.expansion == 4)
    raise ArtifactError(
        f"{path} holds {len(kernels)} convolutions under '{prefix}', which is not one of "
        f"{choices}, with or without selective kernels"
    )


def _named(
    prefix: str,
    encoder: str,
    kernels: Mapping[int, Tensor],
    norms: Mapping[int, Mapping[str, Tensor]],
    *,
    selective: bool,
) -> TensorflowResNet:
    order = _order(RESNETS[encoder][1], selective=selective)
    state: dict[str, Tensor] = {}
    for (conv, _), (_, kernel) in zip(order, sorted(kernels.items()), strict=True):
        state[f"{conv}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
    named = [norm for _, norm in order if norm is not None]
    for name, (_, statistics) in zip(named, sorted(norms.items()), strict=False):
        state |= {f"{name}.{kind}": tensor for kind, tensor in statistics.items()}
    first = state["conv1.0.weight" if selective else "conv1.weight"]
    wide = first.shape[0] * (2 if selective else 1)
    return TensorflowResNet(
        prefix=prefix,
        encoder=encoder,
        width=wide / 64,
        stem="imagenet" if selective else stem_of_kernel(first.shape[2]),
        selective_kernels=selective,
        state=state,
    )


def _order(depths: tuple[int, ...], *, selective: bool) -> list[tuple[str, str | None]]:
    """(convolution, its batch norm) of a ResNet of bottlenecks, as TensorFlow made them."""
    stem: list[tuple[str, str | None]] = [("conv1", "bn1")]
    if selective:
        stem = [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]
    shortcut = ("downsample.1", "downsample.2") if selective else ("downsample.0", "downsample.1")
    middle: list[tuple[str, str | None]] = [("conv2", "bn2")]
    if selective:
        middle = [("conv2.conv", "conv2.bn"), ("conv2.squeeze", "conv2.squeeze_bn")]
        middle.append(("conv2.mix", None))
    order = stem
    for stage, depth in enumerate(depths, start=1):
        for position in range(depth):
            first = [shortcut] if position == 0 else []
            for conv, norm in (*first, ("conv1", "bn1"), *middle, ("conv3", "bn3")):
                block = f"layer{stage}.{position}."
                order.append((block + conv, None if norm is None else block + norm))
    return order
