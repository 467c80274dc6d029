"""What an earlier version wrote opens unchanged; `earlier_version/README.md` says what it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import lookalike
from export.encoder_file.encoder_file import open_encoder
from images.pixels.preprocess import load_image
from serving.collection import open_collection
from serving.features.reader import open_features
from tests.end_to_end.earlier_version.make import ARTIFACTS, losses
from training.recipes.recipe_files import load_recipe
from training.run_folder.checkpoint import load_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    Lookalike = Callable[..., Any]

ARCHIVE = Path(__file__).parent / "earlier_version" / "lookalike-0.1.0.tar.xz"


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked archive, which is the working folder too."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / ARCHIVE.name.removesuffix(".tar.xz")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def expected(earlier: Path) -> Any:
    """What the earlier version said of it."""
    return json.loads((earlier / "expected.json").read_bytes())


@pytest.fixture
def call(earlier: Path, capsys: pytest.CaptureFixture[str]) -> Lookalike:
    """Run a command in that folder and return the JSON it ends with."""

    def run(*arguments: str) -> Any:
        capsys.readouterr()
        code = lookalike.run([*arguments, "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out.splitlines()[-1])

    return run


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """List what is no longer as it was; new fields are allowed."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key, value in before.items()
            for line in differences(value, now.get(key), f"{where}/{key}")
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{where}/{i}")]
    if isinstance(before, float) and isinstance(now, float):
        return [] if before == pytest.approx(now, abs=1e-5) else [f"{where}: {before} -> {now}"]
    return [] if before == now else [f"{where}: {before!r} -> {now!r}"]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_info_is_as_it_was(name: str, call: Lookalike, expected: Any) -> None:
    before = expected["info"][name]
    if name == "run":
        before["report"] = None  # not in the archive
    assert differences(before, call("info", name)) == []


def test_recipe_and_weights_of_a_run(earlier: Path, call: Lookalike, expected: Any) -> None:
    before = expected["info"]["run"]
    recipe = load_recipe(str(earlier / "run" / "recipe.toml"))
    assert recipe.digest == before["recipe_digest"]
    digest = hashlib.sha256((earlier / "run" / "checkpoint.pt").read_bytes()).hexdigest()
    assert digest == before["sha256"] == call("info", "encoder.onnx")["contract"]["source_sha256"]

    stored = torch.load(earlier / "run" / "checkpoint.pt", weights_only=True)["encoder"]
    loaded = load_encoder(earlier / "run").module.state_dict()
    assert len(loaded) > 100
    for name, values in loaded.items():
        torch.testing.assert_close(values, stored[name], rtol=0, atol=0)
    assert call("verify", "encoder.onnx", "run", "photos")["passed"]


def test_a_run_is_resumed(earlier: Path, call: Lookalike, expected: Any) -> None:
    before = losses(earlier / "run")
    stopped_at = expected["info"]["run"]["step"]
    assert len(before) == stopped_at
    command = [sys.executable, "-m", "lookalike", "train", "photos", "--out", "run", "--resume"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        # one core: threads that wait for one another take long where tests share the cores
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
    assert process.returncode == 0
    now = losses(earlier / "run")
    assert now.keys() == expected["losses"].keys()
    assert before.items() <= now.items()
    # the first step shows that weights, order and views are right; from then on the rounding of
    # another CPU grows tenfold and more with each step of so small a batch
    step = str(stopped_at + 1)
    assert now[step] == pytest.approx(expected["losses"][step], rel=1e-3)
    assert call("info", "run")["finished"]


def test_vectors_of_features(earlier: Path, call: Lookalike) -> None:
    assert call("info", "features", "--check")["checked"]
    stored = pq.read_table(earlier / "features" / "shards").to_pydict()
    encoder = open_encoder(earlier / "encoder.onnx")
    (block,) = open_features(earlier / "features").blocks()
    assert list(block.keys) == stored["key"]
    np.testing.assert_array_equal(block.embeddings, np.stack(stored["embedding"]))
    for key, vector in zip(block.keys, block.embeddings, strict=True):
        image = load_image((earlier / "photos" / key).read_bytes(), encoder.preprocess)[0]
        np.testing.assert_allclose(encoder.encode(image[None])[0], vector, atol=1e-5)


def test_features_are_updated(earlier: Path, call: Lookalike) -> None:
    (earlier / "photos" / "discs" / "0.png").rename(earlier / "photos" / "discs" / "new.png")
    shutil.copy(earlier / "photos" / "bars" / "1.png", earlier / "photos" / "bars" / "2.png")
    report = call("extract", "encoder.onnx", "photos", "--out", "features", "--update")
    assert report["changes"] == {"added": 1, "changed": 11, "same": 10, "kept": 0, "deleted": 1}
    assert call("info", "features", "--check")["rows"] == 12


@pytest.mark.parametrize("query", ["image", "key", "filter"])
def test_searches_find_what_they_found(query: str, call: Lookalike, expected: Any) -> None:
    arguments = {
        "image": ["photos/bars/2.png"],
        "key": ["--key", "discs/1.png"],
        "filter": ["photos/bars/2.png", "--filter", '{"label": "discs"}'],
    }[query]
    command = ("collection", "search", "shop", "-k", "5", "--encoder", "encoder.onnx")
    assert differences(expected["search"][query], call(*command, *arguments)) == []


def test_a_collection_takes_more_items(earlier: Path, call: Lookalike) -> None:
    with open_collection(earlier / "shop") as collection:
        before = {item.key: item.vector for item in collection.items(limit=100)}
    (earlier / "more").mkdir()
    shutil.copy(earlier / "photos" / "discs" / "5.png", earlier / "more" / "again.png")
    call("collection", "add", "shop", "more", "--encoder", "encoder.onnx")
    with open_collection(earlier / "shop") as collection:
        now = {item.key: item.vector for item in collection.items(limit=100)}
    assert now.keys() - before.keys() == {"again.png"}
    assert all(np.array_equal(vector, now[key]) for key, vector in before.items())
    best = call("collection", "search", "shop", "--key", "again.png", "-k", "1")
    assert best["queries"][0]["neighbours"][0]["score"] < 1
    assert call("collection", "verify", "shop")["faults"] == 0
