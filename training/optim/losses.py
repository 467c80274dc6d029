"""The contrastive losses that the paper compares (section 5.1, tables 2 and 4), and one later one.

For anchor i with positive p (the other view of its image) and negatives k (all views of other
images), s_ij the cosine similarity of z_i and z_j, t the temperature and m the margin:

    nt-xent      -log( exp(s_ip/t) / (exp(s_ip/t) + sum_k exp(s_ik/t)) )         (equation 1)
    decoupled    -log( exp(s_ip/t) / sum_k exp(s_ik/t) )
    nt-logistic  -log sigmoid(s_ip/t) - mean_k log sigmoid(-s_ik/t)
    margin       mean_k max(0, s_ik - s_ip + m)

The loss of a batch is the mean over all 2N anchors. `semi_hard` leaves the last two only the
hardest negative that is still farther than the positive, max of s_ik below s_ip (section 5.1 after
Schroff et al. 2015); an anchor without one has no negative term. The decoupled loss is that of Yeh
et al. 2021 (equation 6): without the positive in the denominator a hard positive's gradient does
not fade as negatives get easy, which helps small batches most.

Linear accuracy on ImageNet, ResNet-50: nt-xent 63.9, nt-logistic 51.6 (semi-hard 57.9), margin
50.9 (57.5) in table 4; nt-xent 61.8, decoupled 66.9 at batch 256 in 200 epochs in Yeh et al.

All of it is fp32: a similarity of 0.99 and one of 0.995 are the same number in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional

from training.errors import require

if TYPE_CHECKING:
    from collections.abc import Iterator

# Similarities worked on at a time. The loss of 4096 images has 67 million: with their gradient
# and softmax 800 MB, more than the network needs for as many views in chunks.
BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The table [loss] of a recipe; a field of another loss is not looked at."""

    name: Literal["nt-xent", "nt-logistic", "margin", "decoupled"] = "nt-xent"
    temperature: float = 0.1  # all but margin
    margin: float = 0.8  # margin; of cosine similarities, which lie in [-1, 1]
    semi_hard: bool = False  # nt-logistic, margin: only the hardest of the easier negatives

    def __post_init__(self) -> None:
        require(self.temperature > 0, f"loss.temperature = {self.temperature}: must be above 0")
        require(self.margin >= 0, f"loss.margin = {self.margin}: must not be negative")
        require(
            not self.semi_hard or self.name in {"nt-logistic", "margin"},
            f'loss.semi_hard is for "nt-logistic" and "margin": {self.name} weighs its negatives',
        )


def contrastive_loss(z: Tensor, loss: LossSettings) -> Tensor:
    """Return the loss of a batch as one differentiable scalar in fp32.

    Args:
        z: projections [2N,E], the first views of all N images, then the second views.
        loss: which loss, with its temperature or margin.

    Raises:
        ValueError: an odd number of rows, or for another loss than NT-Xent only one image.
    """
    _check(z, loss)
    with torch.autocast(z.device.type, enabled=False):
        unit = functional.normalize(z.float(), dim=1)
        return _rows(unit, loss, slice(0, len(z))) / len(z)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Return the paper's loss (equation 1) of z [2N,E]; ln(2N - 1) at equal similarities."""
    return contrastive_loss(z, LossSettings(temperature=temperature))


def loss_and_gradient(
    z: Tensor, loss: LossSettings, *, share: int = 0, shares: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch and its gradient dL/dz, in memory that is linear in N.

    With several `shares` only the anchors of one share are summed, the anchors cut equally: the
    losses and the gradients of all shares add up to those of the batch.

    Args:
        z: projections [2N,E] as in `contrastive_loss`; no graph is kept or used.
        loss: which loss.
        share: 0 to shares - 1.
        shares: a divisor of 2N.

    Returns:
        The loss, a scalar, and dL/dz [2N,E], both fp32 and on the device of z.

    Raises:
        ValueError: as `contrastive_loss`, or shares that are not equal.
    """
    _check(z, loss)
    if len(z) % shares:
        raise ValueError(f"{len(z)} views cannot be split into {shares} equal shares")
    with torch.autocast(z.device.type, enabled=False), torch.enable_grad():
        z = z.detach().float().requires_grad_()
        unit = functional.normalize(z, dim=1)
        candidates = unit.detach().requires_grad_()  # gathers the gradient of all blocks
        total = torch.zeros((), device=z.device)
        for anchors in _blocks(len(z), share, shares):
            block_loss = _rows(candidates, loss, anchors) / len(z)
            block_loss.backward()  # type: ignore[no-untyped-call]
            total += block_loss.detach()
        (gradient,) = torch.autograd.grad(unit, z, candidates.grad)
    return total, gradient


def _check(z: Tensor, loss: LossSettings) -> None:
    if len(z) % 2:
        raise ValueError(f"a loss takes two views of each picture, got {len(z)} rows")
    if len(z) < 4 and loss.name != "nt-xent":
        raise ValueError(f"{loss.name} needs two pictures or more: one has no negatives")


def _blocks(views: int, share: int, shares: int) -> Iterator[slice]:
    """Yield the anchors of one share in stretches of at most BLOCK similarities."""
    start, stop = views // shares * share, views // shares * (share + 1)
    step = max(1, BLOCK // views)
    for first in range(start, stop, step):
        yield slice(first, min(first + step, stop))


def _rows(unit: Tensor, loss: LossSettings, anchors: slice) -> Tensor:
    """Sum of the losses of some anchors, from z of length one [2N,E]."""
    views = len(unit)
    own = torch.arange(anchors.start, anchors.stop, device=unit.device)
    positive = (own + views // 2) % views
    s = unit[anchors] @ unit.T  # [R,2N]
    if loss.name == "nt-xent":
        return _nt_xent(s / loss.temperature, own, positive).sum()
    pair = torch.stack([own, positive], 1)  # [R,2]: not among the negatives
    to_positive = s.gather(1, positive[:, None])  # [R,1]
    if loss.name == "decoupled":
        negatives = (s / loss.temperature).scatter(1, pair, -torch.inf)
        return (negatives.logsumexp(1) - to_positive[:, 0] / loss.temperature).sum()
    if loss.semi_hard:
        s = _hardest_below(s.scatter(1, pair, -torch.inf), to_positive)  # [R,1]
    if loss.name == "margin":
        terms = functional.relu(s - to_positive + loss.margin)
        return _mean(terms, pair, loss).sum()
    terms = functional.softplus(s / loss.temperature)
    attraction = functional.softplus(-to_positive[:, 0] / loss.temperature)
    return (attraction + _mean(terms, pair, loss)).sum()


def _nt_xent(logits: Tensor, own: Tensor, positive: Tensor) -> Tensor:
    """[R] of logits [R,2N].

    A view is not a candidate for itself: -inf leaves the softmax. Cutting it out with a boolean
    mask would wait for the accelerator and break a compiled graph.
    """
    logits = logits.scatter(1, own[:, None], -torch.inf)
    return functional.cross_entropy(logits, positive, reduction="none")


def _hardest_below(s: Tensor, to_positive: Tensor) -> Tensor:
    """Return the largest similarity below the positive's, [R,1]; -inf (no term) without one."""
    return torch.where(s < to_positive, s, -torch.inf).amax(1, keepdim=True)


def _mean(terms: Tensor, pair: Tensor, loss: LossSettings) -> Tensor:
    """Over the negatives of each anchor, [R]; semi-hard has one."""
    if loss.semi_hard:
        return terms[:, 0]
    return terms.scatter(1, pair, 0.0).sum(1) / (terms.shape[1] - 2)
