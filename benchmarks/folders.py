"""Folders of photos to extract from, and whether the system keeps them in memory."""

import os
from itertools import cycle, islice
from pathlib import Path

from benchmarks.sample_images import CLOTHING, photos


def image_files(folder: Path) -> tuple[list[Path], str]:
    """Return JPEG files to read, and what they are; they are drawn where there are none."""
    files = sorted(CLOTHING.glob("*/**/*.jpg"))
    if files:
        return files, "clothing-small"
    folder.mkdir()
    drawn, what = photos(256)
    for number, image in enumerate(drawn):
        (folder / f"{number:04}.jpg").write_bytes(image)
    return sorted(folder.iterdir()), what


def linked(folder: Path, files: list[Path], count: int) -> Path:
    """Make a folder of so many links to files, which may come again, in ten classes.

    Every way can read it, and all read the same.
    """
    step = max(1, len(files) // count)
    for number, file in enumerate(islice(cycle(files[::step]), count)):
        label = folder / f"class-{number % 10}"
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{number:05}.jpg").symlink_to(file)
    return folder


def forget(files: list[Path]) -> None:
    """Have the system drop what it keeps of files in memory."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def fetched() -> int:
    """Return the bytes that this process has had read from a disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])
