from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from training.errors import RecipeError
from training.optim import losses
from training.optim.losses import LossSettings, contrastive_loss, loss_and_gradient, nt_xent

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOSSES = [
    LossSettings(temperature=0.05),
    LossSettings(temperature=0.5),
    LossSettings(name="decoupled", temperature=0.2),
    LossSettings(name="nt-logistic", temperature=0.5),
    LossSettings(name="nt-logistic", temperature=0.2, semi_hard=True),
    LossSettings(name="margin", margin=0.8),
    LossSettings(name="margin", margin=0.3, semi_hard=True),
]
NAMES = [
    f"{loss.name}-{'semi-hard-' if loss.semi_hard else ''}{loss.temperature}" for loss in LOSSES
]


def slow_loss(z: NDArray[np.float64], loss: LossSettings) -> float:
    """The formulas, one term after the other; rows 0..N-1 and N..2N-1 are the views."""
    views, t = len(z), loss.temperature

    def similarity(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j])))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    total = 0.0
    for i in range(views):
        p = (i + views // 2) % views
        positive = similarity(i, p)
        negatives = [similarity(i, k) for k in range(views) if k not in {i, p}]
        if loss.semi_hard:
            negatives = sorted(s for s in negatives if s < positive)[-1:]
        if loss.name == "nt-xent":
            below = math.exp(positive / t) + sum(math.exp(s / t) for s in negatives)
            total -= math.log(math.exp(positive / t) / below)
        elif loss.name == "decoupled":
            total -= math.log(math.exp(positive / t) / sum(math.exp(s / t) for s in negatives))
        elif loss.name == "nt-logistic":
            terms = [-math.log(sigmoid(-s / t)) for s in negatives]
            total += -math.log(sigmoid(positive / t)) + sum(terms) / max(1, len(terms))
        else:
            terms = [max(0.0, s - positive + loss.margin) for s in negatives]
            total += sum(terms) / max(1, len(terms))
    return total / views


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("images", [2, 7])
def test_each_loss_is_its_formula(images: int, loss: LossSettings) -> None:
    z = np.random.default_rng(images).normal(size=(2 * images, 5))
    expected = slow_loss(z, loss)
    assert contrastive_loss(torch.tensor(z), loss).item() == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("block", [2**22, 24])
def test_each_gradient_is_the_slope_of_its_formula(
    loss: LossSettings, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "BLOCK", block)  # 24: two anchors at a time
    z = np.random.default_rng(3).normal(size=(12, 4))
    value, gradient = loss_and_gradient(torch.tensor(z), loss)
    assert value.item() == pytest.approx(slow_loss(z, loss), rel=2e-5)
    for row, column in np.ndindex(12, 4):
        step = np.zeros_like(z)
        step[row, column] = 1e-6
        slope = (slow_loss(z + step, loss) - slow_loss(z - step, loss)) / 2e-6
        assert gradient[row, column].item() == pytest.approx(slope, abs=2e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_blocks_and_shares_add_up_to_autograd_of_the_whole(
    loss: LossSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(48, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
    whole = contrastive_loss(z, loss)
    whole.backward()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(losses, "BLOCK", 48 * 5)
    results = [loss_and_gradient(z, loss, share=i, shares=3) for i in range(3)]
    torch.testing.assert_close(sum(own[0] for own in results), whole.detach())
    torch.testing.assert_close(sum(own[1] for own in results), z.grad, rtol=1e-4, atol=1e-7)


def test_no_block_holds_more_similarities_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    views, rows = 64, losses._rows
    heights: list[int] = []

    def noted(unit: torch.Tensor, loss: LossSettings, anchors: slice) -> torch.Tensor:
        heights.append(anchors.stop - anchors.start)
        return rows(unit, loss, anchors)

    monkeypatch.setattr(losses, "_rows", noted)
    monkeypatch.setattr(losses, "BLOCK", 5 * views)
    loss_and_gradient(torch.randn(views, 4), LOSSES[0])
    assert sum(heights) == views
    assert max(heights) == 5


def test_views_that_are_all_alike_cost_the_logarithm_of_the_candidates() -> None:
    assert nt_xent(torch.ones(16, 3), 0.1).item() == pytest.approx(math.log(15), rel=1e-5)
    alike = contrastive_loss(torch.ones(16, 3), LossSettings(name="decoupled"))
    assert alike.item() == pytest.approx(math.log(14), rel=1e-5)


def test_the_order_of_the_views_matters() -> None:
    a, b = torch.eye(4)[:2], torch.eye(4)[:2]
    for loss in (loss for loss in LOSSES if not loss.semi_hard):
        right = contrastive_loss(torch.cat([a, b]), loss)
        assert right < contrastive_loss(torch.cat([a, b.flip(0)]), loss), loss


def test_anchors_without_a_semi_hard_negative_have_no_negative_term() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])  # none is farther
    loss, gradient = loss_and_gradient(z, LossSettings(name="margin", semi_hard=True))
    assert loss.item() == 0
    assert not gradient.any()
    loss, gradient = loss_and_gradient(z, LossSettings(name="nt-logistic", semi_hard=True))
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_the_loss_stays_in_fp32_under_autocast(loss: LossSettings) -> None:
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = contrastive_loss(z, loss)
        value, gradient = loss_and_gradient(z.bfloat16(), loss)
    assert under.dtype is value.dtype is gradient.dtype is torch.float32
    assert under.item() == contrastive_loss(z, loss).item()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_a_zero_row_gives_finite_numbers(loss: LossSettings) -> None:
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    z[3] = 0
    value, gradient = loss_and_gradient(z, loss)
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_a_tiny_temperature_gives_finite_numbers() -> None:
    z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = nt_xent(z, 0.001)
    value.backward()  # type: ignore[no-untyped-call]
    assert value.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_one_image_is_enough_for_nt_xent_alone() -> None:
    assert nt_xent(torch.randn(2, 3), 0.5).item() == 0  # there is only the positive to choose
    with pytest.raises(ValueError, match="decoupled needs two pictures"):
        contrastive_loss(torch.ones(2, 3), LossSettings(name="decoupled"))


def test_rows_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ValueError, match="got 5 rows"):
        nt_xent(torch.ones(5, 2), 0.1)
    with pytest.raises(ValueError, match="6 views cannot be split into 4"):
        loss_and_gradient(torch.ones(6, 2), LossSettings(), shares=4)


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="semi_hard is for"):
        LossSettings(semi_hard=True)
    with pytest.raises(RecipeError, match=r"loss\.margin = -1"):
        LossSettings(name="margin", margin=-1)
