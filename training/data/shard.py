"""Which share of the global batch a process works on, and how the shares become the batch again.

The batch of B images is cut into C chunks of `micro_batch` images, which follow one another in
time, and each chunk into W equal shares, one per process. So what a batch norm sees (a chunk) is
decided by the recipe alone, and a run is the same run on any number of processes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BatchShard:
    """The share of process `rank` of `world`."""

    batch_size: int  # B
    micro_batch: int  # B / C
    rank: int = 0
    world: int = 1  # W

    def __post_init__(self) -> None:
        if self.micro_batch % self.world or self.micro_batch < 2 * self.world:
            name = "batch_size" if self.micro_batch == self.batch_size else "micro_batch"
            raise UsageError(
                f"training.{name} = {self.micro_batch} cannot be split over {self.world} "
                f"processes: it must be a multiple of {self.world}, two pictures each at least"
            )

    @property
    def chunks(self) -> int:
        """C."""
        return self.batch_size // self.micro_batch

    @property
    def images(self) -> Tensor:
        """Positions in the global batch of this process's images, int64 [C, B/C/W]."""
        everything = torch.arange(self.batch_size).view(self.chunks, self.world, -1)
        return everything[:, self.rank]

    @property
    def views(self) -> Tensor:
        """Rows of this process's views among the 2B of the batch, int64 [C, 2*B/C/W]."""
        return torch.cat([self.images, self.images + self.batch_size], 1)

    def join(self, shares: Tensor) -> Tensor:
        """Return the projections [W, 2B/W, E] of all processes, each in its order, as [2B,E]."""
        rows = shares.view(self.world, self.chunks, 2, -1, shares.shape[-1])
        return rows.permute(2, 1, 0, 3, 4).reshape(2 * self.batch_size, -1)

    def own_rows(self, rows: Tensor) -> Tensor:
        """Return this process's rows of [2B,E], in its own order: [C, 2*B/C/W, E]."""
        own = rows.view(2, self.chunks, self.world, -1, rows.shape[-1])[:, :, self.rank]
        return own.transpose(0, 1).reshape(self.chunks, -1, rows.shape[-1])
