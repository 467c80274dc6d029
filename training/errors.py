"""Errors of this room."""

from base.errors import LookalikeError, UsageError


class RecipeError(UsageError):
    """A recipe that does not exist, holds an unknown key or a value out of range."""


class TrainingDivergedError(LookalikeError):
    """The loss or the weights are no longer finite."""


def require(condition: bool, message: str) -> None:
    """Refuse a value of a recipe unless the condition holds.

    Raises:
        RecipeError: it does not.
    """
    if not condition:
        raise RecipeError(message)
