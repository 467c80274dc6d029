"""The commands, called in this process."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from base.errors import UsageError
from serving.cli.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Return the JSON object that a command prints as the last line of stdout."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    content: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return content


def refusal(*arguments: object) -> Exception:
    """Return what a command raises for `lookalike.py` to print; nothing else is on stderr."""
    result = run(*arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert result.output == ""
    return result.exception
