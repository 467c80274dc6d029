"""The name `fashion-mnist`: 70,000 grey 28x28 product pictures in 10 classes (Xiao et al. 2017, MIT).

Debian's package is used if it is installed, else what an earlier download left, else the four files are
downloaded from where torchvision takes them, checked against torchvision's MD5 sums.
"""

from pathlib import Path

from images.arrays import ArraySource
from images.errors import SourceError
from images.idx import open_idx

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
SPLITS = {"train": "train", "test": "t10k"}
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def open_fashion_mnist(split: str, name: str) -> ArraySource:
    """Open one split, `train` or `test`; raises SourceError saying what to install."""
    path = DEBIAN_FOLDER / f"{SPLITS[split]}-images-idx3-ubyte.gz"
    if not path.is_file():
        raise SourceError(f"{name} is not here: sudo apt-get install {DEBIAN_PACKAGE}")
    return open_idx(path, name, class_names=CLASSES, prefix=split)
