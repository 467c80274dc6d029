"""A collection is switched to another encoder: completely or not at all, and it can be resumed."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from base.errors import UsageError
from export.encoder_file.encoder_file import Encoder, open_encoder
from images.sources.sources import open_source
from serving.cli.cli import app
from serving.collect import add_source
from serving.collection import Collection, create_collection, open_collection
from serving.collection.contract.errors import CollectionBusy, CollectionRebuilt
from serving.collection.verification import verify
from serving.rebuild import rebuild


@pytest.fixture
def new(other_encoder: Path) -> Encoder:
    return open_encoder(other_encoder, provider="cpu")


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(image_folder, tmp_path / "pictures")
    return tmp_path / "pictures"


def fill(path: Path, encoder: Encoder, images: Path) -> Collection:
    made = create_collection(path, encoder.digest, encoder.embedding_dim)
    source = open_source(images)
    add_source(made, encoder, source, on_duplicate="refuse", on_progress=lambda *_: None)
    return made


def vectors(path: Path) -> dict[str, bytes]:
    with open_collection(path) as collection:
        return {one.key: np.asarray(one.vector).tobytes() for one in collection.items(limit=1000)}


def test_it_becomes_what_the_new_encoder_would_have_made(
    encoder: Encoder, new: Encoder, images: Path, tmp_path: Path
) -> None:
    old = fill(tmp_path / "shop", encoder, images)
    old.save()
    fill(tmp_path / "wanted", new, images).close()
    query = [next(iter(old.items(limit=1))).vector]
    report = rebuild(tmp_path / "shop", new)
    assert report.done
    assert (report.refused, report.resumed, report.items) == (0, 0, len(vectors(tmp_path / "shop")))
    ours, expected = vectors(tmp_path / "shop"), vectors(tmp_path / "wanted")
    assert ours.keys() == expected.keys()
    for key, vector in ours.items():
        np.testing.assert_allclose(
            np.frombuffer(vector, "<f4"), np.frombuffer(expected[key], "<f4"), atol=1e-6
        )
    assert verify(tmp_path / "shop").faults == 0
    with pytest.raises(CollectionRebuilt, match="open it again"):
        old.search(query)
    old.close()
    with pytest.raises(UsageError, match="already"):
        rebuild(tmp_path / "shop", new)


def test_images_that_are_gone_hold_it_up_until_they_are_given_up(
    encoder: Encoder, new: Encoder, images: Path, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    fill(shop, encoder, images).close()
    before = vectors(shop)
    lost = sorted(before)[3]
    (images / lost).unlink()
    command = ["collection", "rebuild", str(shop), "--encoder", str(new.path)]
    held = CliRunner().invoke(app, command)
    assert held.exit_code == 1
    assert lost in held.output
    assert "nothing was switched over" in held.output
    assert vectors(shop) == before
    report = rebuild(shop, new, drop_unreadable=True)
    assert (report.resumed, report.refused) == (len(before) - 1, 1)
    assert sorted(vectors(shop)) == sorted(before.keys() - {lost})
    assert verify(shop).faults == 0


KILLED = """
    import os, signal, sys
    from export.encoder_file.encoder_file import open_encoder
    import serving.rebuild
    from serving.collection.upkeep.rebuilding import Rebuilder

    serving.rebuild.RECORDS = 7
    step, left = sys.argv[3], [3]
    for name in ("store", "finish"):
        def killing(self, *arguments, name=name, real=getattr(Rebuilder, name)):
            real(self, *arguments)
            left[0] -= name == "store"
            if name == step and (name == "finish" or not left[0]):
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(Rebuilder, name, killing)
    serving.rebuild.rebuild(sys.argv[1], open_encoder(sys.argv[2]))
"""


@pytest.mark.parametrize("step", ["store", "finish"])
def test_killed_it_goes_on(
    encoder: Encoder, new: Encoder, images: Path, tmp_path: Path, step: str
) -> None:
    shop = tmp_path / "shop"
    collection = fill(shop, encoder, images)
    collection.save()
    items = len(collection)
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(shop), str(new.path), step],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    if step == "store":
        assert collection.search([next(iter(collection.items(limit=1))).vector])
        assert rebuild(shop, new).resumed == 21
    with pytest.raises(CollectionRebuilt):
        len(collection)
    collection.close()
    with open_collection(shop, encoder_digest=new.digest) as now:
        assert len(now) == items
    # killed before a new snapshot was saved: there is none, and nothing is wrong
    verification = verify(shop)
    assert (verification.faults, verification.snapshot) == (
        0,
        "whole" if step == "store" else "none",
    )
    CliRunner().invoke(app, ["collection", "tune", str(shop)])
    assert verify(shop).snapshot == "whole"


def test_nobody_writes_meanwhile(
    encoder: Encoder, new: Encoder, images: Path, tmp_path: Path
) -> None:
    fill(tmp_path / "shop", encoder, images).close()
    refused: list[str] = []

    def try_to_write(_done: int, _total: int) -> None:
        with open_collection(tmp_path / "shop", lock_seconds=0) as other:
            try:
                other.remove(["x"])
            except CollectionBusy as busy:
                refused.append(str(busy))

    rebuild(tmp_path / "shop", new, on_progress=try_to_write)
    assert refused
