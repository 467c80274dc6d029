"""The weights that a run starts from, where it starts from others' instead of random ones.

Named in the recipe as `encoder.weights`; `encoder.weights_sha256` pins the file they were in, so
that recipe and checkpoint say what a run was made from. A run that is resumed never reads them
again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from base.errors import ArtifactError
from base.files import sha256_file
from training.models.encoders import RESNETS, stem_of_kernel
from training.recipes.build_model import encoder_of
from training.run_folder.checkpoint import load_encoder, run_of
from training.weights.foreign_backbones import locate_backbone
from training.weights.foreign_weights import backbone_norm
from training.weights.located_resnet import locate_resnet, locate_tensorflow
from training.weights.named_weights import encoder_of_name, named_file
from training.weights.tensorflow.bundle import find_index
from training.weights.weight_files import read_tensors
from training.weights.weight_fit import fit
from training.weights.weight_layouts import left_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from training.models.encoder_module import EncoderModule
    from training.recipes.recipe import Recipe

SHOWN = 5  # names of tensors in a message


@dataclass(frozen=True, kw_only=True)
class StartWeights:
    """Tensors that fit the recipe's encoder.

    Attributes:
        state: what `load_state_dict` takes.
        sha256: of the file they were in.
        norm: mean and std of the images they were trained on, where that is known.
        left_out: what else was in the file.
    """

    state: dict[str, Tensor]
    sha256: str
    norm: tuple[tuple[float, ...], tuple[float, ...]] | None
    left_out: tuple[str, ...]

    def summary(self, name: str) -> str:
        """Return what was taken and what was not, in one line."""
        line = f"{name}: {len(self.state)} tensors"
        return f"{line}; left out: {_list(self.left_out)}" if self.left_out else line


def read_start_weights(recipe: Recipe) -> StartWeights:
    """Read what `encoder.weights` names: a file, a run folder or weights by name.

    Raises:
        UsageError: neither a file nor a name, or weights of torchvision or timm that are not on
            this machine; nothing is downloaded.
        ArtifactError: a damaged file, another one than `encoder.weights_sha256`, or one that does
            not fit the recipe's encoder; the message names what is missing, has another shape or
            holds NaN.
    """
    named = recipe.encoder.weights
    assert named is not None
    with torch.random.fork_rng(devices=[]):
        expected = encoder_of(recipe).state_dict()
    candidate = _candidate(named, recipe, expected)
    expected_sha256 = recipe.encoder.weights_sha256
    if expected_sha256 not in (None, candidate.sha256):
        raise ArtifactError(
            f"{named} is not the file of the recipe: its SHA-256 is {candidate.sha256[:12]}, "
            f"encoder.weights_sha256 is {str(expected_sha256)[:12]}"
        )
    encoder = f"{recipe.encoder.name} of width {recipe.encoder.width:g}"
    extra = [name for name in candidate.tensors if name not in expected]
    return StartWeights(
        state=fit(named, candidate.tensors, expected, encoder, _remedy),
        sha256=candidate.sha256,
        norm=candidate.norm,
        left_out=candidate.left_out(extra),
    )


def pinned(recipe: Recipe, weights: StartWeights, *, keep_norm: bool = False) -> Recipe:
    """Return the recipe with the weights' SHA-256 and, unless it has its own, their mean and std.

    Args:
        recipe: names the weights.
        weights: read with it.
        keep_norm: leave data.mean and data.std as they are.
    """
    data, encoder = recipe.data, replace(recipe.encoder, weights_sha256=weights.sha256)
    plain = not any(data.mean) and all(value == 1 for value in data.std)
    if weights.norm is not None and plain and not keep_norm:
        data = replace(data, mean=weights.norm[0], std=weights.norm[1])
    return replace(recipe, data=data, encoder=encoder)


def load_start_weights(encoder: EncoderModule, recipe: Recipe) -> None:
    """Put the recipe's weights into its encoder, wherever that is."""
    encoder.load_state_dict(read_start_weights(recipe).state)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Tensors under the encoder's names, not yet fitted to it."""

    tensors: Mapping[str, Tensor]
    sha256: str
    norm: tuple[tuple[float, ...], tuple[float, ...]] | None
    left_out: Callable[[Iterable[str]], tuple[str, ...]] = tuple  # from names that do not fit


def _candidate(named: str, recipe: Recipe, expected: Iterable[str]) -> _Candidate:
    path, name = find_index(Path(named)) or Path(named), recipe.encoder.name
    if not path.exists():
        path, norm = named_file(named, name)
        if encoder_of_name(named) is None:
            return _Candidate(tensors=read_tensors(path), sha256=sha256_file(path), norm=norm)
    run = run_of(path)
    if run is not None:
        trained = load_encoder(run)
        return _Candidate(
            tensors=trained.module.state_dict(),
            sha256=trained.sha256,
            norm=(trained.mean, trained.std),
        )
    tensors, sha256 = read_tensors(path), sha256_file(path)
    resnet = locate_tensorflow(path, tensors)
    if resnet is None and (name not in RESNETS or recipe.encoder.selective_kernels):
        backbone = locate_backbone(path, tensors, name, expected=expected)
        return _Candidate(
            tensors=backbone.tensors,
            sha256=sha256,
            norm=backbone_norm(backbone, name),
            left_out=partial(left_behind, backbone.prefix, tensors),
        )
    resnet = resnet or locate_resnet(path, tensors, encoder=name)
    return _Candidate(
        tensors=resnet.tensors,
        sha256=sha256,
        norm=resnet.norm,
        left_out=partial(left_behind, resnet.prefix, tensors),
    )


def _remedy(name: str, tensor: Tensor | None) -> str:
    """Return what to do about a tensor that is missing (None) or has another shape."""
    if tensor is None:
        return "is encoder.name the right one?"
    if name == "conv1.weight" and tensor.ndim == 4 and tensor.shape[1] == 3:
        stem, width = stem_of_kernel(tensor.shape[2]), tensor.shape[0] / 64
        return f"take its encoder: --set encoder.stem={stem} --set encoder.width={width:g}"
    if "pos" in name:
        return "is data.image_size the right one?"
    return "are encoder.name and encoder.width the right ones?"


def _list(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
