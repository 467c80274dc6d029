import pytest
import torch
from torch import nn

from training.errors import RecipeError
from training.models.projection_head import HeadKind, projection_head


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
