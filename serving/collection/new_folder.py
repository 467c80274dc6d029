"""A folder that is there as a whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.errors import UsageError
from images.files import fsync_directory


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder beside its place, and rename it there when the block ends.

    Yields:
        the unfinished one, to be filled with files that are on the disk when the block ends.

    Raises:
        UsageError: there is something at its place, or it cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not empty; give the path of a new folder")
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        fsync_directory(unfinished)
        unfinished.replace(folder)
        fsync_directory(folder.parent)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
