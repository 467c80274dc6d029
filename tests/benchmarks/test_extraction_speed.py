"""All ways read the same photos and report under the agreed names; no speed is judged."""

from __future__ import annotations

import itertools
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import plainloader
from benchmarks.extraction_speed import Measurement, report
from benchmarks.extraction_ways import Ours, cold
from benchmarks.folders import linked
from benchmarks.timing import in_turns
from benchmarks.workers import Worker
from export.encoder_file.encoder_file import open_encoder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(image_folder: Path, tmp_path: Path) -> Path:
    """25 names of fewer photos."""
    return linked(tmp_path / "linked", sorted(image_folder.glob("*/*.jpg"))[:9], 25)


def test_our_way_extracts_everything_each_time(
    tiny_encoder: Path, folder: Path, tmp_path: Path
) -> None:
    ours = Ours(open_encoder(tiny_encoder, threads=1), folder, 25, tmp_path / "out")
    rates = cold(ours)
    assert rates["cold"] > 0
    assert rates["warm"] > 0
    assert rates["mib_of_files"] >= 0
    assert ours.seconds["decode"] > 0
    assert not ours.out.exists()


def test_a_core_alone_passes_over_its_share(tiny_encoder: Path, folder: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with Worker("benchmarks.onecore", core, tiny_encoder, folder, 5) as worker:
        assert worker.ask(trial=True) == {}
        answer = worker.ask()
    assert answer["images"] == 5
    assert answer["seconds"] > 0


def test_a_process_that_ends_is_reported() -> None:
    with Worker("benchmarks.onecore") as worker, pytest.raises(RuntimeError, match="onecore"):
        worker.ask()


def test_the_usual_way_extracts_everything(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plainloader, "WORKERS", 0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    steps = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    arrays = []
    for setting in ((4, torch.contiguous_format), (32, torch.channels_last)):
        data = ImageFolder(str(folder), steps)
        out = tmp_path / "features.npy"
        assert plainloader.extract(network, data, setting, str(out))[0] == 25
        arrays.append(np.load(out))
    np.testing.assert_allclose(arrays[0], arrays[1], atol=1e-5)
    assert arrays[0].shape == (25, 4)


def test_rounds_without_a_warm_up() -> None:
    calls = itertools.count()

    def way() -> tuple[int, float]:
        return next(calls), 2.0

    assert in_turns({"it": way}, 2) == {"it": [0.5, 1.0]}
    assert in_turns({"it": way}, 2, warm_up=False) == {"it": [1.5, 2.0]}


def test_the_report_takes_the_lower_of_the_networks(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {
        "floor fp32": [50.0, 52.0],
        "lookalike fp32": [45.0, 52.0],
        "floor int8": [100.0, 100.0],
        "lookalike int8": [90.0, 90.0],
        "torchvision": [30.0, 26.0],
        "torchvision tuned": [39.0, 40.0],
        "timm": [15.0],
    }
    slower = {**rates, "lookalike int8": [80.0, 80.0]}
    report({"a": Measurement(rates, {}, {}), "b": Measurement(slower, {}, {})}, {})
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["metrics"] == {
        "of_floor_fp32": 0.95,
        "of_floor_int8": 0.8,
        "vs_torch_fp32": 1.75,
        "vs_torch_int8": 2.872,
        "vs_torch_tuned_fp32": 1.227,
        "vs_torch_tuned_int8": 2.026,
    }
    assert document["details"]["a"]["lookalike_over"]["timm, fp32"] == 3.0
    without = {way: values for way, values in rates.items() if way != "torchvision"}
    report({"a": Measurement(without, {}, {}), "b": Measurement(rates, {}, {})}, {})
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["metrics"]["vs_torch_fp32"] is None
