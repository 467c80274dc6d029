"""What the tests of extraction and of the commands share."""

import shutil
from pathlib import Path

import pytest

from export.encoder_file import Encoder, open_encoder


@pytest.fixture(scope="session")
def encoder(tiny_encoder: Path) -> Encoder:
    """The tiny encoder, open."""
    return open_encoder(tiny_encoder)


@pytest.fixture
def mixed_folder(picture_folder: Path, tmp_path: Path) -> Path:
    """40 pictures and three files that are none, at the beginning, in the middle and at the end."""
    folder = tmp_path / "mixed"
    shutil.copytree(picture_folder, folder)
    whole = (folder / "squares/00.jpg").read_bytes()
    (folder / "discs/00-text.jpg").write_bytes(b"no picture at all")
    (folder / "ramps/05-empty.png").write_bytes(b"")
    (folder / "stripes/99-cut.jpg").write_bytes(whole[: len(whole) // 2])
    return folder
