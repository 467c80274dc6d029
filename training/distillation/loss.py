"""The distillation loss: how far a student's embeddings are from their targets.

    mean over all 2N views of 1 - cos(e_v, t_v)

The target is of the whole image, however much of it a view shows: so the student learns to say of
each view what the teacher says of the image.
"""

import torch
from torch import Tensor
from torch.nn import functional


def imitation_loss_and_gradient(
    embeddings: Tensor, targets: Tensor, *, views: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of some views and its gradient dL/de.

    Args:
        embeddings: of a student, [V,E]; no graph is kept or used.
        targets: of the same views, unit rows [V,E].
        views: of the whole batch, 2N: losses and gradients of all shares of it add up.

    Returns:
        The loss, a scalar, and dL/de [V,E], both fp32.
    """
    with torch.autocast(embeddings.device.type, enabled=False), torch.enable_grad():
        e = embeddings.detach().float().requires_grad_()
        cosine = (functional.normalize(e, dim=1) * targets).sum(1)
        loss = (1 - cosine).sum() / views
        (gradient,) = torch.autograd.grad(loss, e)
    return loss.detach(), gradient
