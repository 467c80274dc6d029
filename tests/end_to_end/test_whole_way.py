"""200 images from the folder to the neighbors, through commands in processes of their own."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.conftest import draw_image

CLASSES = ("discs", "ramps", "squares", "stripes")


def lookalike(folder: Path, *arguments: str, code: int = 0) -> Any:
    """Run a command with --json and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *arguments, "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def draw_folder(folder: Path, each: int) -> None:
    rng = np.random.default_rng(3)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            draw_image(kind, 40, 48, rng).save(folder / kind / f"{number:03}.jpg", quality=90)


def test_the_whole_way_on_200_images(tmp_path: Path) -> None:
    draw_folder(tmp_path / "photos", 50)
    (tmp_path / "photos" / "discs" / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    settings = ("training.samples=256", "training.batch_size=64", "data.image_size=32")
    sets = [word for setting in settings for word in ("--set", setting)]

    lookalike(tmp_path, "train", "photos", "--recipe", "small-cpu", "--out", "run", *sets, code=1)
    lookalike(tmp_path, "export", "run", "--out", "encoder.onnx")
    lookalike(tmp_path, "verify", "encoder.onnx", "run", "photos", code=1)
    extracted = lookalike(tmp_path, "extract", "encoder.onnx", "photos", "--out", "f", code=1)
    assert (extracted["rows"], extracted["refused"]) == (200, 1)
    lookalike(tmp_path, "collection", "create", "shop", "--encoder", "encoder.onnx")
    added = lookalike(tmp_path, "collection", "add", "shop", "f")
    assert added["items"] == 200

    query = tmp_path / "query.jpg"
    shutil.copy(tmp_path / "photos" / "squares" / "007.jpg", query)
    answer = lookalike(tmp_path, "search", "shop", "query.jpg", "-k", "5")
    best, *others = answer["queries"][0]["neighbours"]
    assert best["key"] == "squares/007.jpg"
    assert best["score"] > 0.9999
    assert len(others) == 4

    for artifact in ("run", "encoder.onnx", "f", "shop"):
        assert lookalike(tmp_path, "info", artifact)


def test_another_encoders_features_are_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    draw_folder(tmp_path / "photos", 3)
    shutil.copy(tiny_encoder, tmp_path / "ours.onnx")
    note = b"made by the tests"
    another = tiny_encoder.read_bytes().replace(note, b"made by somebody!")
    assert another != tiny_encoder.read_bytes()
    (tmp_path / "another.onnx").write_bytes(another)
    lookalike(tmp_path, "collection", "create", "shop", "--encoder", "ours.onnx")
    lookalike(tmp_path, "extract", "another.onnx", "photos", "--out", "f")
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", "collection", "add", "shop", "f"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "encoder" in done.stderr
