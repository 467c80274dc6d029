"""Adding on a disk that is full, or read-only: what is stored is 201, the rest a named refusal."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.collection import Collection, open_collection
from serving.http.policy.settings import Settings
from serving.http.routes import writing
from tests.serving.full_disk import largest_file
from tests.serving.http.conftest import Running, make_collection, png, started

Encode = Callable[[bytes], NDArray[np.float32]]


@pytest.fixture(autouse=True)
def nothing_in_the_log_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing._LogLimit, "last", -writing.LOG_SECONDS)


def add(running: Running, number: int) -> httpx.Response:
    """Add an image of noise with 30 KB of metadata."""
    pixels = np.random.default_rng(number).integers(0, 256, (48, 48, 3), np.uint8)
    data = {"key": f"new-{number:03}", "metadata": '{"text": "' + "x" * 30_000 + '"}'}
    return running.client.post("/items", files={"image": png(pixels)}, data=data)


def gauge(running: Running) -> float:
    text = running.client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("lookalike_storage_failing ")]
    return float(line.split()[1])


def stored(folder: Path) -> set[str]:
    with open_collection(folder, load_index=False) as collection:
        return {key for key in collection.keys(limit=1000) if key.startswith("new-")}


def faults(log: pytest.LogCaptureFixture) -> list[str]:
    assert not any(record.exc_info for record in log.records)
    return [record.message for record in log.records if record.levelno >= logging.ERROR]


def test_what_is_stored_is_answered_so(
    fresh: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert gauge(fresh) == 0
    with largest_file(1_000_000):  # a limit of files fails writes as a disk does
        answers = {f"new-{number:03}": add(fresh, number) for number in range(60)}
        assert fresh.client.post("/search", json={"key": "discs/00.jpg"}).status_code == 200
        assert gauge(fresh) == 1
    good = {key for key, answer in answers.items() if answer.status_code == 201}
    assert 0 < len(good) < 60
    for key in answers.keys() - good:
        assert fresh.error(answers[key])[1] in ("storage-full", "storage-unwritable")
    assert good == stored(tmp_path / "c")
    assert len(faults(caplog)) == 1
    assert add(fresh, 100).status_code == 201
    assert gauge(fresh) == 0


@pytest.fixture
def small_disk(
    tmp_path: Path,
    tiny_encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Encode,
) -> Iterator[Path]:
    """A collection on a file system of 7 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=7m", "none", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield make_collection(folder / "c", tiny_encoder, image_folder, images, encode)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_file_system_without_space(
    small_disk: Path, tiny_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with started(Settings(encoder=tiny_encoder, collection=small_disk)) as running:
        answers = {f"new-{number:03}": add(running, number) for number in range(150)}
        codes = {answer.status_code for answer in answers.values()}
        assert codes == {201, 507}, codes
        good = {key for key, answer in answers.items() if answer.status_code == 201}
        assert running.client.post("/search", json={"key": "discs/00.jpg"}).status_code == 200
        listed = running.client.get("/items", params={"after": "new", "limit": 1000}).json()
        assert good == {item["key"] for item in listed["items"]} & answers.keys()
        assert len(faults(caplog)) == 1
    assert good == stored(small_disk)


def test_a_folder_that_became_read_only(
    fresh: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the lock's file is opened; root may write in spite of the folder's mode."""
    folder, opened = str(tmp_path / "c"), os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if str(path).startswith(folder) and flags & os.O_RDWR:
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("os.open", refuse)
    for answer in (add(fresh, 1), add(fresh, 2), fresh.client.delete("/items/discs%2F00.jpg")):
        assert fresh.error(answer) == (503, "storage-unwritable", None)
    assert len(faults(caplog)) == 1
    assert fresh.client.get("/items/discs%2F00.jpg").status_code == 200


def test_nothing_after_the_commit_fails_the_answer(
    fresh: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        for name in ("keep", "forget"):
            broken.setattr(f"serving.http.engine.thumbnails.Thumbnails.{name}", fail)
        collection = fresh.runtime.collection.current
        assert isinstance(collection, Collection)
        broken.setattr(collection._follower, "follow", fail)
        assert add(fresh, 1).status_code == 201
        assert fresh.client.delete("/items/discs%2F00.jpg").status_code == 200
    assert stored(tmp_path / "c") == {"new-001"}
    hits = fresh.client.post("/search", json={"key": "new-001", "k": 100}).json()["neighbours"]
    assert len(hits) == 39
