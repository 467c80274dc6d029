from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from training.recipes.build_model import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.recipes.recipe import Recipe

CPU = torch.device("cpu")


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
