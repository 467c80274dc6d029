import copy

import numpy as np
import torch
from torch import nn

from training.optim.lars import Lars

MOMENTUM, ETA = 0.9, 0.001


def reference(
    w: np.ndarray, grads: list[np.ndarray], rates: list[float], decay: float, *, adapt: bool
) -> np.ndarray:
    """The update of lars_optimizer.py (classic momentum), written out for one parameter."""
    v = np.zeros_like(w)
    for gradient, lr in zip(grads, rates, strict=True):
        g = gradient + decay * w
        ratio = 1.0
        if adapt:
            w_norm, g_norm = float(np.linalg.norm(w)), float(np.linalg.norm(g))
            if w_norm > 0 and g_norm > 0:
                ratio = ETA * w_norm / g_norm
        v = MOMENTUM * v + lr * ratio * g
        w = w - v
    return w


def test_five_steps_are_those_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    start = {
        "conv": rng.normal(size=(4, 3, 3, 3)),
        "linear": rng.normal(size=(5, 4)),
        "zero": np.zeros((2, 2)),
        "bias": rng.normal(size=5),
    }
    grads = {name: [rng.normal(size=w.shape) for _ in range(5)] for name, w in start.items()}
    grads["linear"][2] = np.zeros_like(start["linear"])
    rates = [0.0, 0.5, 1.0, 0.7, 0.1]
    tensors = {name: nn.Parameter(torch.tensor(w)) for name, w in start.items()}
    adapted = [tensors[name] for name in ("conv", "linear", "zero")]
    optimizer = Lars(
        [
            {"params": adapted, "weight_decay": 0.01},
            {"params": [tensors["bias"]], "adapt": False},
        ],
        lr=0.0,
        momentum=MOMENTUM,
        trust_coefficient=ETA,
    )
    for step, lr in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name][step])
        optimizer.step()
    for name, tensor in tensors.items():
        plain = name == "bias"
        expected = reference(
            start[name], grads[name], rates, 0.0 if plain else 0.01, adapt=not plain
        )
        np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-12)


def test_no_weight_decay_still_adapts() -> None:
    w = nn.Parameter(torch.full((4,), 2.0))
    optimizer = Lars([w], lr=1.0, weight_decay=0.0)
    w.grad = torch.full((4,), 100.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((4,), 2.0 - ETA * 2.0))


def test_a_parameter_without_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lars([used, unused], lr=1.0)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(2))
    assert not torch.equal(used.detach(), torch.ones(2))


def test_a_group_without_gradients_is_passed_over() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lars([{"params": [unused]}, {"params": [used]}], lr=1.0, weight_decay=0.5)
    used.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(unused.detach(), torch.ones(2))
    assert not torch.equal(used.detach(), torch.ones(2))
    assert unused not in optimizer.state


def test_weights_that_are_not_adapted_decay_all_the_same() -> None:
    w = nn.Parameter(torch.full((3,), 2.0))
    optimizer = Lars([w], lr=0.1, weight_decay=0.5, adapt=False)
    w.grad = torch.full((3,), 4.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((3,), 2.0 - 0.1 * (4.0 + 0.5 * 2.0)))


def test_the_state_survives_saving() -> None:
    def after(steps: int, optimizer: Lars, w: nn.Parameter) -> None:
        for _ in range(steps):
            w.grad = w.detach() * 0.5
            optimizer.step()

    straight = nn.Parameter(torch.ones(3))
    after(4, Lars([straight], lr=0.3), straight)
    stopped = nn.Parameter(torch.ones(3))
    first = Lars([stopped], lr=0.3)
    after(2, first, stopped)
    second = Lars([stopped], lr=0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    after(2, second, stopped)
    assert torch.equal(straight, stopped)


def test_a_closure_is_called_with_gradients() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = Lars([w], lr=1.0)

    def closure() -> float:
        loss = (w**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert w.grad is not None
