"""A step of several processes, each with a share of the batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

    from .trainer import Trainer


class _LossModule(nn.Module):
    """The loss of a piece of the batch as a module, because DDP and FSDP wrap modules.

    A posterior draws after the network has answered, so a wrapped network alone would miss a part of the work.
    """

    def __init__(self, modules: Iterable[nn.Module], loss: Callable[[Tensor], Tensor]):
        super().__init__()
        self.modules_of_turn, self._loss = nn.ModuleList(modules), loss

    def forward(self, items: Tensor) -> Tensor:
        return self._loss(items)


class ParallelBatch:
    """Divides each batch among the processes of a run: into the pieces of one process, every size-th for each.

    shard : False averages gradients over processes while they are being computed (DDP). True stores only a part of
        each weight, of its moments and averages in each process; a block is whole only while it computes (FSDP2).

    Raises ValueError for a loss that needs the whole batch, for a batch smaller than the number of processes, and for
    `shard` with more than one module.
    """

    def __init__(self, trainer: Trainer, shard: bool):
        self.processes, self.batch = trainer.processes, trainer.run.config.batch
        if trainer.task.whole:
            raise ValueError(
                f"the loss compares the items of a batch, which is never divided, and there are {self.processes.size} "
                "processes: train with one"
            )
        if self.batch < self.processes.size:
            raise ValueError(f"a batch of {self.batch} items was to be divided among {self.processes.size} processes")
        self.shard = shard
        wrap = _sharded if shard else _replicated
        self.losses = {turn: wrap(trainer, turn) for turn in trainer.optimisers.turns}

    def share(self, items: Tensor, pieces: int) -> tuple[Tensor, ...]:
        """The pieces of a batch for this process, equally many for each: an exchange of gradients needs all of them."""
        size = self.processes.size
        pieces = min(-(-pieces // size) * size, len(items) // size * size)
        return items.tensor_split(pieces)[self.processes.rank :: size]

    def backward(self, items: Tensor, pieces: int, turn: str = "model", scale: float | None = None) -> float:
        """Add the gradient of the mean loss of these items to the parameters of a turn, or to their local parts.

        pieces : the number of pieces of the batch, rounded up to a multiple of the number of processes.
        scale : a factor of the gradient, but not of the result; None for 1.
        Returns the mean loss over all processes.
        """
        total = 0.0
        with self.processes.communication():
            for loss in self._pieces(items, pieces, turn, scale):
                total += float(loss)
        return self.processes.total([total])[0]

    def backward_unread(self, items: Tensor, pieces: int, turn: str, scale: Tensor | None) -> Tensor:
        """The same on an accelerator. The mean loss over all processes stays there, as a float64 without axes."""
        total = torch.zeros((), dtype=torch.float64, device=items.device)
        with self.processes.communication():
            for loss in self._pieces(items, pieces, turn, scale):
                total = total + loss.double()
            # ordered with the other work of the device; the host does not wait
            dist.all_reduce(total)
        return total

    def _pieces(self, items: Tensor, pieces: int, turn: str, scale: float | Tensor | None) -> Iterator[Tensor]:
        """Add the gradient of each piece of this process, and yield its share of the mean loss."""
        size, mine, losses = self.processes.size, self.share(items, pieces), self.losses[turn]
        for k, piece in enumerate(mine):
            with _exchange(losses, last=k + 1 == len(mine)):
                # gradients are averaged over processes, and a sum is needed
                loss = losses(piece).sum() / self.batch
                (size * loss if scale is None else size * loss * scale).backward()
            yield loss.detach()


def _loss_module(trainer: Trainer, turn: str) -> tuple[_LossModule, list[nn.Parameter]]:
    modules = trainer.optimisers.modules(turn)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return _LossModule(modules, lambda items: trainer.losses(items, turn)), parameters


def _replicated(trainer: Trainer, turn: str) -> nn.Module:
    losses, parameters = _loss_module(trainer, turn)
    gradient = torch.autograd.grad(losses(torch.arange(2)).sum(), parameters, allow_unused=True)
    # A loss need not use the whole network: while the mean is trained, the latent has no gradient. In the second stage
    # it has, so the graph is not static. `device_ids` stays None: the items are numbers, and may stay on the CPU.
    unused = any(g is None for g in gradient)
    # the gradients lie in the memory of the exchange, and are not copied
    return DistributedDataParallel(losses, find_unused_parameters=unused, gradient_as_bucket_view=True)


def _sharded(trainer: Trainer, turn: str) -> nn.Module:
    losses, parameters = _loss_module(trainer, turn)
    if len(trainer.modules) > 1:
        raise ValueError(
            f"shard divides the weights of one model, and this run trains {', '.join(trainer.modules)}: leave it out"
        )
    # the import takes a second, and most runs do not need it
    from torch.distributed.fsdp import fully_shard

    # no code here writes into the output of a block
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    for parameter in parameters:
        # weights in channels-last layout cannot be sharded
        parameter.data = parameter.data.contiguous()
    for block in getattr(getattr(trainer.model, "net", None), "body", ()):
        fully_shard(block)
    return cast(nn.Module, fully_shard(losses))


def _exchange(losses: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients after the last piece only."""
    if isinstance(losses, DistributedDataParallel):
        return nullcontext() if last else losses.no_sync()
    cast("FSDPModule", losses).set_requires_gradient_sync(last)
    return nullcontext()
