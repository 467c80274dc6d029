"""Benchmarks read only options that they declare, under the names that their docstrings show."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_OPTIONS = sorted(
    path.stem for path in FOLDER.glob("*.py") if "add_argument(" in path.read_text()
)


def declared(tree: ast.Module) -> dict[str, str]:
    """Return the attribute of each option's value, by the option's name."""
    attributes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            (name,) = (ast.literal_eval(argument) for argument in node.args)
            renamed = [ast.literal_eval(k.value) for k in node.keywords if k.arg == "dest"]
            attributes[name] = renamed[0] if renamed else name.lstrip("-").replace("-", "_")
    return attributes


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_are_declared(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    options = declared(tree)
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("options", "arguments")
    }
    read -= set(dir(list))  # arguments of a child's command line
    assert read <= set(options.values())
    shown = set(re.findall(r"--[a-z][a-z0-9-]*", ast.get_docstring(tree) or ""))
    others = {"--resume", "--update", "--npy", "--into", "--precision"}  # of `lookalike`
    others |= {"--set", "--weights", "--teacher", "--labels", "--fine-tune"}
    assert shown - others <= set(options)
