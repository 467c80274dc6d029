"""One run in memory: network, optimiser and the step that moves them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from training.augment import two_views
from training.batches import Batches, Order, augmentation_seed
from training.compute import choose_precision
from training.errors import TrainingDivergedError
from training.model import build_model
from training.nt_xent import nt_xent
from training.optimizers import build_optimizer, set_learning_rate

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint
    from training.pictures import Pictures
    from training.recipe import Recipe


class Trainer:
    """Algorithm 1 of the paper, a step at a time.

    No step waits for the accelerator: the loss is added up on the device until `take_loss`.
    """

    def __init__(self, recipe: Recipe, pictures: Pictures, device: torch.device) -> None:
        self._recipe = recipe
        self.model = build_model(recipe, device).train()
        self.optimizer = build_optimizer(self.model, recipe.optimizer)
        self.learning_rates = recipe.learning_rates(len(pictures))
        self.step = 0  # finished steps
        self._order = Order(len(pictures), recipe.training.batch_size, recipe.training.seed)
        self._batches = Batches(pictures.images, device)
        self._generator = torch.Generator(device)
        self._dtype = choose_precision(recipe.training.precision, device)
        self._loss_sum = torch.zeros((), device=device)
        self._loss_steps = 0

    @property
    def steps(self) -> int:
        """Length of the run."""
        return len(self.learning_rates)

    @property
    def epoch(self) -> float:
        """How often each picture was seen."""
        return self.step / self._order.steps_per_epoch

    def describe(self) -> str:
        """Network, length and arithmetic in one line."""
        encoder, training = self._recipe.encoder, self._recipe.training
        parameters = sum(p.numel() for p in self.model.encoder.parameters())
        return (
            f"{encoder.name} {encoder.width:g}x ({parameters / 1e6:.2g}M parameters) at "
            f"{self._recipe.data.image_size} px, {self.steps} steps of {training.batch_size}, "
            f"{str(self._dtype).removeprefix('torch.')} on {self._loss_sum.device.type}"
        )

    def advance(self) -> None:
        """One step: views, projections, loss, update."""
        recipe, step = self._recipe, self.step
        pictures = self._batches(self._order(step))  # uint8 [B,T,T,3]
        self._generator.manual_seed(augmentation_seed(recipe.training.seed, step))
        # Inline: on CPUs the augmentation is 2 % (28 px) to 15 % (64 px from 96) of a step whose
        # convolutions fill all cores already; a thread that works ahead would only compete.
        views = two_views(pictures, recipe.augmentation, recipe.data.image_size, self._generator)
        set_learning_rate(self.optimizer, float(self.learning_rates[step]))
        half = self._dtype is torch.bfloat16
        with torch.autocast(views.device.type, dtype=torch.bfloat16, enabled=half):
            z = self.model(views)  # [2B,E]
        loss = nt_xent(z, recipe.loss.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._loss_sum += loss.detach()
        self._loss_steps += 1
        self.step += 1

    def take_loss(self) -> float:
        """Mean loss of the steps since the last call; waits for the accelerator.

        Raises:
            TrainingDivergedError: it is not finite.
        """
        loss = float(self._loss_sum) / max(1, self._loss_steps)
        if not math.isfinite(loss):
            self._fail(f"the loss became {loss}")
        self._loss_sum.zero_()
        self._loss_steps = 0
        return loss

    def check_finite(self) -> None:
        """A checkpoint must be worth keeping; waits for the accelerator.

        Raises:
            TrainingDivergedError: the loss or a weight is not finite.
        """
        norms = torch._foreach_norm([p.detach() for p in self.model.parameters()])  # noqa: SLF001
        if not bool(torch.isfinite(self._loss_sum + torch.stack(norms).sum())):
            self._fail("loss or weights are no longer finite")

    def _fail(self, what: str) -> None:
        rate = float(self.learning_rates[max(0, self.step - 1)])
        raise TrainingDivergedError(
            f"training diverged by step {self.step}: {what} at learning rate {rate:.3g}. The last "
            "checkpoint before that is kept; start again with a lower schedule.learning_rate or a "
            "higher loss.temperature"
        )

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint that changes from step to step."""
        return {
            "encoder": self.model.encoder.state_dict(),
            "head": self.model.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "pending": {"loss_sum": float(self._loss_sum), "steps": self._loss_steps},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to a saved state of the same recipe and pictures."""
        self.model.encoder.load_state_dict(checkpoint.encoder)
        self.model.head.load_state_dict(checkpoint.head)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step = checkpoint.step
        self._loss_sum.fill_(checkpoint.pending["loss_sum"])
        self._loss_steps = checkpoint.pending["steps"]
