"""Feature folders that the tests of extraction begin from."""

from pathlib import Path

import pytest

from export.encoder_file.encoder_file import Encoder
from images.sources import paths
from serving.features.reader import Features, open_features
from tests.serving.extraction.runs import run, update


@pytest.fixture
def unbroken(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> Features:
    """The features that a run without interruption makes."""
    run(encoder, mixed_folder, tmp_path / "unbroken")
    return open_features(tmp_path / "unbroken")


@pytest.fixture
def done(encoder: Encoder, mixed_folder: Path, tmp_path: Path) -> Path:
    """The mixed folder's features."""
    update(encoder, mixed_folder, tmp_path / "done")
    return tmp_path / "done"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys of the files that are read."""
    keys: set[str] = set()

    def noted(path: str) -> bytes:
        keys.add("/".join(Path(path).parts[-2:]).removeprefix("mixed/"))
        return read_file(path)

    read_file = paths.read_file
    monkeypatch.setattr(paths, "read_file", noted)
    return keys
