"""Variables named and ordered as google-research/simclr makes them, and the features they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from base.errors import ArtifactError
from tests.training.weights.foreign_layouts import lived
from training.models.encoders import ResNetEncoder, build_encoder
from training.models.selective_kernels import SelectiveBottleneck, SelectiveConv
from training.weights.foreign_weights import read_foreign_weights

if TYPE_CHECKING:
    from pathlib import Path

Layers = list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]


def bottleneck_layers(block: Any) -> Layers:
    """The layers of a bottleneck in the order of resnet.py: shortcut first."""
    layers: Layers = []
    if block.downsample is not None:
        conv, norm = list(block.downsample)[-2:]
        layers.append((conv, norm))
    layers.append((block.conv1, block.bn1))
    if isinstance(block.conv2, SelectiveConv):
        middle = block.conv2
        layers += [(middle.conv, middle.bn), (middle.squeeze, middle.squeeze_bn)]
        layers.append((middle.mix, None))
    else:
        layers.append((block.conv2, block.bn2))
    return [*layers, (block.conv3, block.bn3)]


def variables(encoder: ResNetEncoder) -> dict[str, np.ndarray[Any, Any]]:
    """A checkpoint's variables: numbered by kind, kernels [h, w, in, out], a head and slots."""
    stem: Any = encoder.conv1
    layers: Layers = [(stem, encoder.bn1)]
    if isinstance(stem, nn.Sequential):
        layers = [(stem[0], stem[1]), (stem[3], stem[4]), (stem[6], encoder.bn1)]  # type: ignore[list-item]
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        for block in stage:
            layers += bottleneck_layers(block)
    state_dict: dict[str, Any] = {"global_step": np.array(7)}
    norms = 0
    for number, (conv, norm) in enumerate(layers):
        name = f"base_model/conv2d{f'_{number}' if number else ''}/kernel"
        state_dict[name] = conv.weight.detach().permute(2, 3, 1, 0).numpy()
        state_dict[f"{name}/Momentum"] = np.zeros(1)
        if norm is not None:
            base = f"base_model/batch_normalization{f'_{norms}' if norms else ''}/"
            state_dict |= {
                base + "gamma": norm.weight.detach().numpy(),
                base + "beta": norm.bias.detach().numpy(),
                base + "moving_mean": norm.running_mean.numpy(),  # type: ignore[union-attr]
                base + "moving_variance": norm.running_var.numpy(),  # type: ignore[union-attr]
            }
            norms += 1
    state_dict["head_contrastive/nl_0/dense/kernel"] = np.zeros((4, 4))
    return state_dict


def save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def pooled_as_tensorflow(encoder: ResNetEncoder, x: Tensor) -> Tensor:
    """The forward with max-pooling padded "SAME": below and on the right for an even side."""
    x = encoder.relu(encoder.bn1(encoder.conv1(x)))
    x = functional.max_pool2d(functional.pad(x, (0, 1, 0, 1)), 3, 2)
    for stage in (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        x = stage(x)
    return x.mean((2, 3))


@pytest.mark.parametrize("selective", [False, True])
def test_the_variables_give_the_same_features(selective: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = build_encoder("resnet50", width=0.125, stem="imagenet", selective_kernels=selective)
    assert isinstance(made, ResNetEncoder)
    encoder = lived(made)
    assert isinstance(encoder, ResNetEncoder)
    assert isinstance(encoder.layer1[0], SelectiveBottleneck) == selective
    path = tmp_path / "simclr.npz"
    save(path, variables(encoder))
    state_dict = read_foreign_weights(path)
    assert (state_dict.layout, state_dict.encoder, state_dict.width) == (
        "google-research/simclr",
        "resnet50",
        0.125,
    )
    assert state_dict.selective_kernels == selective
    assert state_dict.mean == (0.0, 0.0, 0.0)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = pooled_as_tensorflow(encoder, images)
        torch.testing.assert_close(state_dict.build()(images), expected, rtol=1e-4, atol=1e-5)


def test_other_tables_of_variables_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "w.npz", {"base_model/conv2d/kernel": np.zeros((7, 7, 3, 64))})
    with pytest.raises(ArtifactError, match="holds 1 convolutions under 'base_model/'"):
        read_foreign_weights(tmp_path / "w.npz")
