"""The gradient of a batch that is larger than memory (Gao et al. 2021, section 3.2).

The loss needs the projections z of all views at once, but no more than them. So z is computed chunk
by chunk without a graph, then the loss and dL/dz of the whole batch, then each chunk again with a
graph, into which its share of dL/dz goes. Activations of one chunk are alive at a time; every view
meets all 2N - 2 negatives; the price is a second forward, about a third more time. Adding up the
gradients of small batches, in contrast, would leave each view the negatives of its small batch.

The chunks are batches of their own for batch norms, in both passes, and move the running statistics
once, as as many small batches do. Otherwise the gradient is that of the batch as a whole. Random
layers (drop-out, stochastic depth) draw the same in both passes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def backward(
    forward: Callable[[int], Tensor],
    chunks: int,
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    model: nn.Module,
    *,
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Tensor:
    """Add dL/dw of a batch to the gradients of the weights.

    Args:
        forward: chunk number to z of its views [V,E]; twice the same for the same chunk.
        chunks: how many; 1 is the usual step, with one forward.
        loss: detached z of all chunks [chunks * V, E] to the loss and dL/dz of the same shape.
        model: whose batch norms are in `forward`.
        no_sync: entered for each forward and backward but the last, so that processes add up their
            gradients only once.

    Returns:
        The loss, a detached scalar.
    """
    if chunks == 1:
        z = forward(0)
        value, gradient = loss(z.detach())
        z.backward(gradient.to(z.dtype))  # type: ignore[no-untyped-call]
        return value
    with torch.no_grad(), frozen_running_statistics(model):
        projections = torch.cat([forward(chunk) for chunk in range(chunks)])
    value, gradient = loss(projections)
    for chunk, dz in enumerate(gradient.chunk(chunks)):
        with no_sync() if chunk < chunks - 1 else nullcontext():
            z = forward(chunk)
            z.backward(dz.to(z.dtype))  # type: ignore[no-untyped-call]
    return value


@contextmanager
def frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms in training mode use the statistics of the batch and do not keep them."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
