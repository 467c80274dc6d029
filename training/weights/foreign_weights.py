"""Anybody's encoder: a file of weights to a state dict that fits `build_encoder`.

Read by `weight_files`, distinguished by `weight_layouts`, renamed by `weight_names`. A ResNet is
recognized by its shapes, of any width and with either stem; a head is left behind. Nothing is
guessed that the file does not show: where two encoders are possible, the error names both and the
remedy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from base.files import sha256_file
from training.models.backbones import check_name
from training.models.encoders import RESNETS, Stem, build_encoder, resolve_stem
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import load_encoder, run_of
from training.weights.foreign_backbones import (
    EFFICIENTNET_PYTORCH,
    efficientnet_of,
    locate_backbone,
)
from training.weights.foreign_encoder import ForeignWeights
from training.weights.library_settings import CROP_SHARE, library_settings
from training.weights.located_resnet import (
    IMAGENET_SIZE,
    LocatedResNet,
    locate_resnet,
    locate_tensorflow,
)
from training.weights.tensorflow.bundle import find_index
from training.weights.weight_files import read_tensors
from training.weights.weight_fit import fit
from training.weights.weight_layouts import left_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from training.weights.foreign_backbones import LocatedBackbone
    from training.weights.weight_layouts import Rgb


def read_foreign_weights(
    path: Path,
    *,
    encoder: str | None = None,
    prefix: str | None = None,
    stem: Stem = "auto",
    image_size: int | None = None,
) -> ForeignWeights:
    """Read a file of weights.

    Args:
        path: a checkpoint or state dict of any layout in `weight_layouts`, or a run folder of
            ours; that one knows its encoder, the other arguments are not looked at.
        encoder: the encoder's name, where it is known; None: from the shapes.
        prefix: what stands before the encoder's names, where the file holds several.
        stem: "small-stride2" looks like "small" in a file; everything else shows.
        image_size: side of the images, which a vision transformer is built for; 224.

    Raises:
        ArtifactError: missing or damaged, no encoder in it, or several; the message lists what is
            there and names the remedy.
        UsageError: an unknown encoder.
    """
    run = run_of(path)
    if run is not None:
        return _own(run)
    path = find_index(path) or path
    tensors = read_tensors(path)
    resnet = locate_tensorflow(path, tensors)
    if resnet is None:
        name = encoder or efficientnet_of(tensors)
        if name is not None and name not in RESNETS:
            return _backbone(path, tensors, name, prefix, image_size)
        resnet = locate_resnet(path, tensors, encoder=encoder, prefix=prefix)
        if stem != "auto":
            resnet = replace(resnet, stem=stem)
    return _resnet(path, tensors, resnet)


def _resnet(path: Path, tensors: Mapping[str, Tensor], resnet: LocatedResNet) -> ForeignWeights:
    """Fit a ResNet to the encoder that it is."""
    expected = build_encoder(
        resnet.encoder,
        width=resnet.width,
        stem=resnet.stem,
        selective_kernels=resnet.selective_kernels,
    ).state_dict()
    extra = set(resnet.tensors) - set(expected)
    mean, std = resnet.norm
    return ForeignWeights(
        layout=resnet.layout,
        prefix=resnet.prefix,
        encoder=resnet.encoder,
        width=resnet.width,
        stem=resnet.stem,
        selective_kernels=resnet.selective_kernels,
        state=fit(path, resnet.tensors, expected, resnet.encoder),
        dropped=left_behind(resnet.prefix, tensors, extra),
        mean=mean,
        std=std,
        image_size=resnet.image_size,
        quirks=resnet.quirks,
        sha256=sha256_file(path),
    )


def _backbone(
    path: Path, tensors: Mapping[str, Tensor], name: str, prefix: str | None, image_size: int | None
) -> ForeignWeights:
    """Return the weights of one of torchvision's or timm's networks, prepared as these say."""
    check_name(name)
    settings = library_settings(name)
    size = image_size or (IMAGENET_SIZE if settings is None else settings.image_size)
    expected = build_encoder(name, image_size=size).state_dict()
    backbone = locate_backbone(path, tensors, name, expected=expected, prefix=prefix)
    extra = set(backbone.tensors) - set(expected)
    mean, std = backbone_norm(backbone, name)
    return ForeignWeights(
        layout=backbone.layout.name,
        prefix=backbone.prefix,
        encoder=name,
        width=1,
        stem="auto",
        state=fit(path, backbone.tensors, expected, name, _remedy(expected, size)),
        dropped=left_behind(backbone.prefix, tensors, extra),
        mean=mean,
        std=std,
        image_size=size,
        crop_share=CROP_SHARE if settings is None else settings.crop_share,
        resample="bicubic" if settings is None else settings.resample,
        quirks=(),
        sha256=sha256_file(path),
    )


def backbone_norm(backbone: LocatedBackbone, name: str) -> tuple[Rgb, Rgb]:
    """Return mean and std of a network's images: its library's, unless its file tells others."""
    settings = library_settings(name)
    shown = backbone.layout.name == EFFICIENTNET_PYTORCH
    return backbone.layout.norm if shown or settings is None else settings.norm


def _remedy(expected: Mapping[str, Tensor], size: int) -> Callable[[str, Tensor | None], str]:
    """Return what says what to do about a tensor; the encoder was given."""

    def remedy(name: str, tensor: Tensor | None) -> str:
        if tensor is None or "pos" not in name or tensor.ndim != expected[name].ndim:
            return "is --encoder the right one?"
        longest = max(
            range(tensor.ndim),
            key=lambda axis: abs(tensor.shape[axis] - expected[name].shape[axis]),
        )
        theirs, ours = tensor.shape[longest], expected[name].shape[longest]
        side = round(size * math.isqrt(theirs) / math.isqrt(ours))
        return f"its positions are those of another size: give --image-size {side}"

    return remedy


def _own(run: Path) -> ForeignWeights:
    """Return the weights of a run folder of ours."""
    trained = load_encoder(run)
    recipe = Recipe.from_dict(trained.recipe)
    stem: Stem = recipe.encoder.stem
    if recipe.encoder.name in RESNETS:
        stem = resolve_stem(stem, recipe.data.image_size)
    return ForeignWeights(
        layout="lookalike train",
        prefix="encoder.",
        encoder=recipe.encoder.name,
        width=recipe.encoder.width,
        stem=stem,
        selective_kernels=recipe.encoder.selective_kernels,
        state=trained.module.state_dict(),
        dropped=("head",),
        mean=trained.mean,
        std=trained.std,
        image_size=recipe.data.image_size,
        quirks=(),
        sha256=trained.sha256,
    )
