"""How features lie in their space: figures that need no label.

With unit rows f(x), as the cosine sees them:

    alignment    mean ||f(x) - f(x')||^2 over positive pairs; 0: the two views of an image coincide
    uniformity   log mean exp(-2 ||f(x) - f(y)||^2) over pairs of images; the lower, the better
                 the sphere is used; 0: all images coincide

(Wang & Isola 2020, section 4.1: alpha = 2, t = 2), and with h as it is:

    RankMe       exp of the entropy of the singular values' shares: how many directions are used
                 (Garrido et al. 2023, equation 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from training.protocols.knn import as_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

EPSILON = 1e-7  # RankMe's, added to each share


def alignment(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> float:
    """Mean squared distance of positive pairs, in [0,4].

    Args:
        first: features of one view of each image [N,D].
        second: features of the other view, in the same order.
    """
    return float((as_rows(first) - as_rows(second)).square().sum(1).mean())


def uniformity(features: ArrayLike | Tensor) -> float:
    """Logarithm of the mean Gaussian potential over distinct pairs of rows [N,D], at most 0.

    Quadratic in N: meant for some hundred images.
    """
    squared = torch.pdist(as_rows(features)).square()
    return float(squared.mul(-2).double().exp().mean().log())


def effective_rank(features: ArrayLike | Tensor) -> float:
    """RankMe of h [N,D]: from 1 (one direction) to min(N, D) (all alike)."""
    h = torch.as_tensor(features).detach().double().cpu()
    # The smaller Gram matrix has the squares of the same singular values.
    gram = h.T @ h if h.shape[1] < h.shape[0] else h @ h.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-300) + EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def feature_std(features: ArrayLike | Tensor) -> float:
    """Root mean square distance of unit rows [N,D] from their mean, in [0,1]; 0 is collapse.

    It is sqrt(D) times the deviation of a dimension that Chen & He 2021 (section 4.1) watch.
    """
    rows = as_rows(features).double()
    return float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
