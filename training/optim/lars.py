"""LARS: layer-wise adaptive rate scaling (You et al. 2017), as google-research/simclr uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Lars(Optimizer):
    """Per parameter w with gradient g:

        g <- g + weight_decay * w
        r  = trust_coefficient * |w| / |g|     (1 where either norm is 0, or where not adapted)
        v <- momentum * v + lr * r * g
        w <- w - v

    The learning rate sits inside the momentum buffer (lars_optimizer.py, `classic_momentum`), so a
    change of the rate acts on new gradients only. A parameter group with `adapt=False` is plain
    momentum SGD; batch norms and biases belong there, with `weight_decay=0`. Weight decay 0 does
    not switch the adaptation off.

    Nothing waits for the accelerator: norms stay on the device, and one fused call per group does
    each line above.
    """  # noqa: D415

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))  # noqa: SLF001
        if group["adapt"]:
            weight_norm = torch.stack(torch._foreach_norm(params))  # noqa: SLF001
            grad_norm = torch.stack(torch._foreach_norm(grads))  # noqa: SLF001
            ratio = torch.where(
                (weight_norm > 0) & (grad_norm > 0),
                group["trust_coefficient"] * weight_norm / grad_norm,
                1.0,
            )
            scale = list((group["lr"] * ratio).unbind())
            updates = torch._foreach_mul(grads, scale)  # noqa: SLF001
        else:
            updates = torch._foreach_mul(grads, group["lr"])  # noqa: SLF001
        buffers = [self._buffer(p) for p in params]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, updates)
        torch._foreach_sub_(params, buffers)

    def _buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
