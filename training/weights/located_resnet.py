"""Where a ResNet stands in a file of weights, which one it is, and its tensors under our names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from training.weights.tensorflow_names import SIMCLR, read_tensorflow
from training.weights.weight_fit import inventory, resnet_of
from training.weights.weight_layouts import (
    LAYOUTS,
    UNNAMED,
    Layout,
    only_prefix,
    select_prefixes,
    which_layout,
)
from training.weights.weight_names import first_stage, resnet_prefixes, resnet_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from training.models.encoders import Stem
    from training.weights.weight_layouts import Rgb

IMAGENET_SIZE, SMALL_SIZE = 224, 32


@dataclass(frozen=True, kw_only=True)
class LocatedResNet:
    """A ResNet in a file, not yet fitted to an encoder."""

    layout: str
    prefix: str  # what stands before its names
    encoder: str
    width: float
    stem: Stem  # as it shows: "small" may be "small-stride2"
    selective_kernels: bool = False
    tensors: dict[str, Tensor]  # under torchvision's names, a classifier's as well
    norm: tuple[Rgb, Rgb]  # mean and std of its images
    image_size: int
    quirks: tuple[str, ...]  # names of `foreign_encoder.QUIRKS`


def locate_tensorflow(path: Path, tensors: Mapping[str, Tensor]) -> LocatedResNet | None:
    """Return the ResNet of the original SimCLR in a file; None: not a table of its variables.

    Raises:
        ArtifactError: such a table, but no ResNet of bottlenecks.
    """
    resnet = read_tensorflow(path, tensors)
    if resnet is None:
        return None
    return LocatedResNet(
        layout=SIMCLR.name,
        prefix=resnet.prefix,
        encoder=resnet.encoder,
        width=resnet.width,
        stem=resnet.stem,
        selective_kernels=resnet.selective_kernels,
        tensors=resnet.state,
        norm=SIMCLR.norm,
        image_size=SMALL_SIZE if resnet.stem == "small" else IMAGENET_SIZE,
        quirks=("max-pool padded below and on the right",),
    )


def locate_resnet(
    path: Path, tensors: Mapping[str, Tensor], *, encoder: str | None, prefix: str | None = None
) -> LocatedResNet:
    """Return the ResNet in a file of any other layout.

    Args:
        path: for messages.
        tensors: the file's.
        encoder: its name, where it is given; None: from the shapes.
        prefix: what stands before its names, where the file holds several.

    Raises:
        ArtifactError: no ResNet, another one, or several.
    """
    chosen_prefix, layout = _choose(path, tensors, prefix)
    inside = resnet_state(chosen_prefix, tensors)
    name, width, stem = resnet_of(path, inside, encoder)
    small = stem == "small"
    return LocatedResNet(
        layout=layout.name,
        prefix=chosen_prefix,
        encoder=name,
        width=width,
        stem=stem,
        tensors=inside,
        norm=layout.norm_small if small else layout.norm,
        image_size=layout.image_size or (SMALL_SIZE if small else IMAGENET_SIZE),
        quirks=_quirks(chosen_prefix, tensors, layout, small=small),
    )


def _choose(path: Path, tensors: Mapping[str, Tensor], prefix: str | None) -> tuple[str, Layout]:
    """Return the prefix of the trained encoder and the layout it tells."""
    prefixes = select_prefixes(resnet_prefixes(tensors), prefix)
    if not prefixes:
        under = f" under '{prefix}'" if prefix is not None else ""
        raise ArtifactError(
            f"{path} holds no ResNet{under} of a known layout; it holds {inventory(tensors)}; "
            f"say which encoder it is with --encoder and where it stands with --prefix"
        )
    rows = [(p, which_layout(p, tensors)) for p in prefixes]
    order = [*LAYOUTS, UNNAMED]
    best = min(order.index(layout) for _, layout in rows)
    likely = {p: layout for p, layout in rows if order.index(layout) == best}
    only = only_prefix(path, [*likely])
    return only, likely[only]


def _quirks(
    prefix: str, tensors: Mapping[str, Tensor], layout: Layout, *, small: bool
) -> tuple[str, ...]:
    """Return what the maker's encoder does differently, in names of `QUIRKS`.

    solo-learn pads small images by 2. A numbered ResNet whose first stage has number 2 was made
    of a ResNet that calls its ReLU in `forward` (lightly's ResNetGenerator): that call is lost.
    """
    padded, number_two = "first convolution padded by 2", "no ReLU before the first stage"
    quirks = [padded] if small and layout.small_padding == 2 else []
    if first_stage(prefix, tensors) == 2:
        quirks.append(number_two)
    return tuple(quirks)
