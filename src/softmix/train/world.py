"""The processes of one run, as torchrun starts them, and what they tell each other.

The same code runs in each. Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = timedelta(minutes=10)
_GONE = ("gloo", "nccl", "connection", "timed out", "socket", "peer", "store")


class LostError(RuntimeError):
    """Another process of the run has ended; the sentence says what to do."""


@dataclass(frozen=True)
class World:
    """Process number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum over all processes of each of these numbers, of which every process gives as many."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        with self.listening():
            dist.all_reduce(sums)
        return list(sums.tolist())

    def broadcast(self, text: str) -> str:
        """What the first process says, for all of them; each must ask, and none goes on before the first has."""
        if self.size == 1:
            return text
        # not by broadcast_object_list, which pickles
        said = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if self.first and text else None
        length = torch.tensor([0 if said is None else len(said)])
        with self.listening():
            dist.broadcast(length, 0)
            heard = torch.empty(int(length), dtype=torch.uint8) if said is None else said
            if len(heard):
                dist.broadcast(heard, 0)
        return bytes(heard.tolist()).decode()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Makes a sentence of the error of an operation whose other end is gone."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            if self.size == 1 or not any(word in str(error).lower() for word in _GONE):
                raise
            raise LostError(
                f"process {self.rank} of {self.size} lost touch with the others, one of which has ended: see what it "
                "said. The same command goes on from the last checkpoint, with any number of processes"
            ) from error


ALONE = World()


def join() -> World:
    """This process's place among those that torchrun started; one alone if none did.

    Between CPUs they talk by gloo, between accelerators by nccl.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ and "MASTER_ADDR" in os.environ else 1
    if size == 1:
        return ALONE
    if not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Ends the talk, if there was one."""
    if dist.is_available() and dist.is_initialized():
        # what still holds on to the group, in circles, is taken away before it: later it would abort the process
        gc.collect()
        dist.destroy_process_group()


# a DTensor is told by what it can do: its module takes a second to import, and most runs have none


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which each process may hold a part; every process must ask."""
    return cast(Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, in parts if `like` is."""
    if not hasattr(like, "device_mesh") or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # every process has read the file, and takes its part of it
    mesh, places = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, places, src_data_rank=None)
