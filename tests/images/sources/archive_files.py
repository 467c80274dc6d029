"""The same four images as a folder, a tar and a zip archive, for tests of sources."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("hat/1.png", "hat/summer/2.png", "shoe/3.PNG", "shoe/4.png")


def png(value: int) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + np.uint8(value)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {name: png(number) for number, name in enumerate(NAMES)}


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, files: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FORMS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda tmp: make_folder(tmp / "photos", FILES),
    "tar": lambda tmp: make_tar(tmp / "a.tar", FILES),
    "tar.gz": lambda tmp: make_tar(tmp / "a.tar.gz", FILES, "w:gz"),
    "tgz": lambda tmp: make_tar(tmp / "a.tgz", FILES, "w:gz"),
    "tar.bz2": lambda tmp: make_tar(tmp / "a.tar.bz2", FILES, "w:bz2"),
    "tar.xz": lambda tmp: make_tar(tmp / "a.tar.xz", FILES, "w:xz"),
    "tar, misnamed": lambda tmp: make_tar(tmp / "archive #1", FILES),
    "zip, deflated": lambda tmp: make_zip(tmp / "a.zip", FILES),
    "zip, stored": lambda tmp: make_zip(tmp / "a #1.zip", FILES, zipfile.ZIP_STORED),
}
