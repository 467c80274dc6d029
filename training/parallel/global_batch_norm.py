"""Batch norm over the views of all processes (the paper's section 2.2: global BN).

With statistics of its own each process could tell positives from negatives by them. CUDA has
torch's SyncBatchNorm; it refuses tensors on the CPU, which are served here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from base.errors import UsageError

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


def globalize(model: nn.Module) -> None:
    """Replace every batch norm inside a model by one over all processes; names stay.

    Raises:
        UsageError: the model has a batch norm of a kind that cannot be replaced.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    for name, module in list(model.named_modules()):
        if not isinstance(module, _BatchNorm):
            continue
        if type(module) not in {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d}:
            raise UsageError(
                f"the network's {name} is a {type(module).__name__}, whose statistics cannot be "
                "shared between processes: train it with one process"
            )
        if on_cpu:
            module.__class__ = GlobalBatchNorm
    if not on_cpu:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]


class GlobalBatchNorm(_BatchNorm):
    """nn.BatchNorm over the batches of all processes, which must be of one size."""

    def forward(self, x: Tensor) -> Tensor:
        """Float [N,C,...] of this process, normalized with the statistics of all."""
        if not self.training:
            return super().forward(x)
        y, mean, variance = _Normalize.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None:
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            count = x.numel() // x.shape[1] * dist.get_world_size()
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return y  # type: ignore[no-any-return]

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - the base class's name
        if input.ndim < 2:
            raise ValueError(f"a batch norm needs [N,C,...], got {tuple(input.shape)}")


class _Normalize(Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, and the statistics.

    With x^ = (x - mean) / sqrt(variance + eps) and means over the views of all processes:

        dL/dx = weight / sqrt(variance + eps) * (dy - mean(dy) - x^ mean(dy x^))

    dL/dweight and dL/dbias are this process's shares; parameters' gradients are added up later.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack(torch.var_mean(x.float(), _not_channels(x), correction=0))  # [2,C]
        gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, own)
        variances, means = torch.stack(gathered).unbind(1)  # [W,C]
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(
        ctx: FunctionCtx, dy: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        normal = (x.float() - mean.view(shape)) * scale.view(shape)
        dy = dy.float()
        own = torch.stack([dy.sum(_not_channels(x)), (dy * normal).sum(_not_channels(x))])  # [2,C]
        everywhere = own.clone()
        dist.all_reduce(everywhere)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        shift, slope = (everywhere / count).view(2, *shape).unbind(0)
        dx = (dy - shift - normal * slope) * (scale if weight is None else scale * weight).view(
            shape
        )
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]  # type: ignore[attr-defined]
        return (
            dx.to(x.dtype),
            own[1] if needs_weight else None,
            own[0] if needs_bias else None,
            None,
        )


def _not_channels(x: Tensor) -> list[int]:
    return [dimension for dimension in range(x.ndim) if dimension != 1]
