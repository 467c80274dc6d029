"""The demo, on a few drawn pictures instead of Fashion-MNIST."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo


def grey_pictures(path: Path, count: int, seed: int) -> str:
    """An .npz of grey 28-pixel pictures of two kinds: bars that stand and bars that lie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    pictures = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        at = rng.integers(6, 18)
        if label:
            picture[at : at + 5, 4:24] = 220
        else:
            picture[4:24, at : at + 5] = 220
    np.savez(path, data=pictures, labels=labels)
    return str(path)


def test_the_demo_goes_the_whole_way_and_a_second_run_starts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "GALLERY", grey_pictures(tmp_path / "train.npz", 96, 1))
    monkeypatch.setattr(demo, "QUERIES", grey_pictures(tmp_path / "test.npz", 24, 2))
    monkeypatch.setattr(demo, "COLLECTION_SIZE", 64)
    shorter = ("training.samples=192", "training.batch_size=32", "encoder.width=0.125")
    settings = [word for setting in shorter for word in ("--set", setting)]
    monkeypatch.setattr(demo, "TRAINING_OPTIONS", (*demo.TRAINING_OPTIONS, *settings))

    out = tmp_path / "out"
    demo.demo(out=out, serve=False, host="127.0.0.1", port=3000, as_json=True)
    first = capfd.readouterr().out
    report = json.loads(first.splitlines()[-1])
    assert set(report["seconds"]) == {*demo.stages(out), "create", "measure"}
    for name in (demo.TRAINED, demo.UNTRAINED, demo.PIXELS):
        assert all(0 <= figure <= 100 for figure in report["quality"][name].values())
        assert name in first
    assert report["quality"][demo.PIXELS]["knn_plain"] > 60
    with Image.open(out / "neighbours.png") as sheet:
        assert sheet.width > 1000

    demo.demo(out=out, serve=False, host="127.0.0.1", port=3000, as_json=True)
    second = capfd.readouterr().out
    assert "$ lookalike" in first
    assert "$ lookalike" not in second
    assert json.loads(second.splitlines()[-1]) == report
