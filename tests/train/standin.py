"""A stand-in for a CUDA graph, on the CPU.

`record(work)` has the contract of `softmix.train.recording.record_cuda_graph`. It runs the work, then records every
aten call of a second run, with its arguments and the memory of its results, and undoes the second run. A replay makes
the same calls and writes into the same memory. So numbers of Python are frozen, as in a CUDA graph.

As on a card, these are refused while it records: a read of a tensor by the host, a copy between host and device, and a
result with a size that depends on the values of a tensor. A tensor that was made in the recording, without another
tensor, is a constant of the host and may be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from softmix.train.recording import NotRecordableError, Work

# the host waits for their result, or for its size
READS = {
    "_local_scalar_dense",
    "item",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "bincount",
}


class HostReadError(RuntimeError):
    """The host has read a tensor in a recording."""


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recording(TorchDispatchMode):
    """Records the aten calls made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], list[Any], Any, list[Tensor | None]]] = []
        self._constants: dict[int, Tensor] = {}
        self._new: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        inputs = [each for each in flat if isinstance(each, Tensor)]
        # torch.tensor(number) gives its number to the recording by this call
        fresh = func._schema.name == "aten::lift_fresh"
        constant = fresh or all(_storage(each) in self._constants for each in inputs)
        if not constant:
            self._refuse_a_read(func, inputs)
        written = list(_written(func, args, kwargs or {}))
        self._save(written)
        # other references to the same memory: autograd marks the results themselves
        kept = [each.detach() if isinstance(each, Tensor) else each for each in flat]
        out = func(*args, **(kwargs or {}))
        self._refuse_a_copy(func, [*inputs, *(each for each in tree_flatten(out)[0] if isinstance(each, Tensor))])
        results = [each for each in tree_flatten(out)[0] if isinstance(each, Tensor)]
        known = {_storage(each) for each in inputs}
        # the zeros of forward-mode derivatives have no memory, and are always 0
        fresh_results = [_storage(each) not in known and not each._is_zerotensor() for each in results]
        outputs = [each.detach() if new else None for each, new in zip(results, fresh_results, strict=True)]
        for each in results:
            if fresh or _storage(each) not in known:
                self._new.add(_storage(each))
            if fresh or (constant and not written):
                self._constants[_storage(each)] = each
        if not constant:
            for each in written:
                self._constants.pop(_storage(each), None)
        if written or any(each is not None for each in outputs):
            self.calls.append((func, kept, spec, outputs))
        return out

    def constant(self, tensor: Tensor) -> bool:
        """Whether the host has made this tensor in the recording, from no other."""
        return _storage(tensor) in self._constants

    def _refuse_a_read(self, func: Any, inputs: list[Tensor]) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name in READS:
            raise HostReadError(f"operation not permitted when stream is capturing: {name}")
        if name in ("index", "index_put", "index_put_") and any(each.dtype == torch.bool for each in inputs[1:]):
            raise HostReadError(f"operation not permitted when stream is capturing: {name} by booleans")

    def _refuse_a_copy(self, func: Any, tensors: list[Tensor]) -> None:
        if func._schema.name in ("aten::_to_copy", "aten::copy_") and len({each.device.type for each in tensors}) > 1:
            raise HostReadError("operation not permitted when stream is capturing: a copy between host and device")

    def _save(self, written: Iterable[Tensor]) -> None:
        for each in written:
            place = _storage(each)
            if place not in self._new and place not in self._before:
                whole = torch.empty(0, dtype=torch.uint8, device=each.device).set_(each.untyped_storage())
                self._before[place] = whole, whole.clone()

    def undo(self) -> None:
        """Restore all memory from before the recording."""
        for whole, copy in self._before.values():
            whole.copy_(copy)

    @torch.no_grad()
    def replay(self) -> None:
        for func, kept, spec, outputs in self.calls:
            args, kwargs = tree_unflatten(kept, spec)
            results = [each for each in tree_flatten(func(*args, **kwargs))[0] if isinstance(each, Tensor)]
            for old, new in zip(outputs, results, strict=True):
                if old is not None:
                    old.copy_(new)


class NoCopyToHost(TorchFunctionMode):
    """Refuses copies to the host, which are no aten calls for a tensor of the CPU."""

    def __init__(self, recording: Recording):
        super().__init__()
        self._recording = recording

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("tolist", "numpy", "cpu", "__array__") and not self._recording.constant(args[0]):
            raise HostReadError(f"operation not permitted when stream is capturing: {name}")
        return func(*args, **(kwargs or {}))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The tensors that a call changes in place."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        yield from (each for each in tree_flatten(value)[0] if isinstance(each, Tensor))


def record(work: Work) -> Work:
    """Run the work, and return a function that replays it."""
    work()
    recording = Recording()
    try:
        with recording, NoCopyToHost(recording):
            work()
    except Exception as error:
        recording.undo()
        raise NotRecordableError(str(error)) from error
    recording.undo()
    return recording.replay
