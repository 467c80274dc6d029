"""docs/training.md names every key of a recipe, every recipe and every option."""

from dataclasses import fields
from pathlib import Path

import pytest
import typer

from training.cli.cli import app
from training.recipes.recipe_files import load_recipe, recipe_names

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
RECIPE = load_recipe("small-cpu")
TABLES = [field.name for field in fields(RECIPE) if field.name != "name"]


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_on_the_page(table: str) -> None:
    keys = PAGE.partition("## Every key")[2].partition("\n## ")[0]
    assert f"| `{table}` |" in keys
    missing = [f.name for f in fields(getattr(RECIPE, table)) if f"`{f.name}`" not in keys]
    assert not missing


def test_every_recipe_and_option_is_on_the_page() -> None:
    assert [name for name in recipe_names() if f"`{name}`" not in PAGE] == []
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = [o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"]
    assert [option for option in options if option not in PAGE] == []
