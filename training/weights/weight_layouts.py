"""How others name what is an encoder's weights: one row for each.

A checkpoint is a table of dotted names. What stands before the encoder's own names is the prefix:
`backbone.conv1.weight` is `conv1.weight` under `backbone.`. A row tells by the prefix, and by what
else is in the file, who wrote it; from that follow the images' mean and std and which of several
encoders in one file is the trained one (the rows stand in order of preference).

Containers and wrappers stand before the prefix and are not looked at: `state_dict.`, `model.`,
`module.` (DistributedDataParallel), `_orig_mod.` (torch.compile).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

SHOWN = 8  # prefixes in a message

Rgb = tuple[float, float, float]
IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR: tuple[Rgb, Rgb] = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
CIFAR_SUPCONTRAST: tuple[Rgb, Rgb] = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
NONE: tuple[Rgb, Rgb] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # images in [0,1], as in the paper

_WRAPPERS = re.compile(
    r"^(?:(?:state_dict|model_state_dict|model|module|_orig_mod|net|network|classy_state_dict"
    r"|base_model)\.)+"
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way of writing an encoder into a checkpoint.

    Attributes:
        name: whose it is.
        prefix: what stands before the encoder's names, without containers; a regular expression.
        beside: what else must be in the file, without containers; None: nothing.
        norm: mean and std of images with the stem for ImageNet.
        norm_small: mean and std of images with the stem for small images.
        small_padding: zeros around small images in the first convolution.
        image_size: side of its images, where it is always the same.
    """

    name: str
    prefix: str
    beside: str | None = None
    norm: tuple[Rgb, Rgb] = IMAGENET
    norm_small: tuple[Rgb, Rgb] = CIFAR
    small_padding: int = 1
    image_size: int | None = None

    def fits(self, prefix: str, names: Iterable[str]) -> bool:
        """Whether a file's names, of which an encoder stands under `prefix`, are of this layout."""
        if not re.fullmatch(self.prefix, unwrapped(prefix)):
            return False
        if self.beside is None:
            return True
        beside = re.compile(self.beside)
        return any(beside.match(unwrapped(name)) for name in names)


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="MoCo",
        prefix=r"(?:encoder_q|base_encoder)\.",
        beside=r"encoder_k\.|queue$|momentum_encoder\.",
    ),
    Layout(name="DINO", prefix=r"teacher\.(?:module\.)?(?:backbone\.)?", beside=r"student\."),
    Layout(
        name="BYOL",
        prefix=r"online(?:_backbone|_network|_encoder|_net)?\.(?:(?:backbone|encoder|net)\.)?",
    ),
    Layout(name="vissl", prefix=r"trunk\.(?:base_model\.)?_feature_blocks\.", norm_small=IMAGENET),
    Layout(
        name="lightly-train",
        prefix=r"(?:\w*embedding_model\w*\.)?wrapped_model\._(?:features|model)\.",
        norm_small=IMAGENET,
    ),
    Layout(
        name="AndrewAtanov/simclr-pytorch",
        prefix=r"convnet\.",
        beside=r"projection\.",
        norm=NONE,
        norm_small=NONE,
    ),
    Layout(
        name="sthalles/SimCLR",
        prefix=r"backbone\.",
        beside=r"backbone\.fc\.[02]\.",
        norm=NONE,
        norm_small=NONE,
        image_size=96,
    ),
    Layout(
        name="solo-learn", prefix=r"(?:backbone|encoder)\.", beside=r"classifier\.", small_padding=2
    ),
    Layout(name="solo-learn", prefix=r"backbone\.", beside=r"projector\.", small_padding=2),
    Layout(name="lightly", prefix=r"backbone\.", beside=r"projection_head\.", norm_small=IMAGENET),
    Layout(
        name="Spijkervet/SimCLR",
        prefix=r"encoder\.",
        beside=r"projector\.",
        norm=NONE,
        norm_small=NONE,
    ),
    Layout(name="SupContrast", prefix=r"encoder\.", beside=r"head\.", norm_small=CIFAR_SUPCONTRAST),
    Layout(name="torchvision or timm", prefix=r""),
)

UNNAMED = Layout(name="a layout without a name here", prefix=r".*")


def unwrapped(name: str) -> str:
    """Return a name without the containers and wrappers before it."""
    return _WRAPPERS.sub("", name)


def which_layout(prefix: str, names: Iterable[str]) -> Layout:
    """Return the first row that fits, or `UNNAMED`."""
    listed = list(names)
    return next((layout for layout in LAYOUTS if layout.fits(prefix, listed)), UNNAMED)


def select_prefixes(prefixes: Sequence[str], requested: str | None) -> list[str]:
    """Return those of a file's prefixes that a user means, with or without dot and containers."""
    if requested is None:
        return list(prefixes)
    dotted = requested if not requested or requested.endswith(".") else f"{requested}."
    return [prefix for prefix in prefixes if dotted in (prefix, unwrapped(prefix))]


def only_prefix(path: Path, prefixes: Sequence[str]) -> str:
    """Return the one prefix there is.

    Raises:
        ArtifactError: there are several; the message lists them.
    """
    if len(prefixes) > 1:
        several = ", ".join(f"'{prefix}'" for prefix in prefixes[:SHOWN])
        raise ArtifactError(f"{path} holds several encoders: choose one with --prefix: {several}")
    return prefixes[0]


def under_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the prefix, without it."""
    return {n[len(prefix) :]: tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def left_behind(prefix: str, tensors: Iterable[str], extra: Iterable[str]) -> tuple[str, ...]:
    """Return what is not taken of a file, by first words: heads, momentum encoders, queues.

    Args:
        prefix: what stands before the encoder's names.
        tensors: names in the file.
        extra: names under the prefix that the encoder does not have.
    """
    outside = (unwrapped(name) for name in tensors if not name.startswith(prefix))
    counts = Counter(re.split(r"[./]", name)[0] for name in (*outside, *sorted(extra)))
    return tuple(
        f"{word} ({count} tensor{'s' if count > 1 else ''})" for word, count in counts.items()
    )
