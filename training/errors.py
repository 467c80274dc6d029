"""Errors of this room and the words that help out of them."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from base.errors import LookalikeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


class RecipeError(UsageError):
    """A recipe that does not exist, holds an unknown key or a value out of range."""


class TrainingDivergedError(LookalikeError):
    """The loss or the weights are no longer finite."""


def require(condition: bool, message: str) -> None:
    """Refuses a value of a recipe unless the condition holds.

    Raises:
        RecipeError: it does not.
    """
    if not condition:
        raise RecipeError(message)


MOST = 20  # choices in one message


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest choice, else the list of choices."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return f"; known: {', '.join(known[:MOST])}{more}"
