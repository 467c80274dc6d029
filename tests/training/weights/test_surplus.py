"""Tensors inside an encoder that it has no module for: another encoder, never one of ours."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision import models

from base.errors import ArtifactError
from tests.training.weights.foreign_layouts import resnet
from training.recipes.recipe_files import load_recipe
from training.weights.foreign_weights import read_foreign_weights
from training.weights.start_weights import read_start_weights

RESNET = ("encoder.width=0.125", "encoder.stem=imagenet", "data.image_size=64")
RESNET_SURPLUS = {
    "squeeze and excitation": "layer1.0.se.fc1.weight",
    "ECA": "layer2.0.attn.conv.weight",
    "CBAM in a block": "layer3.1.cbam.ChannelGate.mlp.1.weight",
    "CBAM after the stem": "ca.fc1.weight",
    "CLIP's stem": "conv2.weight",
    "attention pooling": "attnpool.k_proj.weight",
    "a learned pooling": "pool.p",
    "a norm of features": "norm.weight",
    "a block more in a stage": "layer5.0.conv1.weight",
}
TRANSFORMER_SURPLUS = (
    "features.1.0.ls1.gamma",  # LayerScale
    "register_tokens",
    "features.1.0.attn.q_norm.weight",
    "dist_token",
    "fc_norm.weight",
)
HEADS = (
    "fc.0.weight",
    "projection_head.layers.0.weight",
    "prototypes.weight",
    "queue_ptr",
    "AuxLogits.fc.weight",
    "head_dist.weight",
    "layer1.0.bn1.total_ops",
    "momentum_backbone.conv1.weight",
)


def saved(path: Path, state: dict[str, torch.Tensor], *names: str) -> Path:
    torch.save(state | {name: torch.ones(4, 4) for name in names}, path)
    return path


@pytest.mark.parametrize("name", RESNET_SURPLUS.values(), ids=RESNET_SURPLUS)
def test_a_resnet_with_more_in_it_is_refused_by_both_readers(name: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", resnet().state_dict(), name)
    for read in (lambda: read_foreign_weights(file), lambda: start(file, *RESNET)):
        with pytest.raises(ArtifactError, match=rf"no module for {name}: it is another") as caught:
            read()
        assert str(file) in str(caught.value)
        assert "--onnx" in str(caught.value)


def test_a_network_of_torchvision_with_more_in_it_is_refused(tmp_path: Path) -> None:
    state = models.get_model("swin_t", weights=None).state_dict()
    file = saved(tmp_path / "w.pth", state, *TRANSFORMER_SURPLUS)
    with pytest.raises(ArtifactError, match="swin_t, which has no module for") as caught:
        read_foreign_weights(file, encoder="swin_t")
    with pytest.raises(ArtifactError, match="swin_t of width 1, which has no module for"):
        start(file, "encoder.name=swin_t", "encoder.width=1", "encoder.stem=auto")
    for name in TRANSFORMER_SURPLUS:
        assert name in str(caught.value)


def test_heads_queues_and_counters_stay_behind(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", resnet().state_dict(), *HEADS)
    assert read_foreign_weights(file).encoder == "resnet18"
    assert "queue_ptr (1 tensor)" in start(file, *RESNET).left_out


def test_a_network_of_timm_is_not_taken_for_its_plain_relative(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    for name in ("seresnet18", "legacy_seresnet18"):
        state = timm.create_model(name).state_dict()
        torch.save(state, tmp_path / "se.pth")
        with pytest.raises(ArtifactError, match=r"se"):
            read_foreign_weights(tmp_path / "se.pth")


def start(file: Path, *settings: str) -> Any:
    return read_start_weights(load_recipe("small-cpu", [f'encoder.weights="{file}"', *settings]))
