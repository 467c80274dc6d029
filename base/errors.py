"""The exceptions of Lookalike. The front door prints one line and exits with `exit_code`.

    LookalikeError              3   it failed
    ├── UsageError              2   unusable argument: wrong path, unknown name, bad value
    │   ├── SourceError         2   a SOURCE that cannot be listed
    │   └── ArtifactError       2   a file or folder that is not ours, is damaged, or another's
    ├── StorageError            3   a disk that is full, read-only or fails
    └── ImageRefused            3   one image that cannot be used; a batch records it and continues

A message names the input, the value and the remedy, on one line.
"""

from enum import StrEnum
from typing import ClassVar


class LookalikeError(Exception):
    """Something failed although the arguments were usable."""

    exit_code: ClassVar[int] = 3


class UsageError(LookalikeError):
    """An argument that cannot be used: wrong path, unknown name, bad value.

    Attributes:
        param: the name of the parameter that was wrong, where it is one.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, *args: object, param: str | None = None) -> None:
        super().__init__(*args)
        self.param = param


class SourceError(UsageError):
    """A SOURCE that cannot be listed: missing, empty, damaged or of an unknown kind."""


class ArtifactError(UsageError):
    """An artifact that is not ours, is damaged, or was made from something else."""


class StorageError(LookalikeError):
    """A disk that cannot be written to; nothing was changed.

    Attributes:
        full: no space, or a quota is used up; else read-only, without permission, or broken.
    """

    def __init__(self, message: str, *, full: bool) -> None:
        super().__init__(message)
        self.full = full


class RefusalReason(StrEnum):
    """Why one image was refused. The values are stable: they stand in errors tables and answers."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_MANY_BYTES = "too-many-bytes"
    TOO_SMALL = "too-small"
    UNREADABLE = "unreadable"
    UNSUPPORTED = "unsupported"
    CRASHED = "crashed"
    TIMED_OUT = "timed-out"


class ImageRefused(LookalikeError):  # noqa: N818 - a verdict about one image, not a failure
    """One image that cannot be used; never fatal to a batch."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})"
