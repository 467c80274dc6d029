from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.models.projection_head import HeadKind, projection_head
from training.models.simclr import normalize
from training.recipes.build_model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kind", "layers"), [("v1", 2), ("v2", 3)])
def test_heads_have_the_layers_of_the_original(kind: HeadKind, layers: int) -> None:
    head = projection_head(kind, 12, out_dim=5)
    linear = [m for m in head if isinstance(m, nn.Linear)]
    norms = [m for m in head if isinstance(m, nn.BatchNorm1d)]
    assert [tuple(m.weight.shape) for m in linear] == [(12, 12)] * (layers - 1) + [(5, 12)]
    assert all(m.bias is None for m in linear)
    assert len(norms) == layers
    assert [m.bias is None for m in norms] == [False] * (layers - 1) + [True]
    assert [type(m) for m in head].count(nn.ReLU) == layers - 1
    assert isinstance(head[-1], nn.BatchNorm1d)
    assert head(torch.rand(4, 12)).shape == (4, 5)


def test_a_head_may_be_wider_than_the_encoder() -> None:
    head = projection_head("v1", 12, 40, 5)
    assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [(40, 12), (5, 40)]


def test_head_weights_are_drawn_with_the_originals_deviation() -> None:
    torch.manual_seed(0)
    weight = next(projection_head("v1", 256).parameters())
    assert weight.std().item() == pytest.approx(0.01, rel=0.05)


def test_an_unknown_head_is_named() -> None:
    with pytest.raises(RecipeError, match="unknown head 'v3'; known: v1, v2"):
        projection_head("v3", 8)  # type: ignore[arg-type]


def test_a_model_depends_on_the_seed_alone(make_recipe: Callable[..., Recipe]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = build_model(make_recipe(), CPU).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two = build_model(make_recipe(), CPU).state_dict()
    other = build_model(make_recipe("training.seed=1"), CPU).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["encoder.conv1.weight"], other["encoder.conv1.weight"])


def test_a_model_normalizes_encodes_and_projects(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe("data.mean=[0.1, 0.2, 0.3]", "data.std=[0.5, 1.0, 2.0]", "head.kind=v2")
    model = build_model(recipe, CPU).eval()
    views = torch.rand(6, 3, 16, 16)
    shifted = torch.stack(
        [(views[:, c] - m) / s for c, m, s in ((0, 0.1, 0.5), (1, 0.2, 1.0), (2, 0.3, 2.0))], 1
    )
    z = model(views)
    assert z.shape == (6, 128)
    torch.testing.assert_close(z, model.head(model.encoder(shifted)))
    assert model.get_parameter("encoder.conv1.weight").is_contiguous(
        memory_format=torch.channels_last
    )


def test_no_normalization_copies_nothing() -> None:
    x = torch.rand(1, 3, 2, 2)
    assert normalize(x, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)) is x
