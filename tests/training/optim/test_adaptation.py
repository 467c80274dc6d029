import copy

import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.models.encoders import build_encoder
from training.models.features import encode
from training.models.projection_head import projection_head
from training.models.simclr import SimCLR
from training.optim.adaptation import (
    AdaptationSettings,
    average_into,
    layers_of,
    rate_groups,
    set_adaptation,
)
from training.optim.optimizers import parameter_groups


@pytest.fixture
def model() -> SimCLR:
    torch.manual_seed(0)
    encoder = build_encoder("resnet18", width=0.125, stem="small-stride2", image_size=16)
    head = projection_head("v1", encoder.feature_dim, 8, 4)
    return SimCLR(encoder, head, mean=(0, 0, 0), std=(1, 1, 1)).train()


def test_kept_statistics_stay_whatever_goes_through(model: SimCLR) -> None:
    set_adaptation(model.encoder, AdaptationSettings(keep_statistics=True))
    before = copy.deepcopy(model.encoder.state_dict())
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert model.encoder.conv1.weight.grad is not None  # type: ignore[union-attr]


def test_measuring_leaves_frozen_batch_norms_frozen(model: SimCLR) -> None:
    set_adaptation(model.encoder, AdaptationSettings(keep_statistics=True))
    modes = [module.training for module in model.encoder.modules()]
    encode(model.encoder, torch.zeros(2, 16, 16, 3, dtype=torch.uint8).numpy())
    assert [module.training for module in model.encoder.modules()] == modes
    assert model.encoder.training


def test_frozen_layers_are_the_first_ones(model: SimCLR) -> None:
    set_adaptation(model.encoder, AdaptationSettings(frozen=0.5))
    layers = layers_of(model.encoder)
    frozen = [not next(layer.parameters(recurse=False)).requires_grad for layer in layers]
    assert frozen == [True] * (len(layers) // 2) + [False] * (len(layers) - len(layers) // 2)


def test_rates_rise_from_the_first_layer_to_the_head(model: SimCLR) -> None:
    settings = AdaptationSettings(first_rate=0.01, head_rate=10)
    groups = rate_groups(model, parameter_groups(model, 0.1), settings)
    rates = {p: group["rate"] for group in groups for p in group["params"]}
    layers = layers_of(model.encoder)
    of_layers = [rates[next(layer.parameters(recurse=False))] for layer in layers]
    assert of_layers[0] == pytest.approx(0.01)
    assert of_layers[-1] == 1
    assert of_layers == sorted(of_layers)
    assert {rates[p] for p in model.head.parameters()} == {10}
    assert len(rates) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_an_average_follows_the_weights(model: SimCLR) -> None:
    averaged, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average_into(averaged, model, 0.75, step=10**6)
    weight = "encoder.conv1.weight"
    torch.testing.assert_close(averaged.state_dict()[weight], start[weight] + 0.25)


@pytest.mark.parametrize(
    "wrong", [{"frozen": 1.5}, {"first_rate": 0.0}, {"head_rate": 0.0}, {"average": 1.0}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        AdaptationSettings(**wrong)  # type: ignore[arg-type]


def test_the_defaults_train_everything(model: SimCLR) -> None:
    groups = parameter_groups(model, 0.1)
    assert rate_groups(model, groups, AdaptationSettings()) is groups
    set_adaptation(model.encoder, AdaptationSettings())
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
