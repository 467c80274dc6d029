"""What start weights decide in a recipe: the encoder, and how its images are prepared.

A file shows which encoder it is, and its layout or library says size, crop, filter, mean and std,
as `lookalike export` reads them. What the user sets stands; a recipe of the user's own, and one
whose start teaches it at its own size, keep their size where the encoder can be built for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import ArtifactError
from training.models.encoders import RESNETS, resolve_stem
from training.recipes.recipe import Recipe
from training.run_folder.checkpoint import load_encoder, run_of
from training.weights.foreign_weights import read_foreign_weights
from training.weights.library_settings import library_settings, resize_to
from training.weights.named_weights import encoder_of_name, named_file
from training.weights.tensorflow.bundle import find_index

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from training.data.settings import DataSettings
    from training.weights.foreign_encoder import ForeignWeights

ENCODER = ("name", "width", "stem", "selective_kernels")
DATA = ("image_size", "stored_size", "resize", "evaluation_resize", "resample", "mean", "std")
# as `lookalike train` sets what `lookalike export` has options for
OPTIONS = {
    "give --image-size ": "give --set data.image_size=",
    "with --encoder and where it stands with --prefix": "with --set encoder.name=NAME",
    "is --encoder the right one": "is encoder.name the right one",
    "choose one with --prefix": "save the one to start from in a file of its own",
    "say --encoder": "say --set encoder.name=NAME",
}


def recipe_of_weights(recipe: Recipe, settings: Collection[str], *, keep_size: bool) -> Recipe:
    """Return the recipe with the encoder of its weights, and its images as that encoder's.

    Args:
        recipe: whose `encoder.weights` names a file, a run folder or weights by name.
        settings: keys that the user set, as "data.image_size": they are left alone.
        keep_size: leave the recipe's size, where the encoder can be built for it.

    Raises:
        UsageError: weights by name that are not on this machine.
        ArtifactError: a damaged file, or one whose encoder is unclear; the remedy is named.
    """
    named = recipe.encoder.weights
    assert named is not None
    keep_size = keep_size or "data.image_size" in settings
    run = run_of(Path(named)) if Path(named).exists() else None
    if run is not None:
        theirs = Recipe.from_dict(load_encoder(run).recipe)
        data = _data_of_run(recipe.data, theirs.data, keep_size=keep_size)
        return _with(recipe, _encoder_of_run(theirs), data, settings)
    try:
        weights = _read(named, recipe, settings, keep_size=keep_size)
    except ArtifactError as error:
        raise ArtifactError(_as_settings(str(error))) from error
    encoder = {key: getattr(weights, "encoder" if key == "name" else key) for key in ENCODER}
    if keep_size and weights.stem == "small":  # one with stride 2 looks alike in a file
        stem = resolve_stem(recipe.encoder.stem, recipe.data.image_size)
        encoder["stem"] = weights.stem if stem == "imagenet" else stem
    return _with(recipe, encoder, _data_of(recipe.data, weights), settings)


def changes(before: Recipe, after: Recipe) -> list[str]:
    """Return what weights changed in a recipe, as "data.image_size = 224"."""
    return [*_changes("encoder", ENCODER, before, after), *_changes("data", DATA, before, after)]


def _changes(table: str, keys: tuple[str, ...], before: Recipe, after: Recipe) -> Iterator[str]:
    for key in keys:
        old, new = (getattr(getattr(recipe, table), key) for recipe in (before, after))
        if new != old:
            shown = [round(x, 4) for x in new] if isinstance(new, tuple) else new
            yield f"{table}.{key} = {'image_size' if shown is None else shown}"


def _read(
    named: str, recipe: Recipe, settings: Collection[str], *, keep_size: bool
) -> ForeignWeights:
    own, path = recipe.encoder.name, find_index(Path(named)) or Path(named)
    encoder = encoder_of_name(named)
    if not path.exists():
        path = named_file(named, encoder or own)[0]
        encoder = encoder or own
    if "encoder.name" in settings or (encoder is None and own not in RESNETS):
        encoder = own
    stem = recipe.encoder.stem if "encoder.stem" in settings else "auto"
    if not keep_size:
        return read_foreign_weights(path, encoder=encoder, stem=stem)
    size = recipe.data.image_size
    try:
        weights = read_foreign_weights(path, encoder=encoder, stem=stem, image_size=size)
    except ArtifactError:
        if "data.image_size" in settings:
            raise
        return read_foreign_weights(path, encoder=encoder, stem=stem)
    return replace(weights, image_size=size)


def _encoder_of_run(recipe: Recipe) -> dict[str, Any]:
    encoder = {key: getattr(recipe.encoder, key) for key in ENCODER}
    if recipe.encoder.name in RESNETS:
        encoder["stem"] = resolve_stem(recipe.encoder.stem, recipe.data.image_size)
    return encoder


def _data_of_run(mine: DataSettings, theirs: DataSettings, *, keep_size: bool) -> DataSettings:
    size = mine.image_size if keep_size else theirs.image_size
    if mine.channels != theirs.channels:
        return _resized(mine, size)
    return replace(
        _resized(mine, size),
        evaluation_resize=_resized(theirs, size).evaluation_resize,
        resize=theirs.resize,
        resample=theirs.resample,
        mean=theirs.mean,
        std=theirs.std,
    )


def _data_of(mine: DataSettings, weights: ForeignWeights) -> DataSettings:
    size = weights.image_size
    data = _resized(mine, size)
    if mine.channels != len(weights.mean):
        return data
    data = replace(data, mean=weights.mean, std=weights.std)
    if mine.resize == "short-side" and mine.evaluation_resize is None:
        short_side = resize_to(size, weights.crop_share)
        data = replace(data, evaluation_resize=None if short_side == size else short_side)
    return replace(data, resample=weights.resample) if mine.resample == "bicubic" else data


def _resized(data: DataSettings, size: int) -> DataSettings:
    """Return the settings at another size; what is larger stays so in proportion."""
    share = size / data.image_size
    return replace(
        data,
        image_size=size,
        stored_size=None if data.stored_size is None else round(data.stored_size * share),
        evaluation_resize=(
            None if data.evaluation_resize is None else round(data.evaluation_resize * share)
        ),
    )


def _with(
    recipe: Recipe, encoder: dict[str, Any], data: DataSettings, settings: Collection[str]
) -> Recipe:
    """Put encoder and data into a recipe, but for what the user set."""
    theirs = {key: value for key, value in encoder.items() if f"encoder.{key}" not in settings}
    kept = {key for key in DATA if f"data.{key}" in settings}
    plain = not any(recipe.data.mean) and all(value == 1 for value in recipe.data.std)
    if kept & {"mean", "std"} or not plain or recipe.data.channels != data.channels:
        kept |= {"mean", "std"}
    values = {key: getattr(data, key) for key in DATA if key not in kept}
    training = recipe.training
    if values.get("image_size", recipe.data.image_size) != recipe.data.image_size:
        training = replace(training, progressive=None)  # its sizes are those of the recipe
    changed = replace(recipe, training=training, encoder=replace(recipe.encoder, **theirs))
    return replace(changed, data=replace(recipe.data, **values))


def _as_settings(message: str) -> str:
    for option, setting in OPTIONS.items():
        message = message.replace(option, setting)
    return message


def size_of_weights(recipe: Recipe) -> int | None:
    """Return the side of images that the recipe's network was made for; None: nobody says."""
    named = Path(recipe.encoder.weights or "")
    run = run_of(named) if named.exists() else None
    if run is not None:
        return Recipe.from_dict(load_encoder(run).recipe).data.image_size
    if recipe.data.channels != 3 or recipe.encoder.width != 1:
        return None
    small = recipe.encoder.name in RESNETS and recipe.encoder.stem.startswith("small")
    library = None if small else library_settings(recipe.encoder.name)
    return None if library is None else library.image_size
