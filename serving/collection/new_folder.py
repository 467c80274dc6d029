"""A folder that is there as a whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from images.errors import LookalikeError, UsageError
from images.files import fsync_directory
from serving.locks import Locked, folder_lock


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder beside its place, and rename it there when the block ends.

    What a process that was killed has left of the same is removed first.

    Yields:
        the unfinished one, to be filled with files that are on the disk when the block ends.

    Raises:
        UsageError: there is something at its place, or it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; give the path of a new folder")
    for other in folder.parent.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 8}.new"):
        _remove_abandoned(other)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    try:
        unfinished.mkdir(parents=True)
        with folder_lock(unfinished):
            yield unfinished
        fsync_directory(unfinished)
        unfinished.replace(folder)
        fsync_directory(folder.parent)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _remove_abandoned(unfinished: Path) -> None:
    """Unless somebody still writes it, or it may not be removed."""
    with suppress(Locked, LookalikeError), folder_lock(unfinished):
        shutil.rmtree(unfinished, ignore_errors=True)
