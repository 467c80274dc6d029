"""What `lookalike train` decides before it trains: recipe, run folder, batch and first weights."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from base.errors import UsageError
from base.progress import Silent
from training.compute import choose_device
from training.distillation.settings import START
from training.optim.schedule import peak_learning_rate
from training.precision import settle_precision
from training.recipes.pick_recipe import choose_recipe
from training.recipes.recipe_files import load_recipe, recipe_names
from training.tuning.batch_size import auto_batch_size
from training.weights.recipe_of_weights import changes, recipe_of_weights, size_of_weights
from training.weights.start_teacher import learns_from_start
from training.weights.start_weights import pinned, read_start_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from base.progress import Progress
    from images.sources.sources import Source
    from training.distillation.teacher import Teacher
    from training.recipes.recipe import Recipe

FEWEST = 8  # images; with fewer there is nothing to contrast
AUTO = "auto"
ADAPT = "adapt"  # the recipe for trained weights


def all_overrides(
    settings: Iterable[str] | None,
    weights: str | None,
    batch_size: str | None,
    teacher: Path | None = None,
    *,
    fine_tune: bool = False,
) -> list[str]:
    """Return what options that change the recipe come to, as "table.key=value".

    Raises:
        UsageError: a batch size that is neither a number nor "auto", or nothing to fine-tune.
    """
    overrides = list(settings or [])
    if weights is not None:
        overrides.append(f"encoder.weights={json.dumps(weights)}")
    if teacher is not None:
        overrides.append(f"teacher.encoder={json.dumps(str(teacher))}")
    if fine_tune:
        if weights is None and teacher is None:
            raise UsageError(
                "--fine-tune starts from an encoder: train one without labels first, then give "
                "--weights RUN (or the weights of another encoder)"
            )
        overrides.append("teacher.labels=true")
    if batch_size is not None and batch_size != AUTO:
        if not batch_size.isdecimal():
            raise UsageError(f"--batch-size {batch_size}: give a number of pictures, or auto")
        overrides.append(f"training.batch_size={batch_size}")
    return overrides


def plan(
    images: Source,
    source: str,
    recipe: str | None,
    out: Path | None,
    *,
    resume: bool,
    weights: str | None = None,
    progress: Progress,
) -> tuple[str, Path]:
    """Return the recipe to read and the run folder.

    A run that is resumed keeps its recipe; else, where none is named, trained weights are adapted,
    and without any the images decide.
    """
    if recipe is not None:
        return recipe, out or _default_run(source, Path(recipe).stem)
    if resume and out is not None and (out / "recipe.toml").is_file():
        return str(out / "recipe.toml"), out
    name, reason = ADAPT, "it starts from trained weights"
    if weights is None:
        name, reason = choose_recipe(images)
    run = out or _default_run(source, name)
    if resume and (run / "recipe.toml").is_file():
        return str(run / "recipe.toml"), run
    others = ", ".join(other for other in recipe_names() if other != name)
    progress.message(f"recipe {name}: {reason} (--recipe for another: {others})")
    return name, run


def new_recipe(
    name: str,
    settings: Sequence[str],
    images: int,
    *,
    auto_batch: bool,
    device: str,
    progress: Progress,
) -> Recipe:
    """Return the recipe of a new run, in which what depends on images and machine is settled.

    Args:
        name: of a recipe, or its file.
        settings: from `all_overrides`.
        images: how many there are.
        auto_batch: measure which batch fits memory.
        device: as for `train.train`.
        progress: gets what was decided, as messages.
    """
    recipe = load_recipe(name, settings)
    if recipe.encoder.weights is not None:
        recipe = _as_weights(recipe, settings, own=name not in recipe_names(), progress=progress)
        weights = read_start_weights(recipe)
        mine = _is_set(settings, "data.mean") or _is_set(settings, "data.std")
        with_weights = pinned(recipe, weights, keep_norm=mine)
        progress.message(f"starting from {weights.summary(str(recipe.encoder.weights))}")
        if with_weights.data != recipe.data:
            mean = [round(value, 4) for value in with_weights.data.mean]
            std = [round(value, 4) for value in with_weights.data.std]
            progress.message(f"data.mean = {mean}, data.std = {std}: as those weights were trained")
        recipe = with_weights
    if auto_batch:
        return _measured_batch(recipe, images, device, progress)
    if _is_set(settings, "training.batch_size"):
        return recipe
    return _halved_batch(recipe, images, progress)


def _as_weights(
    recipe: Recipe, settings: Sequence[str], *, own: bool, progress: Progress
) -> Recipe:
    """Return the recipe with encoder and images as its weights have them, and say what changed."""
    keys = {setting.partition("=")[0].strip() for setting in settings}
    if own and "encoder.weights" not in keys:  # the recipe was made for its weights
        return recipe
    keep_size = own or learns_from_start(recipe)
    if learns_from_start(recipe):  # which sees whole images
        keys.add("data.evaluation_resize")
    planned = recipe_of_weights(recipe, keys, keep_size=keep_size)
    if changed := changes(recipe, planned):
        progress.message(
            f"as the network of those weights: {', '.join(changed)}; --set overrides each"
        )
    before, after = recipe.data.image_size, planned.data.image_size
    if before != after:
        cost = (after / before) ** 2
        compared = f"{cost:.1f} times" if cost >= 1 else f"1/{1 / cost:.1f}"
        progress.message(
            f"pictures of {after} px, which the network was made for, instead of the recipe's "
            f"{before}: {compared} the work a picture (--set data.image_size={before} keeps them)"
        )
    elif (made_for := size_of_weights(planned)) not in (None, after):
        progress.message(f"the network was made for {made_for} px: it is trained at {after}")
    return planned


def open_teacher(recipe: Recipe, open_encoder: Callable[[Path], Teacher] | None) -> Teacher | None:
    """Open the encoder file that a recipe learns from, if it does.

    Args:
        recipe: whose `teacher.encoder` may name one.
        open_encoder: opens encoder files. Training cannot: they belong to a room that builds on it,
            so the front door hands this in.

    Raises:
        UsageError: there is nothing to open it with, or the file is unusable.
    """
    if recipe.teacher.encoder in {None, START}:
        return None
    if open_encoder is None:
        raise UsageError("--teacher is for the command `lookalike train`, which opens the encoder")
    return open_encoder(Path(str(recipe.teacher.encoder)))


def resumed_recipe(name: str, settings: Sequence[str], images: int) -> Recipe:
    """Return the recipe of a run to resume: what was measured or read for it stands in its file."""
    recipe = load_recipe(name, settings)
    if _is_set(settings, "training.batch_size"):
        return recipe
    return _halved_batch(recipe, images, Silent())


def _measured_batch(recipe: Recipe, images: int, device: str, progress: Progress) -> Recipe:
    target = choose_device(device)
    recipe = settle_precision(recipe, target, progress)  # before memory is: it halves activations
    fit = auto_batch_size(recipe, target, images, progress)
    training = replace(recipe.training, batch_size=fit.batch_size)
    micro = training.micro_batch
    if micro is not None and (micro > fit.batch_size or fit.batch_size % micro):
        training = replace(training, micro_batch=None)
    schedule = recipe.schedule
    rate = peak_learning_rate(schedule.learning_rate, schedule.scaling, fit.batch_size)
    rule = "not scaled" if schedule.scaling == "none" else f"{schedule.scaling} scaling"
    progress.message(
        f"batches of {fit.batch_size}, learning rate {rate:.3g} ({rule}); not larger: {fit.reason}"
    )
    return replace(recipe, training=training)


def _halved_batch(recipe: Recipe, images: int, progress: Progress) -> Recipe:
    """Halve the batch of a recipe that was made for more images than there are."""
    batch = recipe.training.batch_size
    if images >= batch or images < FEWEST:
        return recipe
    while batch > images // 2:
        batch //= 2
    instead = f"batches of {batch} instead of {recipe.training.batch_size}"
    progress.message(f"{instead}: there are {images} pictures")
    return replace(recipe, training=replace(recipe.training, batch_size=batch, micro_batch=None))


def _is_set(settings: Iterable[str], key: str) -> bool:
    return any(setting.partition("=")[0].strip() == key for setting in settings)


def _default_run(source: str, recipe: str) -> Path:
    return Path("runs") / f"{_slug(source)}-{_slug(recipe)}"


def _slug(text: str) -> str:
    """Return a source or recipe as a piece of a folder's name."""
    return re.sub(r"[^\w.-]+", "-", Path(text).name).strip("-.") or "pictures"
