"""The name `fashion-mnist`: 70,000 gray 28x28 product images, 10 classes (Xiao et al. 2017, MIT).

Debian's package is used if it is installed, else what an earlier download left, else the files are
downloaded from where torchvision takes them and checked against torchvision's MD5 sums.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from base.errors import SourceError
from base.files import write_bytes_atomic
from images.sources.arrays import ArraySource
from images.sources.idx import open_idx
from images.sources.paths import is_there

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
BASE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
SPLITS = {"train": "train", "test": "t10k"}
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

_REMEDY = "try: sudo apt-get install dataset-fashion-mnist"
_LARGEST = 64 * 2**20
_TIMEOUT_S = 30


def open_fashion_mnist(split: str, name: str) -> ArraySource:
    """Open a split, `train` (60,000) or `test` (10,000).

    Raises:
        SourceError: it is neither here nor to be had; the message says what to install.
    """
    images = f"{SPLITS[split]}-images-idx3-ubyte"
    path = _find(images) or _download(SPLITS[split], name)
    return open_idx(path, name, class_names=CLASSES, prefix=split)


def cache_folder() -> Path:
    """Return where downloads are kept."""
    try:
        return Path.home() / ".cache" / "lookalike" / "fashion-mnist"
    except RuntimeError as error:  # a user without a home, as some containers have
        raise SourceError(f"no folder to download to ({error}); {_REMEDY}") from error


def _folders() -> Iterator[Path]:
    yield DEBIAN_FOLDER
    yield cache_folder()
    yield cache_folder() / "FashionMNIST" / "raw"  # as torchvision lays it out


def _find(images: str) -> Path | None:
    paths = (folder / f"{images}{suffix}" for folder in _folders() for suffix in (".gz", ""))
    return next((path for path in paths if is_there(path)), None)


def _download(stem: str, name: str) -> Path:
    """Fetch the labels, then the images: once the images are there, both are."""
    folder = cache_folder()
    files = [f"{stem}-labels-idx1-ubyte.gz", f"{stem}-images-idx3-ubyte.gz"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            write_bytes_atomic(folder / file, _fetch(file))
    except OSError as error:
        message = f"{name} is not on this machine and its download failed ({error})"
        raise SourceError(f"{message}; {_REMEDY}") from error
    return folder / files[-1]


def _fetch(file: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(BASE_URL + file, timeout=_TIMEOUT_S) as response:  # noqa: S310 - a constant
            data: bytes = response.read(_LARGEST)
    except HTTPException as error:
        raise OSError(f"{file}: {error!r}") from error
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5[file]:
        raise OSError(f"{file}: {len(data):,} bytes with another MD5 sum than expected")
    return data
