"""Networks by name: prepared as their library says, at the size it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torchvision import models

from base.errors import ArtifactError
from training.weights.foreign_backbones import EFFICIENTNETS
from training.weights.foreign_encoder import load_foreign_encoder
from training.weights.foreign_weights import read_foreign_weights
from training.weights.library_settings import library_settings, resize_to
from training.weights.weight_layouts import IMAGENET

if TYPE_CHECKING:
    from pathlib import Path

HALF = (0.5, 0.5, 0.5)


def test_a_vision_transformer_of_timm_gets_the_mean_it_was_trained_with(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    foreign = read_foreign_weights(path, encoder="timm:vit_tiny_patch16_224")
    trained = load_foreign_encoder(foreign, file="w.pth")
    assert (trained.mean, trained.std) == (HALF, HALF)
    spec = trained.preprocess
    assert (spec.size, spec.resize_to, spec.resample) == (224, 249, "bicubic")
    other = load_foreign_encoder(
        foreign, file="w.pth", mean=IMAGENET[0], short_side=256, resample="bilinear"
    )
    assert (other.mean, other.std) == (IMAGENET[0], HALF)
    assert (other.preprocess.resize_to, other.preprocess.resample) == (256, "bilinear")


def test_a_plain_resnet_of_timm_is_one_encoder(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("resnet26").eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pth")
    foreign = read_foreign_weights(tmp_path / "w.pth", encoder="timm:resnet26")
    assert foreign.prefix == "state_dict."
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(foreign.build()(x), expected)


def test_positions_of_another_size_name_the_size(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("vit_tiny_patch16_224", img_size=96)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ArtifactError, match=r"give --image-size 96$") as caught:
        read_foreign_weights(tmp_path / "w.pth", encoder="timm:vit_tiny_patch16_224")
    assert "--encoder" not in str(caught.value)
    foreign = read_foreign_weights(
        tmp_path / "w.pth", encoder="timm:vit_tiny_patch16_224", image_size=96
    )
    assert foreign.image_size == 96


def test_torchvision_says_size_crop_and_filter() -> None:
    settings = library_settings("inception_v3")
    assert settings is not None
    assert (settings.image_size, settings.resample) == (299, "bilinear")
    assert resize_to(settings.image_size, settings.crop_share) == 342
    assert resize_to(32) == 32
    swin = library_settings("swin_t")
    assert swin is not None
    published = models.Swin_T_Weights.DEFAULT.transforms()
    assert resize_to(224, swin.crop_share) == published.resize_size[0]
    assert swin.resample == "bicubic"


@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite1", "timm:tf_efficientnet_lite2"])
def test_an_efficientnet_with_other_names_is_known_by_its_shapes(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model(name.removeprefix("timm:")).eval()
    torch.save(lukemelas(model), tmp_path / "w.pth")
    foreign = read_foreign_weights(tmp_path / "w.pth")
    assert (foreign.encoder, foreign.layout) == (name, "EfficientNet-PyTorch")
    size = {"timm:tf_efficientnet_lite1": 240, "timm:tf_efficientnet_lite2": 260}[name]
    assert (foreign.image_size, foreign.mean) == (size, (127 / 255,) * 3)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(foreign.build()(x), expected)


def lukemelas(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """timm's weights under the names of lukemelas/EfficientNet-PyTorch."""
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    inverted |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv"}
    separable |= {"bn2": "_bn2"}
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    state = model.state_dict()
    positions = sorted({tuple(map(int, n.split(".")[1:3])) for n in state if n[:7] == "blocks."})
    renamed = {}
    for name, tensor in state.items():
        levels = name.split(".")
        if levels[0] != "blocks":
            renamed[".".join([{**outer, "classifier": "_fc"}[levels[0]], *levels[1:]])] = tensor
            continue
        stage, position = int(levels[1]), int(levels[2])
        expands = f"blocks.{stage}.{position}.conv_pwl.weight" in state
        layer = (inverted if expands else separable)[levels[3]]
        number = positions.index((stage, position))
        renamed[".".join([f"_blocks.{number}", layer, *levels[4:]])] = tensor
    return renamed


def test_every_efficientnet_is_told_from_all_others() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    assert len(set(EFFICIENTNETS.values())) == len(EFFICIENTNETS)
    assert all(library_settings(name) is not None for name in EFFICIENTNETS.values())
