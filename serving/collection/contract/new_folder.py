"""A folder that is there as a whole or not at all.

It is made inside a hidden folder beside its final path, locked as long as a process works in it:

    .shop.1b2c3d4e.new/.lock
    .shop.1b2c3d4e.new/made/        renamed to shop/ at the end

So a process that makes the same folder can tell the remains of a killed one from work in progress.

Nothing can be renamed to an empty mount point. There the hidden folder lies inside, and what is in
it is moved out of it, `LAST` at the end: without that file it is no collection.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from base.errors import LookalikeError, UsageError
from base.files import fsync_directory
from base.locks import FILE_NAME, Locked, folder_lock

LAST = "ledger.db"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder beside its final path, and rename it when the block ends.

    The remains of a killed process that made the same folder are removed first.

    Yields:
        the unfinished one, to be filled with files that are on the disk when the block ends.

    Raises:
        UsageError: there is something at its path, or it cannot be made.
    """
    mounted = folder.is_mount()
    inside = folder if mounted else folder.parent
    for workplace in inside.glob(f".{escape(folder.name)}.{'[0-9a-f]' * 8}.new"):
        _remove_abandoned(workplace)
    if folder.exists() and not (folder.is_dir() and _is_empty(folder, mounted=mounted)):
        raise UsageError(f"{folder} is there already and not empty; give the path of a new folder")
    workplace = inside / f".{folder.name}.{secrets.token_hex(4)}.new"
    try:
        workplace.mkdir(parents=True)
        with folder_lock(workplace):
            unfinished = workplace / "made"
            unfinished.mkdir()
            yield unfinished
            fsync_directory(unfinished)
            if mounted:
                _move_out(unfinished, folder)
            else:
                _put(unfinished, folder)
        fsync_directory(inside)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from error
    except Locked as locked:
        raise UsageError(f"{folder} is being made by another process; try again") from locked
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _is_empty(folder: Path, *, mounted: bool) -> bool:
    """Whether nothing is in it but what a new file system comes with."""
    return all(mounted and path.name == "lost+found" for path in folder.iterdir())


def _put(unfinished: Path, folder: Path) -> None:
    """Rename a folder to its final path; into a bind mount of the same file system move it."""
    try:
        unfinished.replace(folder)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        shutil.copytree(unfinished, folder, dirs_exist_ok=True, copy_function=_copy_synced)


def _copy_synced(source: str, target: str) -> str:
    shutil.copy2(source, target)
    with Path(target).open("rb") as file:
        os.fsync(file.fileno())
    return target


def _move_out(unfinished: Path, folder: Path) -> None:
    """Move what is in a folder to its final one; see `LAST`."""
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == LAST):
        path.replace(folder / path.name)


def _remove_abandoned(workplace: Path) -> None:
    """Remove it unless a process works in it, or is about to, or it cannot be removed."""
    if (workplace / FILE_NAME).exists():
        with suppress(Locked, LookalikeError), folder_lock(workplace):
            shutil.rmtree(workplace, ignore_errors=True)
