"""Recipes as TOML files: the ones that come with the project, the user's own, and overrides."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.files import write_bytes_atomic
from base.text import did_you_mean
from training.errors import RecipeError
from training.models.encoders import RESNETS
from training.recipes.recipe import Recipe
from training.recipes.toml_dataclass import to_toml

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path(__file__).parent

# Setting one of a pair takes back the other, so that an override can change the kind of length.
_EITHER_OR = {
    ("training", "epochs"): "samples",
    ("training", "samples"): "epochs",
    ("schedule", "warmup_epochs"): "warmup_fraction",
    ("schedule", "warmup_fraction"): "warmup_epochs",
}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name (`small-cpu`) or from a file (`mine.toml`).

    Args:
        name_or_path: one of `recipe_names()`, or a path that ends in .toml.
        overrides: "table.key=value" with a TOML value; quotes around a word may be left out.

    Raises:
        RecipeError: no such recipe, broken TOML, unknown key, value out of range.
    """
    path = _find(str(name_or_path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"cannot read recipe {path}: {error}") from error
    document.setdefault("name", path.stem)
    for override in overrides:
        _apply(document, override)
    return Recipe.from_dict(document)


def save_recipe(path: Path, recipe: Recipe) -> None:
    """Write all values of a recipe, defaults included; `load_recipe` reads the same one back."""
    write_bytes_atomic(path, to_toml(recipe.to_dict()).encode())


def _find(name_or_path: str) -> Path:
    if name_or_path in recipe_names():
        return FOLDER / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix == ".toml":
        raise RecipeError(f"no recipe file {path}")
    raise RecipeError(
        f"unknown recipe '{name_or_path}'{did_you_mean(name_or_path, recipe_names())}"
    )


def _apply(document: dict[str, Any], override: str) -> None:
    left, equals, right = override.partition("=")
    table, dot, key = left.strip().partition(".")
    if not (equals and dot and table and key):
        raise RecipeError(f"cannot read '{override}': write table.key=value")
    values = document.setdefault(table, {})
    if not isinstance(values, dict):
        raise RecipeError(f"cannot set '{left.strip()}': '{table}' is no table")
    values.pop(_EITHER_OR.get((table, key), ""), None)
    values[key] = _toml_value(right.strip())
    if (table, key) == ("encoder", "name") and values[key] not in RESNETS:
        for other in ("width", "stem", "selective_kernels"):  # for ResNets; set later, they count
            values.pop(other, None)


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word: optimizer.name=lars
