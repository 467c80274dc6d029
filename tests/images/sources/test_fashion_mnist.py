import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from base.errors import SourceError
from images.sources import fashion_mnist
from images.sources.sources import open_source

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
LABELS = np.array([9, 0, 3, 9], np.uint8)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Debian package, no earlier download, and a download that ends in a folder of the test."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "BASE_URL", (tmp_path / "web").as_uri() + "/")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")


def put(folder: Path, stem: str, *, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        data += array.tobytes()
        name = f"{stem}-{kind}-ubyte" + (".gz" if packed else "")
        (folder / name).write_bytes(gzip.compress(data) if packed else data)


def check(source: str, split: str) -> None:
    opened = open_source(source)
    items = list(opened)
    assert [item.label for item in items] == ["Ankle boot", "T-shirt/top", "Dress", "Ankle boot"]
    assert [item.key for item in items[:2]] == [f"{split}/00000", f"{split}/00001"]
    assert len(opened.classes) == 10
    assert list(opened.classes) == sorted(opened.classes)
    np.testing.assert_array_equal(items[3].read(), IMAGES[3])


@pytest.mark.parametrize(
    ("source", "split", "stem"),
    [
        ("fashion-mnist", "train", "train"),
        ("fashion-mnist:train", "train", "train"),
        ("fashion-mnist:test", "test", "t10k"),
    ],
)
def test_the_package_of_debian(tmp_path: Path, source: str, split: str, stem: str) -> None:
    put(tmp_path / "debian", stem)
    check(source, split)


@pytest.mark.parametrize("sub_folder", ["", "FashionMNIST/raw"])
def test_an_earlier_download(tmp_path: Path, sub_folder: str) -> None:
    put(tmp_path / "home/.cache/lookalike/fashion-mnist" / sub_folder, "t10k", packed=False)
    check("fashion-mnist:test", "test")


def test_a_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "web", "train")
    for path in (tmp_path / "web").iterdir():
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        monkeypatch.setitem(fashion_mnist.MD5, path.name, md5)
    check("fashion-mnist", "train")
    monkeypatch.setattr(fashion_mnist, "BASE_URL", "file:///nowhere/")
    check("fashion-mnist", "train")


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(SourceError, match="apt-get install dataset-fashion-mnist"):
        open_source("fashion-mnist")
    put(tmp_path / "debian", "train")
    check("fashion-mnist", "train")


@pytest.mark.parametrize("served", [False, True])
def test_a_failed_or_forged_download_says_what_to_install(tmp_path: Path, served: bool) -> None:
    if served:
        put(tmp_path / "web", "train")  # with other bytes than the sums are of
    with pytest.raises(SourceError, match=r"sudo apt-get install dataset-fashion-mnist$") as caught:
        open_source("fashion-mnist")
    assert ("MD5" in str(caught.value)) == served
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("home/.cache/lookalike/fashion-mnist/*"))
