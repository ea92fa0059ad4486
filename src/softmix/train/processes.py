"""The processes of one run, as torchrun starts them, and their communication.

The same code runs in each process. Without torchrun there is one process, and all functions return at once.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

_TIMEOUT = timedelta(minutes=10)
_CONNECTION_WORDS = ("gloo", "nccl", "connection", "timed out", "socket", "peer", "store")


class LostProcessError(RuntimeError):
    """Another process of the run has ended. The sentence says how to continue."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    rank : the number of this process, from 0.
    size : the number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes. Every process must call it, with equally many values."""
        if self.size == 1:
            return list(values)
        return self.begin_total(values)()

    def begin_total(self, values: Sequence[float]) -> Callable[[], list[float]]:
        """Begin to add up each value over all processes. Returns a function that waits for the sums.

        Every process must call both, with equally many values. Between them a process may work.
        """
        if self.size == 1:
            return lambda: list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with self.communication():
            # tensors of the CPU go by gloo, so that no accelerator is waited for
            work = dist.all_reduce(sums, async_op=True)

        def end() -> list[float]:
            with self.communication():
                work.wait()
            return list(sums.tolist())

        return end

    def broadcast(self, text: str) -> str:
        """The text of the first process, in all of them. Every process must call it, and waits for the first."""
        if self.size == 1:
            return text
        # broadcast_object_list would pickle the text
        sent = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if self.first and text else None
        length = torch.tensor([0 if sent is None else len(sent)])
        with self.communication():
            dist.broadcast(length, 0)
            received = torch.empty(int(length), dtype=torch.uint8) if sent is None else sent
            if len(received):
                dist.broadcast(received, 0)
        return bytes(received.tolist()).decode()

    @contextmanager
    def communication(self) -> Iterator[None]:
        """Turn the error of a lost connection into a LostProcessError."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            if self.size == 1 or not any(word in str(error).lower() for word in _CONNECTION_WORDS):
                raise
            raise LostProcessError(
                f"process {self.rank} of {self.size} lost the connection to the others, one of which has ended: read "
                "its message. The same command continues from the last checkpoint, with any number of processes"
            ) from error


SINGLE_PROCESS = Processes()


def join_processes() -> Processes:
    """Connect this process to the others of torchrun: by gloo between CPUs, by nccl between accelerators.

    Without torchrun it returns a single process.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ and "MASTER_ADDR" in os.environ else 1
    if size == 1:
        return SINGLE_PROCESS
    if not dist.is_initialized():
        if torch.cuda.is_available():
            card = card_of(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
            torch.cuda.set_device(card)
            # with its card known, nccl connects at once, and a fault shows here and not in the first step
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=_TIMEOUT, device_id=card)
        else:
            dist.init_process_group("gloo", timeout=_TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size())


def card_of(rank: int, cards: int) -> torch.device:
    """The CUDA card of a process: that with its number among the processes of its machine.

    rank : LOCAL_RANK of torchrun.
    cards : the number of cards of the machine.

    Raises ValueError for more processes than cards: nccl needs a card for each.
    """
    if rank >= cards:
        raise ValueError(
            f"process {rank} of this machine needs a card of its own, and there are {cards}: start torchrun with "
            f"--nproc-per-node={cards}"
        )
    return torch.device("cuda", rank)


def leave_processes() -> None:
    """Close the connection, if there is one."""
    if dist.is_available() and dist.is_initialized():
        # objects in reference cycles may still hold the group; freed after it they would abort the process
        gc.collect()
        dist.destroy_process_group()


# DTensor is recognised by its methods: its module takes a second to import, and most runs have no DTensor


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the processes. Every process must call it."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor in this process, in the same memory."""
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Shard a whole tensor over the processes in the way of `like`. A plain `like` leaves it whole."""
    if not hasattr(like, "device_mesh") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # every process has read the file, and takes its own part
    mesh, places = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, places, src_data_rank=None)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module that may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: sharded_like(tensor, own[name]) for name, tensor in weights.items()})
