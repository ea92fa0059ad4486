"""A step of several processes, each with a share of the batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, cast

import torch
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
        wrap = _sharded if shard else _replicated
        self.losses = {turn: wrap(trainer, turn) for turn in trainer.optimisers.turns}

    def share(self, items: Tensor, pieces: int) -> tuple[Tensor, ...]:
        """The pieces of a batch for this process, equally many for each: an exchange of gradients needs all of them."""
        size = self.processes.size
        pieces = min(-(-pieces // size) * size, len(items) // size * size)
        return items.tensor_split(pieces)[self.processes.rank :: size]

    def backward(self, items: Tensor, pieces: int, turn: str = "model") -> float:
        """Add the gradient of the mean loss of these items to the parameters of a turn, or to their local parts.

        pieces : the number of pieces of the batch, rounded up to a multiple of the number of processes.
        Returns the mean loss over all processes.
        """
        size, mine = self.processes.size, self.share(items, pieces)
        losses, total = self.losses[turn], 0.0
        with self.processes.communication():
            for k, piece in enumerate(mine):
                with _exchange(losses, last=k + 1 == len(mine)):
                    # gradients are averaged over processes, and a sum is needed
                    loss = losses(piece).sum() / self.batch
                    (size * loss).backward()
                    total += float(loss.detach())
        return self.processes.total([total])[0]


def _loss_module(trainer: Trainer, turn: str) -> tuple[_LossModule, list[nn.Parameter]]:
    modules = trainer.optimisers.modules(turn)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return _LossModule(modules, lambda items: trainer.losses(items, turn)), parameters


def _replicated(trainer: Trainer, turn: str) -> nn.Module:
    losses, parameters = _loss_module(trainer, turn)
    gradient = torch.autograd.grad(losses(torch.arange(2)).sum(), parameters, allow_unused=True)
    # a loss need not use the whole network: while the mean is trained, the latent has no gradient
    return DistributedDataParallel(losses, find_unused_parameters=any(g is None for g in gradient))


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
