"""Weights of networks that are no plain ResNet: torchvision's and timm's by name, EfficientNets.

The encoder is built first and says which names it wants; the prefix is whatever stands before them
in the file. An EfficientNet with the names of lukemelas/EfficientNet-PyTorch is known by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from training.models.encoders import build_encoder
from training.weights.weight_fit import fit, inventory
from training.weights.weight_layouts import IMAGENET, Layout, unwrapped, which_layout
from training.weights.weight_names import efficientnet_prefixes, efficientnet_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
# (blocks, width of the stem, squeeze and excitation) -> timm's network with the same padding
EFFICIENTNETS = {
    (16, 32, False): "timm:tf_efficientnet_lite0",
    (16, 32, True): "timm:tf_efficientnet_b0",
    (26, 40, True): "timm:tf_efficientnet_b3",
    (32, 48, True): "timm:tf_efficientnet_b4",
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A backbone's weights: what fits the encoder, and what else stood under its prefix."""

    layout: Layout
    prefix: str
    state: dict[str, Tensor]
    extra: set[str]


def efficientnet_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the EfficientNet in a file, if there is one and its kind is beyond doubt."""
    prefixes = efficientnet_prefixes(tensors)
    if len(prefixes) != 1:
        return None
    blocks = {
        int(match[1])
        for name in tensors
        if (match := re.match(re.escape(prefixes[0]) + r"_blocks\.(\d+)\.", name))
    }
    stem = tensors[f"{prefixes[0]}_conv_stem.weight"].shape[0]
    squeezes = any("._se_reduce." in name for name in tensors)
    return EFFICIENTNETS.get((len(blocks), stem, squeezes))


def read_backbone(
    path: Path, tensors: Mapping[str, Tensor], name: str, *, prefix: str | None, image_size: int
) -> Found:
    """Return the weights of a named encoder in a file.

    Args:
        path: for messages.
        tensors: the file's.
        name: torchvision's, or timm's behind "timm:".
        prefix: what stands before the encoder's names; None: what is found.
        image_size: of the images, for vision transformers.

    Raises:
        ArtifactError: a weight is missing or has another shape.
        UsageError: an unknown encoder.
    """
    wanted = build_encoder(name, image_size=image_size).state_dict()
    ours = efficientnet_prefixes(tensors)
    if ours and "efficientnet" in name:
        chosen = _one(path, ours, prefix)
        inside = efficientnet_state(chosen, tensors, wanted)
        norm = LITE if "_lite" in name else IMAGENET
        layout = Layout(name="EfficientNet-PyTorch", prefix=".*", norm=norm)
    else:
        first = next(iter(wanted))
        positions = [
            n.removesuffix(first) for n in tensors if n == first or n.endswith(f".{first}")
        ]
        if not positions:
            raise ArtifactError(
                f"{path} does not hold {name}, whose first weight is {first}: it holds "
                f"{inventory(tensors)}"
            )
        chosen = _one(path, positions, prefix)
        inside = {n[len(chosen) :]: t for n, t in tensors.items() if n.startswith(chosen)}
        layout = which_layout(chosen, tensors)
    state = fit(path, inside, wanted, name)
    return Found(layout=layout, prefix=chosen, state=state, extra=set(inside) - set(wanted))


def _one(path: Path, prefixes: list[str], prefix: str | None) -> str:
    """Return the one prefix, or the one that was asked for."""
    if prefix is not None:
        wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        prefixes = [found for found in prefixes if wanted in (found, unwrapped(found))]
    if len(prefixes) != 1:
        several = ", ".join(f"'{found}'" for found in prefixes[:8]) or "none there"
        raise ArtifactError(f"{path} holds several encoders: choose with --prefix: {several}")
    return prefixes[0]
