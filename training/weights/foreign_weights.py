"""Anybody's encoder: a file of weights to a state dict that fits `build_encoder`.

Read by `weight_files`, told apart by `weight_layouts`, renamed by `weight_names`. A ResNet is found
from the shapes, of any width and with either stem; a head is left behind. Nothing is guessed that
the file does not show: where two encoders are possible, the error names both and the remedy.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from base.errors import ArtifactError
from base.files import sha256_file
from training.models.encoders import RESNETS, SMALL_IMAGE, Stem, build_encoder
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import CHECKPOINT, has_run, load_encoder
from training.weights.foreign_backbones import efficientnet_of, read_backbone
from training.weights.foreign_encoder import ForeignWeights
from training.weights.tensorflow_names import SIMCLR, TensorflowResNet, read_tensorflow
from training.weights.weight_files import read_tensors
from training.weights.weight_fit import fit, inventory, resnet_of
from training.weights.weight_layouts import LAYOUTS, UNNAMED, Layout, unwrapped, which_layout
from training.weights.weight_names import first_stage, resnet_prefixes, resnet_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor


SHOWN = 8  # prefixes in a message
IMAGENET_SIZE, SMALL_SIZE = 224, 32


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
        stem: "small-stride2" looks like "small" in a file; everything else is found.
        image_size: side of the images, which a vision transformer is built for; 224.

    Raises:
        ArtifactError: missing or damaged, no encoder in it, or several; the message lists what was
            found and names the remedy.
        UsageError: an unknown encoder.
    """
    run = path.parent if path.name == CHECKPOINT else path
    if has_run(run):
        return _own(run)
    tensors = read_tensors(path)
    variables = read_tensorflow(path, tensors)
    if variables is not None:
        return _tensorflow(path, tensors, variables)
    name = encoder or efficientnet_of(tensors)
    if name is not None and name not in RESNETS:
        return _backbone(path, tensors, name, prefix, image_size or IMAGENET_SIZE)
    chosen, layout = _choose(path, tensors, prefix)
    inside = resnet_state(chosen, tensors)
    name, width, found_stem = resnet_of(path, inside, encoder)
    taken_stem = stem if stem != "auto" else found_stem
    wanted = build_encoder(name, width=width, stem=taken_stem).state_dict()
    state = fit(path, inside, wanted, name)
    small = found_stem == "small"
    mean, std = layout.norm_small if small else layout.norm
    return ForeignWeights(
        layout=layout.name,
        prefix=chosen,
        encoder=name,
        width=width,
        stem=taken_stem,
        state=state,
        dropped=_left_behind(chosen, tensors, set(inside) - set(wanted)),
        mean=mean,
        std=std,
        image_size=layout.image_size or (SMALL_SIZE if small else IMAGENET_SIZE),
        quirks=_quirks(chosen, tensors, layout, small=small),
        sha256=sha256_file(path),
    )


def _backbone(
    path: Path, tensors: Mapping[str, Tensor], name: str, prefix: str | None, image_size: int
) -> ForeignWeights:
    """Return the weights of one of torchvision's or timm's networks."""
    found = read_backbone(path, tensors, name, prefix=prefix, image_size=image_size)
    mean, std = found.layout.norm
    return ForeignWeights(
        layout=found.layout.name,
        prefix=found.prefix,
        encoder=name,
        width=1,
        stem="auto",
        state=found.state,
        dropped=_left_behind(found.prefix, tensors, found.extra),
        mean=mean,
        std=std,
        image_size=image_size,
        quirks=(),
        sha256=sha256_file(path),
    )


def _tensorflow(
    path: Path, tensors: Mapping[str, Tensor], found: TensorflowResNet
) -> ForeignWeights:
    """Return the weights of a ResNet of the original SimCLR."""
    like = build_encoder(
        found.encoder,
        width=found.width,
        stem=found.stem,
        selective_kernels=found.selective_kernels,
    )
    mean, std = SIMCLR.norm
    return ForeignWeights(
        layout=SIMCLR.name,
        prefix=found.prefix,
        encoder=found.encoder,
        width=found.width,
        stem=found.stem,
        selective_kernels=found.selective_kernels,
        state=fit(path, found.state, like.state_dict(), found.encoder),
        dropped=_left_behind(found.prefix, tensors, ()),
        mean=mean,
        std=std,
        image_size=SMALL_SIZE if found.stem == "small" else IMAGENET_SIZE,
        quirks=("max-pool padded below and on the right",),
        sha256=sha256_file(path),
    )


def _own(run: Path) -> ForeignWeights:
    """Return the weights of a run folder of ours."""
    trained = load_encoder(run)
    recipe = Recipe.from_dict(trained.recipe)
    stem: Stem = recipe.encoder.stem
    if stem == "auto" and recipe.encoder.name in RESNETS:
        stem = "small" if recipe.data.image_size <= SMALL_IMAGE else "imagenet"
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


# --- which encoder -------------------------------------------------------------------------------


def _choose(path: Path, tensors: Mapping[str, Tensor], prefix: str | None) -> tuple[str, Layout]:
    """Return the prefix of the trained encoder and the layout it tells."""
    prefixes = resnet_prefixes(tensors)
    if prefix is not None:
        wanted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        prefixes = [p for p in prefixes if wanted in (p, unwrapped(p))]
    if not prefixes:
        under = f" under '{prefix}'" if prefix is not None else ""
        raise ArtifactError(
            f"{path} holds no ResNet{under} that is known here; it holds {inventory(tensors)}; "
            f"say which encoder it is with --encoder and where it stands with --prefix"
        )
    rows = [(p, which_layout(p, tensors)) for p in prefixes]
    order = [*LAYOUTS, UNNAMED]
    best = min(order.index(layout) for _, layout in rows)
    likely = [(p, layout) for p, layout in rows if order.index(layout) == best]
    if len(likely) > 1:
        several = ", ".join(f"'{p}'" for p, _ in likely[:SHOWN])
        raise ArtifactError(f"{path} holds several encoders: choose one with --prefix: {several}")
    return likely[0]


def _quirks(
    prefix: str, tensors: Mapping[str, Tensor], layout: Layout, *, small: bool
) -> tuple[str, ...]:
    """Return what the maker's encoder does differently, in names of `QUIRKS`.

    solo-learn pads small images by 2. A numbered ResNet whose first stage has number 2 was made
    of a ResNet that calls its ReLU in `forward` (lightly's ResNetGenerator): that call is lost.
    """
    padded, number_two = "first convolution padded by 2", "no ReLU before the first stage"
    found = [padded] if small and layout.small_padding == 2 else []
    if first_stage(prefix, tensors) == 2:
        found.append(number_two)
    return tuple(found)


def _left_behind(prefix: str, tensors: Iterable[str], extra: Iterable[str]) -> tuple[str, ...]:
    """Return what was not taken, by its first word: heads, momentum encoders, queues, classifiers."""
    outside = (unwrapped(name) for name in tensors if not name.startswith(prefix))
    words = Counter(re.split(r"[./]", name)[0] for name in (*outside, *sorted(extra)))
    return tuple(
        f"{word} ({count} tensor{'s' if count > 1 else ''})" for word, count in words.items()
    )
