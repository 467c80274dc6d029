"""Weights of networks other than plain ResNets: torchvision's and timm's by name, EfficientNets.

The encoder is built first and says which names it needs; the prefix is whatever stands before them
in the file. An EfficientNet with the names of lukemelas/EfficientNet-PyTorch is known by them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from training.weights.weight_fit import inventory
from training.weights.weight_layouts import (
    IMAGENET,
    SHOWN,
    Layout,
    only_prefix,
    select_prefixes,
    under_prefix,
    which_layout,
)
from training.weights.weight_names import efficientnet_prefixes, efficientnet_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

EFFICIENTNET_PYTORCH = "EfficientNet-PyTorch"
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
# (blocks, widths of the stem and before the last convolution, squeeze and excitation) -> timm's
# network with the same padding
EFFICIENTNETS = {
    (16, 32, 320, False): "timm:tf_efficientnet_lite0",
    (21, 32, 320, False): "timm:tf_efficientnet_lite1",
    (21, 32, 352, False): "timm:tf_efficientnet_lite2",
    (24, 32, 384, False): "timm:tf_efficientnet_lite3",
    (30, 32, 448, False): "timm:tf_efficientnet_lite4",
    (16, 32, 320, True): "timm:tf_efficientnet_b0",
    (23, 32, 320, True): "timm:tf_efficientnet_b1",
    (23, 32, 352, True): "timm:tf_efficientnet_b2",
    (26, 40, 384, True): "timm:tf_efficientnet_b3",
    (32, 48, 448, True): "timm:tf_efficientnet_b4",
}


@dataclass(frozen=True, kw_only=True)
class LocatedBackbone:
    """A backbone in a file, not yet fitted to an encoder."""

    layout: Layout
    prefix: str
    tensors: dict[str, Tensor]  # under the encoder's names, a classifier's as well


def efficientnet_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the EfficientNet in a file, if there is exactly one of a known kind."""
    prefixes = efficientnet_prefixes(tensors)
    if len(prefixes) != 1:
        return None
    blocks = {
        int(match[1])
        for name in tensors
        if (match := re.match(re.escape(prefixes[0]) + r"_blocks\.(\d+)\.", name))
    }
    stem = tensors[f"{prefixes[0]}_conv_stem.weight"].shape[0]
    last = tensors.get(f"{prefixes[0]}_conv_head.weight")
    squeezes = any("._se_reduce." in name for name in tensors)
    wide = 0 if last is None or last.ndim != 4 else last.shape[1]
    return EFFICIENTNETS.get((len(blocks), stem, wide, squeezes))


def locate_backbone(
    path: Path,
    tensors: Mapping[str, Tensor],
    name: str,
    *,
    expected: Iterable[str],
    prefix: str | None = None,
) -> LocatedBackbone:
    """Return the weights of a named encoder in a file.

    Args:
        path: for messages.
        tensors: the file's.
        name: torchvision's, or timm's behind "timm:".
        expected: the encoder's own names.
        prefix: what stands before the encoder's names; None: the only one there is.

    Raises:
        ArtifactError: the encoder's first weight is not in the file, or several times.
    """
    expected = list(expected)
    ours = efficientnet_prefixes(tensors)
    if ours and "efficientnet" in name:
        prefix = only_prefix(path, _selected(path, ours, prefix, name))
        inside = efficientnet_state(prefix, tensors, expected)
        norm = LITE if "_lite" in name else IMAGENET
        layout = Layout(name=EFFICIENTNET_PYTORCH, prefix=".*", norm=norm)
    else:
        first = expected[0]
        prefixes = _whole(
            [n.removesuffix(first) for n in tensors if n == first or n.endswith(f".{first}")],
            tensors,
            expected,
        )
        if not prefixes:
            raise ArtifactError(
                f"{path} does not hold {name}, whose first weight is {first}: it holds "
                f"{inventory(tensors)}; is that the right encoder?"
            )
        prefix = only_prefix(path, _selected(path, prefixes, prefix, name))
        inside = under_prefix(prefix, tensors)
        layout = which_layout(prefix, tensors)
    return LocatedBackbone(layout=layout, prefix=prefix, tensors=inside)


def _whole(
    prefixes: list[str], tensors: Mapping[str, Tensor], expected: Sequence[str]
) -> list[str]:
    """Leave out prefixes of what is inside the encoder: `layer1.0.` of a ResNet's conv1, say."""
    there = {p: sum(f"{p}{name}" in tensors for name in expected) for p in prefixes}
    most = max(there.values(), default=0)
    return [p for p in prefixes if 2 * there[p] > most]


def _selected(path: Path, prefixes: list[str], requested: str | None, name: str) -> list[str]:
    """Return the prefixes that are meant, at least one."""
    selected = select_prefixes(prefixes, requested)
    if not selected:
        there = ", ".join(f"'{prefix}'" for prefix in prefixes[:SHOWN])
        raise ArtifactError(f"{path} holds no {name} under '{requested}': give one of {there}")
    return selected
