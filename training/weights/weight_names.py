"""Others' names of an encoder's layers, turned into the names that the encoder itself uses.

A ResNet is written in three ways; each is turned into torchvision's:

    torchvision   conv1 bn1 layer1.0.conv1 layer1.0.downsample.0         (timm and most others too)
    numbered      0     1   4.0.conv1      nn.Sequential(*list(resnet.children())[:-1])
    shortcut      conv1 bn1 layer1.0.conv1 layer1.0.shortcut.0           (lightly's ResNetGenerator)

An EfficientNet of lukemelas/EfficientNet-PyTorch (`_blocks.3._expand_conv`) is turned into timm's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from training.weights.weight_layouts import under_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

_FIRST_CONV = re.compile(r"^(.*?)(?:conv1|0)\.weight$")


def resnet_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Every prefix under which a ResNet stands, in any of the three ways."""
    prefixes = []
    for name, tensor in tensors.items():
        match = _FIRST_CONV.match(name)
        if match is None or tensor.ndim != 4:
            continue
        prefix = match[1]
        if _starts_resnet(prefix, tensors) and prefix not in prefixes:
            prefixes.append(prefix)
    return prefixes


def _starts_resnet(prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    if f"{prefix}conv1.weight" in tensors:
        return f"{prefix}layer1.0.conv1.weight" in tensors
    return f"{prefix}1.running_mean" in tensors and first_stage(prefix, tensors) is not None


def first_stage(prefix: str, tensors: Iterable[str]) -> int | None:
    """Return the number of the first stage in a `numbered` ResNet: 2, 3 or 4, as its stem is long.

    None for the other ways of writing.
    """
    names = set(tensors)
    return next((n for n in (2, 3, 4) if f"{prefix}{n}.0.conv1.weight" in names), None)


def resnet_state(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what stands under a prefix of `resnet_prefixes`, under torchvision's names."""
    inside = under_prefix(prefix, tensors)
    if "conv1.weight" not in inside:
        first = first_stage("", inside)
        assert first is not None  # otherwise it is not among `resnet_prefixes`
        layers = {"0": "conv1", "1": "bn1"} | {
            str(first + stage): f"layer{stage + 1}" for stage in range(4)
        }
        inside = {_renamed(name, layers): tensor for name, tensor in inside.items()}
    return {name.replace(".shortcut.", ".downsample."): value for name, value in inside.items()}


def _renamed(name: str, layers: Mapping[str, str]) -> str:
    first, _, rest = name.partition(".")
    return f"{layers.get(first, first)}.{rest}"


# --- EfficientNet --------------------------------------------------------------------------------

_EFFICIENTNET_STEM = "_conv_stem.weight"
_BLOCK = re.compile(r"^_blocks\.(\d+)\.(\w+)\.(.+)$")
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_INVERTED = {  # expand, depthwise, project
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_SEPARABLE = {  # a block that does not expand
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def efficientnet_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Every prefix under which an EfficientNet with lukemelas' names stands."""
    return [
        name.removesuffix(_EFFICIENTNET_STEM)
        for name in tensors
        if name.endswith(_EFFICIENTNET_STEM)
    ]


def efficientnet_state(
    prefix: str, tensors: Mapping[str, Tensor], expected: Iterable[str]
) -> dict[str, Tensor]:
    """Return what stands under the prefix, under timm's names.

    Args:
        prefix: one of `efficientnet_prefixes`.
        tensors: the file's.
        expected: timm's names in the encoder; they say which stage the n-th block belongs to.
    """
    positions = sorted(
        {(int(m[1]), int(m[2])) for n in expected if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", n))}
    )
    inside = under_prefix(prefix, tensors)
    state = {}
    for name, tensor in inside.items():
        block = _BLOCK.match(name)
        if block is None:
            layer, _, rest = name.partition(".")
            state[f"{_OUTER.get(layer, layer)}.{rest}"] = tensor
        elif int(block[1]) < len(positions):
            expands = f"_blocks.{block[1]}._expand_conv.weight" in inside
            layers = (_INVERTED if expands else _SEPARABLE) | _SQUEEZE
            stage, position = positions[int(block[1])]
            state[f"blocks.{stage}.{position}.{layers.get(block[2], block[2])}.{block[3]}"] = tensor
    return state
