import pytest
import torch
from torch import nn

from training.models.encoders import build_encoder
from training.optim.lars import Lars
from training.optim.optimizers import (
    OptimizerSettings,
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_norms_and_biases_are_neither_decayed_nor_adapted(network: nn.Sequential) -> None:
    weights, rest = parameter_groups(network, 0.1)
    named = dict(network.named_parameters())
    assert weights["params"] == [named["0.weight"], named["3.weight"]]
    assert weights["weight_decay"] == 0.1
    assert weights["adapt"]
    names = ("0.bias", "1.weight", "1.bias", "3.bias")
    assert rest["params"] == [named[name] for name in names]
    assert rest["weight_decay"] == 0.0
    assert not rest["adapt"]


@pytest.mark.parametrize(
    ("name", "vector"), [("convnext_tiny", "layer_scale"), ("vit_b_16", "class_token")]
)
def test_a_vector_is_one_in_any_shape(name: str, vector: str) -> None:
    with torch.device("meta"):
        network = build_encoder(name, image_size=32)
    weights, rest = parameter_groups(network, 0.1)
    vectors = [p for key, p in network.named_parameters() if vector in key]
    assert vectors
    assert min(p.ndim for p in vectors) > 1
    assert {id(p) for p in vectors} <= {id(p) for p in rest["params"]}
    assert all(sum(side > 1 for side in p.shape) > 1 for p in weights["params"])


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_without_gradient_only_weights_decay(network: nn.Sequential, name: str) -> None:
    optimizer = build_optimizer(
        network,
        OptimizerSettings(name=name, weight_decay=0.5),  # type: ignore[arg-type]
    )
    set_learning_rate(optimizer, 0.1)
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in network.named_parameters():
        shrunk = value.detach().norm() < before[key].norm()
        assert shrunk == (value.ndim > 1), key


def test_the_settings_reach_the_optimizers(network: nn.Sequential) -> None:
    lars = build_optimizer(
        network, OptimizerSettings(name="lars", momentum=0.8, trust_coefficient=0.02)
    )
    assert isinstance(lars, Lars)
    assert [g["momentum"] for g in lars.param_groups] == [0.8, 0.8]
    assert [g["trust_coefficient"] for g in lars.param_groups] == [0.02, 0.02]
    sgd = build_optimizer(network, OptimizerSettings(name="sgd", momentum=0.7, nesterov=True))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(g["momentum"], g["nesterov"]) for g in sgd.param_groups] == [(0.7, True)] * 2
    adamw = build_optimizer(network, OptimizerSettings(name="adamw", betas=(0.8, 0.95)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [g["betas"] for g in adamw.param_groups] == [(0.8, 0.95)] * 2
    set_learning_rate(adamw, 0.25)
    assert [g["lr"] for g in adamw.param_groups] == [0.25, 0.25]
