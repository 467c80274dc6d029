from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from training.data.cache import decode_source
from training.optim.gradient_cache import backward, frozen_running_statistics
from training.optim.losses import LossSettings, contrastive_loss, loss_and_gradient
from training.train import train
from training.trainer import Trainer, seeded_rng

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe

LOSS = LossSettings(temperature=0.2)


def network(*, normalized: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    norm: nn.Module = nn.BatchNorm2d(6) if normalized else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5)
    ).double()


def views(count: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(count, 3, 8, 8, generator=generator, dtype=torch.float64)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def chunked(model: nn.Module, x: Tensor, chunks: int) -> Tensor:
    """Chunk c holds the views 4c..4c+3 as the loss sees them."""
    pieces = x.chunk(chunks)
    return backward(
        lambda chunk: model(pieces[chunk]), chunks, lambda z: loss_and_gradient(z, LOSS), model
    )


@pytest.mark.parametrize("chunks", [1, 2, 6])
def test_the_gradient_is_that_of_the_full_graph_with_the_same_chunks(chunks: int) -> None:
    x, model, other = views(), network(), network()
    whole = contrastive_loss(torch.cat([other(piece) for piece in x.chunk(chunks)]), LOSS)
    whole.backward()  # type: ignore[no-untyped-call]
    loss = chunked(model, x, chunks)
    torch.testing.assert_close(loss, whole.detach())
    assert len(gradients(model)) == 6
    for ours, theirs in zip(gradients(model), gradients(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    for ours, theirs in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # running statistics moved once per chunk


@pytest.mark.parametrize("frozen", [True, False])
def test_without_batch_statistics_it_is_one_big_step(frozen: bool) -> None:
    x, model, other = views(), network(normalized=frozen), network(normalized=frozen)
    if frozen:
        model.eval()
        other.eval()
    contrastive_loss(other(x), LOSS).backward()  # type: ignore[no-untyped-call]
    chunked(model, x, 6)
    for ours, theirs in zip(gradients(model), gradients(other), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def test_each_view_meets_the_negatives_of_the_whole_batch() -> None:
    """Adding up the gradients of small batches is something else."""
    x, model, other = views(), network(), network()
    chunked(model, x, 6)
    for piece in x.chunk(6):
        (contrastive_loss(other(piece), LOSS) / 6).backward()  # type: ignore[no-untyped-call]
    ours, theirs = torch.cat([g.flatten() for g in gradients(model)]), gradients(other)
    difference = ours - torch.cat([g.flatten() for g in theirs])
    assert difference.norm() > 0.3 * ours.norm()


def test_running_statistics_rest_even_if_something_fails() -> None:
    model = network()
    before = [b.clone() for b in model.buffers()]
    with pytest.raises(RuntimeError), frozen_running_statistics(model):
        model(model(views()))  # the second one fails
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    model(views())
    assert not torch.equal(before[0], next(model.buffers()))


def test_random_layers_draw_the_same_again_and_leave_the_global_state() -> None:
    x, layer = torch.ones(1000), nn.Dropout()
    state = torch.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        with seeded_rng(seed, x):
            results.append(layer(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trainer_in_chunks_sees_the_views_of_the_whole_batch(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe]
) -> None:
    """With the batch norms frozen the chunks must not matter."""
    results = []
    for setting in ("training.seed=0", "training.micro_batch=4", "training.micro_batch=2"):
        trainer = frozen_step(make_recipe(setting, "training.samples=16"), make_source())
        results.append((trainer.take_loss(), gradients(trainer.model)))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for ours, theirs in zip(gradient, results[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def frozen_step(recipe: Recipe, source: Any) -> Trainer:
    trainer = Trainer(recipe, decode_source(source, recipe.data.stored), torch.device("cpu"))
    trainer.model.eval()
    trainer.advance()
    return trainer


def test_a_run_in_chunks_trains(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = make_recipe("training.micro_batch=4", "training.samples=32", "loss.name=decoupled")
    result = train(make_source(), recipe, tmp_path)
    assert result.finished
    assert 0 < result.quality["loss"] < 10
