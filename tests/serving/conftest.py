"""What the tests of extraction and of the commands share."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.encoder_file.encoder_file import Encoder, open_encoder
from serving.collection import create_collection
from tests.serving.cli.commands import answer


@pytest.fixture(scope="session")
def encoder(tiny_encoder: Path) -> Encoder:
    """The tiny encoder, open."""
    return open_encoder(tiny_encoder)


@pytest.fixture
def mixed_folder(image_folder: Path, tmp_path: Path) -> Path:
    """40 images and three files that are not, at the beginning, in the middle and at the end."""
    folder = tmp_path / "mixed"
    shutil.copytree(image_folder, folder)
    whole = (folder / "squares/00.jpg").read_bytes()
    (folder / "discs/00-text.jpg").write_bytes(b"no picture at all")
    (folder / "ramps/05-empty.png").write_bytes(b"")
    (folder / "stripes/99-cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session")
def milvus_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of milvus-lite for many collections, open all the while."""
    pytest.importorskip("pymilvus", reason="needs the extra milvus")
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    path = tmp_path_factory.mktemp("milvus") / "tests.db"
    with create_collection(f"milvus+file:{path}#kept_open", "0" * 64, 8):
        yield path


_numbers = itertools.count()


@pytest.fixture
def milvus(milvus_file: Path) -> str:
    """Where a test's collection in Milvus is to be made."""
    return f"milvus+file:{milvus_file}#test_{next(_numbers)}"


@pytest.fixture
def features(tiny_encoder: Path, image_folder: Path, tmp_path: Path) -> Path:
    """The 40 images, extracted."""
    answer("extract", tiny_encoder, image_folder, "--out", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def shop(tiny_encoder: Path, tmp_path: Path) -> Path:
    """An empty collection."""
    answer("collection", "create", tmp_path / "shop", "--encoder", tiny_encoder)
    return tmp_path / "shop"
