"""Small archives in the two official layouts, made here."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from base.errors import SourceError
from images.sources.cifar10 import CLASSES
from images.sources.sources import open_source, read_uri

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 32, 32, 3), np.uint8)
LABELS = np.arange(24).reshape(6, 4) % 10


def python_batch(number: int) -> bytes:
    planes = IMAGES[number].transpose(0, 3, 1, 2).reshape(4, 3072)
    batch = {b"data": planes, b"labels": LABELS[number].tolist(), b"batch_label": b"x"}
    return pickle.dumps(batch, protocol=2)


def binary_batch(number: int) -> bytes:
    planes = IMAGES[number].transpose(0, 3, 1, 2).reshape(4, 3072)
    return np.concatenate([LABELS[number][:, None].astype(np.uint8), planes], axis=1).tobytes()


def make(folder: Path, kind: str, *, packed: bool) -> Path:
    suffix = ".bin" if kind == "binary" else ""
    inner = f"cifar-10-batches-{'bin' if suffix else 'py'}"
    write = binary_batch if suffix else python_batch
    files = {f"{batch}{suffix}": write(number) for number, batch in enumerate(BATCHES)}
    if not packed:
        (folder / inner).mkdir(parents=True)
        for name, data in files.items():
            (folder / inner / name).write_bytes(data)
        return folder / inner
    folder.mkdir(exist_ok=True)
    path = folder / f"cifar-10-{kind}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{inner}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOOKALIKE_DATA", raising=False)


@pytest.mark.parametrize("kind", ["python", "binary"])
@pytest.mark.parametrize("packed", [True, False])
def test_both_versions_by_name_and_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: bool
) -> None:
    path = make(tmp_path / "data", kind, packed=packed)
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "data"))
    for name, first, count in (
        ("cifar10", 0, 20), ("cifar10:train", 0, 20), ("cifar10:test", 5, 4),
        (str(path), 0, 20), (f"{path}:test", 5, 4),
    ):  # fmt: skip
        source = open_source(name)
        assert len(source) == count
        assert source.classes == CLASSES
        for index, item in enumerate(source):
            batch, row = first + index // 4, index % 4
            assert item.key == f"{'test' if first else 'train'}/{index:05d}"
            assert item.label == CLASSES[LABELS[batch, row]]
            np.testing.assert_array_equal(item.read(), IMAGES[batch, row])
            np.testing.assert_array_equal(read_uri(item.uri), IMAGES[batch, row])


def test_where_it_is_absent_the_error_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cifar10:test is not on this machine: put .*tar\.gz"):
        open_source("cifar10:test")
    make(tmp_path / "home", "binary", packed=False)
    (tmp_path / "home" / ".cache" / "lookalike").mkdir(parents=True)
    (tmp_path / "home" / "cifar-10-batches-bin").rename(tmp_path / "moved")
    (tmp_path / "home" / ".cache" / "lookalike" / "cifar10").mkdir()
    (tmp_path / "moved").rename(tmp_path / "home/.cache/lookalike/cifar10/cifar-10-batches-bin")
    assert len(open_source("cifar10:test")) == 4


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("owned"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "content", [pickle.dumps({b"data": Hostile()}), b"cos\nsystem\n(S'x'\ntR."]
)
def test_a_pickle_that_wants_to_run_something_is_refused(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path, "python", packed=False)
    (path / "test_batch").write_bytes(content)
    with pytest.raises(SourceError, match="test_batch is refused: its pickle asks for"):
        open_source(f"{path}:test")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"hello", pickle.dumps({b"data": 1, b"labels": []}),
                                     pickle.dumps([1]), python_batch(0)[:500]])  # fmt: skip
@pytest.mark.parametrize("kind", ["python", "binary"])
def test_damaged_batches(tmp_path: Path, content: bytes, kind: str) -> None:
    path = make(tmp_path, kind, packed=False)
    (file,) = path.glob("data_batch_3*")
    file.write_bytes(content)
    with pytest.raises(SourceError, match=r"data_batch_3.* is not a batch of CIFAR-10"):
        open_source(path)
    file.unlink()
    with pytest.raises(SourceError, match="is not whole: data_batch_3 is missing"):
        open_source(path)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = make(tmp_path / "a", "python", packed=True)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match="is damaged or cannot be read"):
        open_source(path)
