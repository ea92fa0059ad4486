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


class _Share(nn.Module):
    """The loss of a piece of the batch as a module, which is what DDP and FSDP know how to wrap.

    A posterior draws after the network has answered; only the loss is where all of its work is over.
    """

    def __init__(self, modules: Iterable[nn.Module], loss: Callable[[Tensor], Tensor]):
        super().__init__()
        self.modules_of_turn, self._loss = nn.ModuleList(modules), loss

    def forward(self, items: Tensor) -> Tensor:
        return self._loss(items)


class Team:
    """How the processes of a run divide a batch: in pieces as one process would, of which each takes every size-th.

    Gradients are averaged over processes while they are still being computed (DDP). With `shard` each process keeps
    a part of every weight, of its moments and averages, and a block is whole only while it computes (FSDP2).
    """

    def __init__(self, trainer: Trainer, shard: bool):
        self.world, self.batch = trainer.world, trainer.run.config.batch
        if trainer.task.whole:
            raise ValueError(
                f"the loss compares the items of a batch, which is never divided, and there are {self.world.size} "
                "processes: train with one"
            )
        if self.batch < self.world.size:
            raise ValueError(f"a batch of {self.batch} items was to be divided among {self.world.size} processes")
        self.turns = {turn: self._shared(trainer, turn, shard) for turn in trainer.optimisers.turns}

    @staticmethod
    def _shared(trainer: Trainer, turn: str, shard: bool) -> nn.Module:
        modules = trainer.optimisers.modules(turn)
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        share = _Share(modules, lambda items: trainer.losses(items, turn))
        if shard:
            if len(trainer.modules) > 1:
                raise ValueError(
                    f"shard divides the weights of one model, and this run trains {', '.join(trainer.modules)}: leave "
                    "it out"
                )
            # it takes a second to import, and most runs do without
            from torch.distributed.fsdp import fully_shard

            # nothing here writes into what a block returns
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            for parameter in parameters:
                # weights stored channels last cannot be shared
                parameter.data = parameter.data.contiguous()
            for block in getattr(getattr(trainer.model, "net", None), "body", ()):
                fully_shard(block)
            return cast(nn.Module, fully_shard(share))
        some = share(torch.arange(2)).sum()
        gradient = torch.autograd.grad(some, parameters, allow_unused=True)
        # a loss need not ask for all of the network: the mean's part of training leaves the latent alone
        return DistributedDataParallel(share, find_unused_parameters=any(g is None for g in gradient))

    def backward(self, items: Tensor, pieces: int, turn: str = "model") -> float:
        """The loss of these items; leaves the gradient of it in the parameters, or this process's part of it."""
        size = self.world.size
        # as many for each, since what they do together they do equally often
        pieces = min(-(-pieces // size) * size, len(items) // size * size)
        mine = items.tensor_split(pieces)[self.world.rank :: size]
        share, total = self.turns[turn], 0.0
        with self.world.listening():
            for k, piece in enumerate(mine):
                with _apart(share, k + 1 < len(mine)):
                    # what the processes have is averaged, and a sum is wanted
                    loss = share(piece).sum() / self.batch
                    (size * loss).backward()
                    total += float(loss.detach())
        return self.world.total([total])[0]


def _apart(share: nn.Module, more: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged with the last piece only."""
    if isinstance(share, DistributedDataParallel):
        return share.no_sync() if more else nullcontext()
    cast("FSDPModule", share).set_requires_gradient_sync(not more)
    return nullcontext()
