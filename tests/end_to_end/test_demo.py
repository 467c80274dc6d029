"""The demo, on a few drawn images instead of Fashion-MNIST."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import demo
from training.run_folder.description import describe


def gray_images(path: Path, count: int, seed: int) -> str:
    """An .npz of gray 28-pixel images of two kinds: bars that stand and bars that lie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    images = rng.integers(0, 40, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(6, 18)
        if label:
            image[at : at + 5, 4:24] = 220
        else:
            image[4:24, at : at + 5] = 220
    np.savez(path, data=images, labels=labels)
    return str(path)


def test_the_demo_goes_the_whole_way_and_a_second_run_starts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "GALLERY", gray_images(tmp_path / "train.npz", 96, 1))
    monkeypatch.setattr(demo, "QUERIES", gray_images(tmp_path / "test.npz", 24, 2))
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


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_stage_keeps_its_work(tmp_path: Path, stop: signal.Signals) -> None:
    """Ctrl-C reaches every process of the terminal, SIGTERM only the demo itself."""
    images = gray_images(tmp_path / "train.npz", 96, 1)
    settings = ("training.samples=10_000_000", "training.batch_size=32", "encoder.width=0.125")
    arguments = ["train", images, "--recipe", "grey-cpu", "--out", str(tmp_path / "run")]
    arguments += [word for setting in settings for word in ("--set", setting)]
    script = f"import demo; demo.run_command({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and '"loss"' in metrics.read_text()):
        assert process.poll() is None, "the demo ended by itself"
        time.sleep(0.1)
    if stop == signal.SIGINT:
        os.killpg(process.pid, stop)
    else:
        process.send_signal(stop)
    assert process.wait(120) != 0
    assert describe(tmp_path / "run")["step"] > 0
