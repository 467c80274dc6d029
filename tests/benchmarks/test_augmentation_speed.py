"""Contests make comparable batches and report under the agreed names; no speed is judged."""

import json

import pytest
import torch
from PIL import Image

from benchmarks.augmentation_speed import (
    contest,
    lightly_transform,
    report,
    soft_images,
    torchvision_transform,
)
from training.augment.augment import Augmentation


def test_a_contest_of_a_few_images() -> None:
    rates = contest("cifar10", ours=4, theirs=2, rounds=2)
    assert {"lookalike", "torchvision PIL", "torchvision tensor"} <= set(rates)
    assert all(len(values) == 2 and min(values) > 0 for values in rates.values())


def test_the_report_takes_torchvisions_faster_way(capsys: pytest.CaptureFixture[str]) -> None:
    rates = {"lookalike": [80.0], "torchvision PIL": [5.0], "torchvision tensor": [8.0]}
    report({"32": rates | {"lightly": [20.0]}, "224": rates}, rounds=1)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"vs_torchvision_32": 10.0, "vs_lightly_32": 4.0, "vs_torchvision_224": 10.0}
    assert document["metrics"] == expected
    report({"32": rates, "224": rates}, rounds=1)
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["metrics"]["vs_lightly_32"] is None
    assert document["details"]["lightly"] == "not installed"


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(blur=0)])
def test_torchvisions_transform_makes_views_like_ours(augmentation: Augmentation) -> None:
    torch.manual_seed(0)
    transform = torchvision_transform(augmentation, 16)
    image = soft_images(1, 24)[0]
    for stored in (image.permute(2, 0, 1), Image.fromarray(image.numpy())):
        view = transform(stored)
        assert view.shape == (3, 16, 16)
        assert view.dtype == torch.float32
        assert 0 <= view.min() < view.max() <= 1


def test_lightlys_transform_makes_views_like_ours() -> None:
    pytest.importorskip("lightly")
    views = lightly_transform(Augmentation(), 16)(Image.fromarray(soft_images(1, 24)[0].numpy()))
    assert [view.shape for view in views] == [(3, 16, 16)] * 2
    assert all(0 <= view.min() < view.max() <= 1 for view in views)
