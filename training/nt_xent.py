"""NT-Xent, the contrastive loss of SimCLR (section 2.1, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Mean over all 2N views of -log softmax of the similarity to the other view of the picture.

        l(i,j) = -log( exp(s_ij / t) / sum_{k != i} exp(s_ik / t) ),   s_ij = cosine(z_i, z_j)

    Always in fp32: a similarity of 0.99 and one of 0.995 are the same number in bf16.

    Args:
        z: projections [2N,E], the first views of all N pictures, then the second views.
        temperature: t > 0.

    Returns:
        The loss, a scalar in fp32; ln(2N - 1) where all similarities are equal.

    Raises:
        ValueError: an odd number of rows.
    """
    views = z.shape[0]
    if views % 2:
        raise ValueError(f"nt_xent takes two views of each picture, got {views} rows")
    with torch.autocast(z.device.type, enabled=False):
        z = functional.normalize(z.float(), dim=1)
        logits = z @ z.T / temperature  # [2N,2N]
        # A view is no candidate for itself. -inf leaves the softmax; cutting the diagonal out with
        # a boolean mask would wait for the accelerator and break a compiled graph.
        logits.fill_diagonal_(-torch.inf)
        positive = torch.arange(views, device=z.device).roll(views // 2)
        return functional.cross_entropy(logits, positive)
