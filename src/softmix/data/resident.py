"""Sources on an accelerator: the stored tensors on the device, or each batch brought there.

A training step on an accelerator must not wait for the host. So the data of a run live on the device, as they are
stored (pictures as uint8), and a batch is a gather there. Data that take more than a third of the free memory stay on
the host.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..cond import Cond
from ..rng import Rng
from .contract import Source
from .derived import with_storage
from .limits import free_on

# Data on the device take at most this share of its free memory.
_SHARE = 1 / 3
# The number of items that show whether a source works on a device, and the largest rounding error there.
_TRIED, _SLACK = 2, 1e-3

_aten = torch.ops.aten
# These operations need numbers of a tensor on the host.
_READS = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
}
# With booleans as index these count them on the host.
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class HostReadError(RuntimeError):
    """An operation needed numbers of a tensor on the host."""


class NoHostReads(TorchDispatchMode):
    """Inside, reading the numbers of a tensor on `device` from the host raises HostReadError.

    device : the device of the tensors. Copies from it to another device are refused too. Other devices are free.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        from_device = any(tensor.device.type == self.device.type for tensor in tensors)
        by_booleans = func in _INDEXED and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if from_device and (func in _READS or by_booleans):
            raise HostReadError(f"{func} reads a tensor on {self.device} from the host")
        result = func(*args, **(kwargs or {}))
        # copy_ writes into its first argument
        source = tensors[1:] if func is _aten.copy_.default else tensors
        leaves = any(tensor.device.type == self.device.type for tensor in source)
        if leaves and isinstance(result, Tensor) and result.device.type != self.device.type:
            raise HostReadError(f"{func} copies a tensor from {self.device} to {result.device}")
        return result


def stored_tensors(source: Source) -> list[Tensor] | None:
    """The stored tensors of a source; None if it shows none."""
    seen: list[Tensor] = []

    def record(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    return None if with_storage(source, record) is None else seen


def fits(source: Source, device: torch.device) -> bool:
    """Whether the stored tensors take at most a third of the free memory of the device."""
    free, tensors = free_on(device), stored_tensors(source)
    if free is None or tensors is None:
        return False
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= _SHARE * free


def resident(source: Source, device: torch.device) -> Source | None:
    """The source with its stored tensors on the device, as they are stored. None if it shows none."""
    return with_storage(source, lambda tensor: tensor.to(device))


def works_on(source: Source, device: torch.device) -> bool:
    """Whether a source makes the same items on the device, without reading them back. Two items are tried.

    It does not, if it shows no stored tensors, or if a measurement or a codec has tensors of its own on the host.
    """
    index = torch.arange(min(_TRIED, len(source)), device="cpu")
    rng = Rng(0, index, "softmix.data.resident")
    there = with_storage(source, lambda tensor: tensor[: len(index)].to(device))
    if there is None:
        return False
    place, moved = index.to(device), rng.to(device)
    try:
        # the first call may move constants to the device
        there.batch(place, moved)
        with NoHostReads(device):
            found = there.batch(place, moved)
    except Exception:  # a function of the caller may raise any error
        return False
    return _agree(found, source.batch(index, rng))


def _agree(found: tuple[Tensor, Cond | None], wanted: tuple[Tensor, Cond | None]) -> bool:
    """Whether two batches are equal up to rounding."""
    pairs = list(zip(_tensors(*found), _tensors(*wanted), strict=False))
    same_parts = len(_tensors(*found)) == len(_tensors(*wanted))
    return same_parts and all(
        a.shape == b.shape and torch.allclose(a.cpu().double(), b.cpu().double(), _SLACK, _SLACK, equal_nan=True)
        for a, b in pairs
    )


def _tensors(x0: Tensor, cond: Cond | None) -> list[Tensor]:
    parts = [] if cond is None else [getattr(cond, field.name) for field in fields(cond)]
    return [x0, *(part for part in parts if part is not None)]


def rows(source: Source, index: Tensor, pin: bool = False) -> Source | None:
    """Some items of a source, as a source on the host: item k is item index[k]. None if it shows no stored tensors.

    index : the numbers of items, int64 [B], on the CPU.
    pin : take pinned memory, from which an accelerator copies without a wait.
    """

    def taken(tensor: Tensor) -> Tensor:
        out = torch.empty((len(index), *tensor.shape[1:]), dtype=tensor.dtype, device="cpu", pin_memory=pin)
        return torch.index_select(tensor, 0, index, out=out)

    return with_storage(source, taken)
