"""Protocols that learn from augmented images by gradient descent (Chen et al. 2020).

    linear probe   appendix B.6: encoder frozen, 0.1 x B / 256, 90 epochs
    fine-tuning    appendix B.5: all weights, 0.05 x B / 256, 60 epochs on 1 % of the labels and 30
                   on 10 %

Both: SGD with Nesterov momentum 0.9, no decay, no warm-up, the rate falling along a cosine; random
crops and flips, no color.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from base.progress import Silent
from training.augment.augment import Augmentation, apply, draw
from training.data.order import Order
from training.models.simclr import normalize
from training.optim.optimizers import set_learning_rate
from training.optim.schedule import peak_learning_rate, warmup_cosine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from base.progress import Progress

CROP_AND_FLIP = Augmentation(jitter_probability=0.0, grayscale=0.0, blur=0.0)
MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a classifier is learned."""

    whole: bool  # fine-tune the network under it, or leave it as it is
    learning_rate: float  # times B / 256
    epochs: int
    batch_size: int = 256
    seed: int = 0

    def rates(self, steps_per_epoch: int, images: int) -> NDArray[np.float64]:
        """Return the learning rate of each step; the batch is no larger than the set."""
        peak = peak_learning_rate(self.learning_rate, "linear", min(self.batch_size, images))
        return warmup_cosine(peak, self.epochs * steps_per_epoch, warmup_steps=0)

    @classmethod
    def linear(cls, *, epochs: int | None, batch_size: int, seed: int = 0) -> Lesson:
        """Appendix B.6."""
        return cls(
            whole=False, learning_rate=0.1, epochs=epochs or 90, batch_size=batch_size, seed=seed
        )

    @classmethod
    def finetune(
        cls, fraction: float, *, epochs: int | None, batch_size: int, seed: int = 0
    ) -> Lesson:
        """Appendix B.5; between its 1 % and 10 % the number of epochs changes at 3 %."""
        usual = 60 if fraction <= 0.03 else 30
        return cls(
            whole=True,
            learning_rate=0.05,
            epochs=epochs or usual,
            batch_size=batch_size,
            seed=seed,
        )


def learn_classifier(
    network: nn.Module,
    width: int,
    images: NDArray[np.uint8],
    positions: NDArray[np.int64],
    labels: NDArray[np.int64],
    *,
    lesson: Lesson,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    progress: Progress | None = None,
) -> nn.Linear:
    """Learns a linear classifier on a network, and the network too where the lesson says so.

    Args:
        network: float [B,3,S,S] -> features [B,width]; changed in place if `lesson.whole`. Left in
            evaluation mode.
        width: D.
        images: uint8 [N,T,T,3], also memory-mapped.
        positions: [n], which of them to learn from.
        labels: [n], 0 to C-1.
        lesson: how.
        size: S, px of a view.
        mean: subtracted from images in [0,1], per channel.
        std: divided by, per channel.
        progress: shows how far the work is.

    Returns:
        The classifier D -> C on the network's device, begun at zero.
    """
    device = next(network.parameters()).device
    classifier = nn.Linear(width, int(labels.max()) + 1, device=device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    network.train(lesson.whole).requires_grad_(lesson.whole)
    learning = [*classifier.parameters(), *(network.parameters() if lesson.whole else ())]
    optimizer = torch.optim.SGD(learning, lr=0.0, momentum=MOMENTUM, nesterov=True)
    order = Order(len(positions), min(lesson.batch_size, len(positions)), lesson.seed)
    rates = lesson.rates(order.steps_per_epoch, len(positions))
    generator = torch.Generator(device).manual_seed(lesson.seed)
    progress = progress or Silent()
    progress.begin(f"learning from {len(positions)} labels", len(rates))
    for step, rate in enumerate(rates):
        batch = order(step)
        pixels = torch.from_numpy(np.array(images[positions[batch]])).to(device)  # [B,T,T,3]
        height, width_px = pixels.shape[1:3]
        drawn = draw(CROP_AND_FLIP, len(batch), height, width_px, generator)
        logits = classifier(network(normalize(apply(pixels, drawn, size), mean, std)))
        loss = functional.cross_entropy(logits, torch.from_numpy(labels[batch]).to(device))
        set_learning_rate(optimizer, float(rate))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.update(step + 1)
    progress.end()
    network.eval()
    return classifier


def top_k(logits: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> float:
    """Share of rows [N,C] whose label [N] is among the k largest; -1 is never among them."""
    nearest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float((nearest == labels[:, None]).any(1).mean())
