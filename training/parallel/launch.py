"""Which of several training processes this is, as torchrun says in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process among those of one run; the first one alone writes the run and speaks."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine
    local_world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0


def launch_of(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE; a process alone where they lack.

    Raises:
        UsageError: only some of them are there, or one is not a number.
    """
    if "RANK" not in environment:
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, world, local_rank, local_world = (int(environment[name]) for name in names)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"the environment has RANK={environment['RANK']} but not a number for each of "
            f"{', '.join(names[1:])}: start several processes with torchrun, or unset RANK"
        ) from error
    return Launch(rank=rank, world=world, local_rank=local_rank, local_world=local_world)
