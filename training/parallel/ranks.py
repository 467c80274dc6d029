"""Several processes that train as one: what they exchange, and how they stay in step.

Two groups. The one of the training device (NCCL or Gloo) carries projections, gradients and batch
statistics, and is entered by all processes in the same order inside a step. The other (Gloo, on the
host, without waiting for a device) is where they agree between steps to continue, to stop or that
one of them failed. There the others also wait while the first one decodes, measures or saves.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.errors import LookalikeError, UsageError
from training.parallel.global_batch_norm import globalize
from training.parallel.launch import Launch, launch_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    T = TypeVar("T")

# Decoding a large source takes hours, and the others wait; a process that dies is seen at once.
PATIENCE = timedelta(days=2)

_CONTINUE, _STOP, _FAILED = 0, 1, 2


class OtherProcessError(LookalikeError):
    """Another process of the run failed; it says why itself."""


class Ranks:
    """The processes of a run, as one of them sees them; alone, nothing is exchanged."""

    def __init__(self, launch: Launch, control: dist.ProcessGroup | None = None) -> None:
        self.launch, self._control = launch, control
        self.rank, self.world, self.leads = launch.rank, launch.world, launch.leads

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors [...] of all processes as [W, ...], in the order of their ranks."""
        if self.world == 1:
            return tensor[None]
        tensor = tensor.contiguous()
        gathered = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum over all processes."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def attempt(
        self, work: Callable[[], T], *, stop: Callable[[], bool] = lambda: False
    ) -> tuple[T, bool]:
        """Do this process's work between two steps and learn how the others fared.

        Returns:
            What `work` returned, and whether any process wanted to stop after its work.

        Raises:
            OtherProcessError: the work of another process failed; what fails here passes through
                once the others know.
        """
        if self._control is None:
            return work(), stop()
        try:
            result = work()
        except BaseException:
            self._agree(_FAILED)
            raise
        verdict = self._agree(_STOP if stop() else _CONTINUE)
        if verdict == _FAILED:
            raise OtherProcessError("another process of this run failed; see its message")
        return result, verdict == _STOP

    def _agree(self, status: int) -> int:
        worst = torch.tensor(status)
        dist.all_reduce(worst, dist.ReduceOp.MAX, self._control)
        return int(worst)

    def from_leader(self, work: Callable[[], T]) -> T:
        """Return what the first process makes of `work`, in all of them; it must be picklable.

        Raises:
            OtherProcessError: it failed there.
        """
        result, _ = self.attempt(lambda: work() if self.leads else None)
        box = [result]
        if self._control is not None:
            dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]  # type: ignore[return-value]

    def in_turn(self, work: Callable[[], T]) -> T:
        """Each process does the same work: first the leader, then one per machine, then the rest.

        For work that leaves a file behind where the next ones find it, if they see the same disk.
        """
        first = 0 if self.leads else 1 if self.launch.local_rank == 0 else 2
        if self._control is None:
            return work()
        results: list[T] = []
        for turn in range(3):
            self.attempt(lambda mine=turn == first: results.append(work()) if mine else None)  # type: ignore[misc]
        return results[0]

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all processes, picklable ones, in the order of their ranks."""
        if self._control is None:
            return [value]
        values = [value] * self.world
        dist.all_gather_object(values, value, self._control)
        return values

    def check_same(self, value: str, what: str) -> None:
        """All processes must have the same value.

        Raises:
            UsageError: they have not.
        """
        values = self.gather_objects(value)
        if len(set(values)) > 1:
            where = next(rank for rank, other in enumerate(values) if other != values[0])
            raise UsageError(
                f"process {where} has another {what} than process 0: give every machine the same"
            )


SINGLE_PROCESS = Ranks(Launch())


def network_of(
    model: nn.Module, ranks: Ranks
) -> tuple[nn.Module, Callable[[], AbstractContextManager[None]]]:
    """Return the model as it is to be called in a step, with batch norms over all processes.

    A backward through it averages the gradients over the processes while it runs, unless in the
    context that is returned with it.
    """
    if ranks.world == 1:
        return model, nullcontext
    globalize(model)
    # batch norms are the same everywhere: nothing to broadcast. newer torch renamed it
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    still: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    network = DistributedDataParallel(model, **still)
    return network, network.no_sync


@contextmanager
def process_group(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone without it.

    Raises:
        UsageError: torchrun's environment is incomplete, or it starts more processes on this
            machine than there are CUDA devices.
    """
    launch = launch_of()
    if launch.world == 1:
        yield Ranks(launch)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(control, dist.ProcessGroup)
    try:
        yield Ranks(launch, control)
    except LookalikeError:
        dist.destroy_process_group()
        raise
    # after any other error the rest may still wait for this process: it must die, not say goodbye
    dist.destroy_process_group()


def device_of(device: torch.device, launch: Launch) -> torch.device:
    """Return the device of one of several processes on a machine: each CUDA device serves one."""
    if device.type != "cuda" or launch.world == 1:
        return device
    if launch.local_world > torch.cuda.device_count():
        raise UsageError(
            f"{launch.local_world} processes on a machine with {torch.cuda.device_count()} CUDA "
            "devices: give torchrun --nproc-per-node as many as there are"
        )
    return torch.device("cuda", launch.local_rank)
