"""Weights by name: torchvision's and timm's, where their libraries keep them on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchvision import models

from base.errors import ArtifactError, UsageError
from base.files import sha256_file
from base.text import did_you_mean
from training.models.backbones import check_name, timm_name
from training.weights.library_settings import library_settings

if TYPE_CHECKING:
    from training.weights.weight_layouts import Rgb

TORCHVISION = "torchvision"
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")  # in a repository, the preferred one first


def encoder_of_name(named: str) -> str | None:
    """Return the encoder that a name of weights tells: `timm:NAME` does, `torchvision` does not."""
    return named if timm_name(named) is not None else None


def named_file(named: str, encoder: str) -> tuple[Path, tuple[Rgb, Rgb] | None]:
    """Return where a library keeps weights, and the mean and std for them; nothing is downloaded.

    Args:
        named: "torchvision", one of its weights' names, or "timm:NAME".
        encoder: the name of the encoder.

    Raises:
        UsageError: no such weights, or they are not on this machine.
        ArtifactError: the file is not what its name promises.
    """
    theirs = timm_name(named)
    return _torchvision_file(named, encoder) if theirs is None else _timm_file(named, theirs)


def _timm_file(named: str, theirs: str) -> tuple[Path, tuple[Rgb, Rgb] | None]:
    check_name(named)
    try:
        from timm.models import get_pretrained_cfg
    except ImportError as error:
        raise UsageError(f"--weights {named} needs timm: pip install timm") from error
    published = get_pretrained_cfg(theirs)
    if published is None or not (published.hf_hub_id or published.url or published.file):
        raise UsageError(f"--weights {named}: timm has no weights of that name")
    settings = library_settings(named)
    norm = None if settings is None else settings.norm
    if published.hf_hub_id:
        file = _of_hub(published.hf_hub_id.partition("@")[0], published.hf_hub_filename)
        if file is not None:
            return file, norm
    if published.url and not published.url.endswith(".npz"):  # timm gives those names of its own
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
        if file.is_file():
            return file, norm
    raise UsageError(
        f"--weights {named}: nothing is downloaded here, and timm's cache does not hold it; "
        f"where there is a network: python -c \"import timm; timm.create_model('{theirs}', "
        f'pretrained=True)", or give a file of its weights'
    )


def _of_hub(repository: str, file: str | None) -> Path | None:
    """Return a file of Hugging Face's cache."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # then nothing can have been kept there by timm
        return None
    for name in (file,) if file else TIMM_FILES:
        kept = try_to_load_from_cache(repository, name)
        if isinstance(kept, str):
            return Path(kept)
    return None


def _torchvision_file(named: str, encoder: str) -> tuple[Path, tuple[Rgb, Rgb]]:
    published: Any = ()
    if timm_name(encoder) is None:
        published = models.get_model_weights(encoder)
    names = [TORCHVISION, *(weights.name for weights in published)]
    requested = named.removeprefix(f"{TORCHVISION}:").rpartition(".")[2]
    if not published or requested not in names:
        raise UsageError(
            f"--weights {named}: there is no such file or run, and torchvision has no weights of "
            f"that name for {encoder}{did_you_mean(requested, names) if published else ''}"
        )
    weights = published.DEFAULT if requested == TORCHVISION else published[requested]
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
