"""One run in memory: network, optimizer and the step that moves them."""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from training.augment import augment
from training.compute import choose_precision, compiled, guard_small_maps
from training.data.order import Order, augmentation_seed, dropout_seed
from training.data.shard import BatchShard
from training.distillation.loss import imitation_loss_and_gradient
from training.errors import TrainingDivergedError
from training.optim import gradient_cache
from training.optim.adaptation import average_into, rate_groups, set_adaptation
from training.optim.losses import loss_and_gradient
from training.optim.optimizers import build_optimizer, set_learning_rate
from training.parallel.ranks import SINGLE_PROCESS, Ranks, network_of
from training.recipes.build_model import build_model
from training.weights.start_weights import load_start_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from training.data.training_data import TrainingData
    from training.models.simclr import SimCLR
    from training.recipes.recipe import Recipe
    from training.run_folder.checkpoint import Checkpoint


class ViewBatch(NamedTuple):
    """What a process works on in one step."""

    images: Tensor  # uint8 [C,m,T,T,3], its own
    drawn: augment.Parameters  # of all views of the global batch
    positions: Tensor  # int64 [B], of the images of the global batch


class Trainer:
    """Algorithm 1 of the paper, a step at a time.

    No step waits for the accelerator: the loss is added up on the device until `take_loss`.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: TrainingData,
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
        *,
        held_out: NDArray[np.int64] | None = None,
        targets: NDArray[np.float32] | None = None,
    ) -> None:
        """Build the network.

        Args:
            recipe: what to train and how.
            dataset: the images.
            device: where.
            ranks: the processes that train together.
            held_out: positions of images that are not trained on.
            targets: what a student's embeddings of the images should be, unit rows [N,E].
        """
        trained_on = len(dataset) - (0 if held_out is None else len(held_out))
        self._recipe, self._ranks = recipe, ranks
        self.model = build_model(recipe, device).train()
        self._dtype = choose_precision(recipe.training.precision, device)
        self._view_sizes = recipe.view_sizes(trained_on)
        self._in_fp32: list[str] = []  # convolutions that stay there
        if self._dtype is torch.bfloat16 and device.type == "cpu":
            sizes = [int(size) for size in self._view_sizes]
            self._in_fp32 = guard_small_maps(self.model.encoder, sizes, recipe.data.channels)
        set_adaptation(self.model.encoder, recipe.adaptation)
        self._network, self._no_sync = network_of(self.model, ranks)
        if recipe.training.compile:
            self._network = compiled(self._network, device)
        adaptation = recipe.adaptation
        set_adaptation(self.model.encoder, adaptation)  # again: batch norms may be others now
        rates = partial(rate_groups, self.model, settings=adaptation)
        self.optimizer = build_optimizer(self.model, recipe.optimizer, rates)
        self.averaged = copy.deepcopy(self.model) if adaptation.average else None
        self._targets = targets
        self.learning_rates = recipe.learning_rates(trained_on)
        self.step = 0  # finished steps
        training = recipe.training
        self.shard = BatchShard(
            batch_size=training.batch_size,
            micro_batch=training.micro_batch or training.batch_size,
            rank=ranks.rank,
            world=ranks.world,
        )
        self._views = self.shard.views.to(device)  # int64 [C,V]
        own = self.shard.images.flatten().numpy()
        self._order = Order(
            len(dataset), training.batch_size, training.seed, own, held_out=held_out
        )
        self._batches = dataset.batches(self._order, device)
        self._batch: ViewBatch | None = None
        self._generator = torch.Generator(device)
        self._loss_sum = torch.zeros((), device=device)
        self._loss_steps = 0

    @property
    def steps(self) -> int:
        """Length of the run."""
        return len(self.learning_rates)

    @property
    def epoch(self) -> float:
        """How often each image was seen."""
        return self.step / self._order.steps_per_epoch

    def describe(self) -> str:
        """Network, length and arithmetic in one line."""
        encoder, training = self._recipe.encoder, self._recipe.training
        parameters = sum(p.numel() for p in self.model.encoder.parameters())
        few = f" ({', '.join(self._in_fp32)} in float32 on maps below the stride)"
        return (
            f"{encoder.name} {encoder.width:g}x ({parameters / 1e6:.2g}M parameters) at "
            f"{self._recipe.data.image_size} px, {self.steps} steps of {training.batch_size}, "
            f"{str(self._dtype).removeprefix('torch.')} on {self._loss_sum.device.type}"
            f"{few if self._in_fp32 else ''}"
        )

    def fetch(self) -> None:
        """Read what the next step works on; `advance` does so if it was not done before."""
        seed, step, size = self._recipe.training.seed, self.step, self._recipe.training.batch_size
        pixels, height, width = self._batches(step)
        positions = torch.from_numpy(self._order(step))
        self._generator.manual_seed(augmentation_seed(seed, step))
        # for the views of all processes, so that each image has the same ones wherever it is
        drawn = augment.draw(self._recipe.augmentation, 2 * size, height, width, self._generator)
        images = pixels.view(self.shard.chunks, -1, *pixels.shape[1:])
        self._batch = ViewBatch(images, drawn, positions)

    def advance(self) -> None:
        """One step: views, projections, loss, update."""
        if self._batch is None:
            self.fetch()
        set_learning_rate(self.optimizer, float(self.learning_rates[self.step]))
        self.optimizer.zero_grad(set_to_none=True)
        loss = gradient_cache.backward(
            self.project, self.shard.chunks, self._loss, self.model, no_sync=self._no_sync
        )
        self.optimizer.step()
        if self.averaged is not None:
            average_into(self.averaged, self.model, self._recipe.adaptation.average, self.step)
        self._loss_sum += loss
        self._loss_steps += 1
        self._batch = None
        self.step += 1

    def project(self, chunk: int) -> Tensor:
        """Projections [V,E] of the views of one chunk, made anew by each call.

        Views are made inline: on CPUs that is 2 % (28 px) to 15 % (64 px from 96) of a step whose
        convolutions fill all cores already; a thread that works ahead would only compete.
        """
        assert self._batch is not None
        images, drawn = self._batch.images[chunk], self._batch.drawn
        if len(images) < self.shard.batch_size:
            drawn = drawn[self._views[chunk]]
        views = augment.apply(images, drawn, int(self._view_sizes[self.step]))
        half = self._dtype is torch.bfloat16
        seed = dropout_seed(self._recipe.training.seed, self.step, self._ranks.rank, chunk)
        with (
            seeded_rng(seed, views),
            torch.autocast(views.device.type, dtype=torch.bfloat16, enabled=half),
        ):
            z: Tensor = self._network(views)
        return z

    def _loss(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of the global batch and its gradient for the process's own outputs.

        They are projections z [C*V,E], a student's with its embeddings behind them [C*V,E+F].
        """
        if self._targets is None:
            return self._contrastive_loss(outputs)
        weight, width = self._recipe.teacher.weight, self._recipe.teacher.embedding_dim
        z, embeddings = outputs[:, :-width], outputs[:, -width:]
        loss, gradient = self._imitation_loss(embeddings)
        if weight == 1:
            return loss, torch.cat([torch.zeros_like(z, dtype=gradient.dtype), gradient], 1)
        contrastive, dz = self._contrastive_loss(z)
        both = torch.cat([(1 - weight) * dz, weight * gradient], 1)
        return weight * loss + (1 - weight) * contrastive, both

    def _imitation_loss(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a student's embeddings [C*V,F] and its gradient, as `_loss` does."""
        assert self._batch is not None
        assert self._targets is not None
        batch = len(self._batch.positions)
        images = self._batch.positions[self._views.flatten().cpu() % batch].numpy()
        targets = torch.from_numpy(self._targets[images]).to(embeddings.device)
        loss, gradient = imitation_loss_and_gradient(embeddings, targets, views=2 * batch)
        self._ranks.sum_(loss)
        return loss, gradient * self._ranks.world

    def _contrastive_loss(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of projections [C*V,E] and its gradient, as `_loss` does.

        Each process computes its share of the anchors for the projections of all.
        """
        ranks = self._ranks
        rows = self.shard.join(ranks.gather(z.float()))  # [2B,E]
        loss, gradient = loss_and_gradient(
            rows, self._recipe.loss, share=ranks.rank, shares=ranks.world
        )
        ranks.sum_(loss)
        ranks.sum_(gradient)
        # times W: DDP averages the processes' gradients of a weight, which must be added up
        return loss, self.shard.own_rows(gradient).flatten(0, 1) * ranks.world

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
        """Check that a checkpoint is worth keeping; waits for the accelerator.

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

    @property
    def used(self) -> SimCLR:
        """The network whose encoder is measured and used: the averaged one, if there is one."""
        return self.averaged or self.model

    def load_start(self, recipe: Recipe) -> None:
        """Put the recipe's start weights into the encoder."""
        load_start_weights(self.model.encoder, recipe)
        if self.averaged is not None:
            self.averaged.load_state_dict(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        """Return what of a checkpoint changes from step to step."""
        imitation = self.model.imitation
        return {
            "encoder": self.model.encoder.state_dict(),
            "head": self.model.head.state_dict(),
            "imitation": None if imitation is None else imitation.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "pending": {"loss_sum": float(self._loss_sum), "steps": self._loss_steps},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a saved state of the same recipe and images."""
        self.model.encoder.load_state_dict(checkpoint.encoder)
        self.model.head.load_state_dict(checkpoint.head)
        if self.model.imitation is not None:
            self.model.imitation.load_state_dict(checkpoint.imitation or {})
        if self.averaged is not None:
            self.averaged.load_state_dict(checkpoint.averaged or {})
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step = checkpoint.step
        self._loss_sum.fill_(checkpoint.pending["loss_sum"])
        self._loss_steps = checkpoint.pending["steps"]


@contextmanager
def seeded_rng(seed: int, like: Tensor) -> Iterator[None]:
    """Let random layers draw from this seed; torch's global state is restored afterwards."""
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        torch.manual_seed(seed)
        yield
