"""Which images each step of a run reads, and the seeds of its random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Streams of random numbers; a step of one is never the step of another.
_ORDER, _AUGMENTATION, _LAYERS = 0, 1, 2


class Order:
    """A new permutation of the images per epoch; the last incomplete batch is left out.

    Drawn from (seed, epoch) alone: step 7000 of a resumed run needs no replay.

    Attributes:
        own: int64 [b], positions in each batch of the images that this process works on.
    """

    def __init__(
        self,
        dataset: int,
        batch_size: int,
        seed: int,
        own: NDArray[np.int64] | None = None,
        *,
        held_out: NDArray[np.int64] | None = None,
    ) -> None:
        """Order the images 0..dataset-1, without those that are held out."""
        self._trained: NDArray[np.int64] | None = None
        if held_out is not None and len(held_out):
            self._trained = np.setdiff1d(np.arange(dataset), held_out)
            dataset = len(self._trained)
        self._dataset, self.batch_size, self._seed = dataset, batch_size, seed
        self.own = np.arange(batch_size) if own is None else own
        self.steps_per_epoch = dataset // batch_size
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Return indices [batch_size] of the images of this step, those of all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self._seed, _ORDER, epoch])
            self._epoch, self._permutation = epoch, random.permutation(self._dataset)
        start = position * self.batch_size
        drawn = self._permutation[start : start + self.batch_size]
        return drawn if self._trained is None else self._trained[drawn]


def augmentation_seed(seed: int, step: int) -> int:
    """Return the seed of the generator that draws the augmentation of one step."""
    return int(np.random.default_rng([seed, _AUGMENTATION, step]).integers(2**63))


def dropout_seed(seed: int, step: int, rank: int, chunk: int) -> int:
    """Return the seed of random layers (dropout, stochastic depth) in a forward of one process."""
    return int(np.random.default_rng([seed, _LAYERS, step, rank, chunk]).integers(2**63))
