"""The weights that a run starts from, where it starts from others' instead of random ones.

Named in the recipe as `encoder.weights`; `encoder.weights_sha256` pins the file they were in, so
that recipe and checkpoint say what a run was made from. A run that is resumed never reads them
again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchvision import models

from base.errors import ArtifactError, UsageError
from base.files import sha256_file
from base.text import did_you_mean
from training.models.backbones import timm_name
from training.models.encoders import RESNETS
from training.recipes.build_model import encoder_of
from training.run_folder.checkpoint import CHECKPOINT, has_run, load_encoder
from training.weights.foreign_weights import read_foreign_weights
from training.weights.weight_files import read_tensors
from training.weights.weight_layouts import unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from training.models.encoder_module import EncoderModule
    from training.recipes.recipe import Recipe
    from training.weights.weight_layouts import Rgb

TORCHVISION = "torchvision"
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
    """Read what `encoder.weights` names: a file, a run folder or weights of torchvision.

    Raises:
        UsageError: neither a file nor a name, or weights of torchvision that are not on this
            machine; nothing is downloaded.
        ArtifactError: a damaged file, another one than `encoder.weights_sha256`, or one that does
            not fit the recipe's encoder; the message names what is missing or has another shape.
    """
    named = recipe.encoder.weights
    assert named is not None
    file = Path(named)
    if file.exists():
        found, sha256, norm = _from_file(file, recipe)
    else:
        file, norm = _torchvision_file(named, recipe.encoder.name)
        found, sha256 = read_tensors(file), sha256_file(file)
    pinned = recipe.encoder.weights_sha256
    if pinned not in (None, sha256):
        raise ArtifactError(
            f"{named} is not the file of the recipe: its SHA-256 is {sha256[:12]}, "
            f"encoder.weights_sha256 is {str(pinned)[:12]}"
        )
    with torch.random.fork_rng(devices=[]):
        wanted = encoder_of(recipe).state_dict()
    state = _fitting(named, found, wanted, recipe)
    left_out = tuple(name for name in found if name not in wanted)
    return StartWeights(state=state, sha256=sha256, norm=norm, left_out=left_out)


def pinned(recipe: Recipe, weights: StartWeights, *, keep_norm: bool = False) -> Recipe:
    """Return the recipe with the weights' SHA-256 and, where it has none of its own, their mean and std.

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


def _from_file(
    path: Path, recipe: Recipe
) -> tuple[Mapping[str, Tensor], str, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    run = path.parent if path.name == CHECKPOINT else path
    if has_run(run):
        trained = load_encoder(run)
        return trained.module.state_dict(), trained.sha256, (trained.mean, trained.std)
    if recipe.encoder.name in RESNETS and not recipe.encoder.selective_kernels:
        foreign = read_foreign_weights(path, encoder=recipe.encoder.name)
        left = dict.fromkeys(foreign.dropped, torch.empty(0))  # names alone
        return {**foreign.state, **left}, foreign.sha256, (foreign.mean, foreign.std)
    tensors = {unwrapped(name): tensor for name, tensor in read_tensors(path).items()}
    return tensors, sha256_file(path), None


def _torchvision_file(named: str, encoder: str) -> tuple[Path, tuple[Rgb, Rgb]]:
    """Where torch.hub keeps weights of torchvision, and the mean and std they want."""
    known: Any = ()
    if timm_name(encoder) is None:
        known = models.get_model_weights(encoder)
    names = [TORCHVISION, *(weights.name for weights in known)]
    wanted = named.removeprefix(f"{TORCHVISION}:").rpartition(".")[2]
    if not known or wanted not in names:
        raise UsageError(
            f"--weights {named}: there is no such file or run, and torchvision has no weights of "
            f"that name for {encoder}{did_you_mean(wanted, names) if known else ''}"
        )
    weights = known.DEFAULT if wanted == TORCHVISION else known[wanted]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise UsageError(
            f"--weights {named}: nothing is downloaded here; fetch {weights.url} to {file}"
        )
    promised = re.search(r"-([0-9a-f]{8,})\.", file.name)
    if promised and not sha256_file(file).startswith(promised[1]):
        raise ArtifactError(f"{file} is damaged: its SHA-256 does not begin with {promised[1]}")
    transforms = weights.transforms()
    return file, (tuple(transforms.mean), tuple(transforms.std))


def _fitting(
    named: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], recipe: Recipe
) -> dict[str, Tensor]:
    """Return the wanted tensors; counters of batches may be missing."""
    counters = {n for n in wanted if n.endswith("num_batches_tracked") and n not in found}
    missing = [n for n in wanted if n not in found and n not in counters]
    encoder = f"{recipe.encoder.name} of width {recipe.encoder.width:g}"
    if missing:
        raise ArtifactError(
            f"{named} lacks {len(missing)} of {len(wanted)} tensors of {encoder} "
            f"({_list(missing)}); it holds {_list(list(found))}: is encoder.name the right one?"
        )
    other = [n for n in wanted if n not in counters and found[n].shape != wanted[n].shape]
    if other:
        name = other[0]
        raise ArtifactError(
            f"{named} does not fit {encoder}: {name} is {list(found[name].shape)}, wanted "
            f"{list(wanted[name].shape)}{_remedy(name, found[name])}"
        )
    return {n: wanted[n] if n in counters else found[n] for n in wanted}


def _remedy(name: str, tensor: Tensor) -> str:
    if name == "conv1.weight" and tensor.ndim == 4 and tensor.shape[1] == 3:
        stem = "imagenet" if tensor.shape[2] == 7 else "small"
        width = tensor.shape[0] / 64
        return f": --set encoder.stem={stem} --set encoder.width={width:g}"
    return ": is data.image_size the right one?" if "pos" in name else ""


def _list(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
