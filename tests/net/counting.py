"""Count the kernels of a network, and run the forms for accelerators on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from softmix.net import attention, base, kernels

# operations that launch no kernel: they return a view, or memory without contents
VIEWS = frozenset(
    {
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "permute",
        "transpose",
        "t",
        "expand",
        "slice",
        "split",
        "chunk",
        "unbind",
    }
    | {"split_with_sizes", "unsqueeze", "squeeze", "select", "as_strided", "detach", "alias", "lift_fresh", "empty"}
    | {"empty_like", "empty_strided", "new_empty", "new_empty_strided"}
)
COPIES = frozenset({"clone", "copy_", "contiguous"})


@dataclass(frozen=True)
class Kernel:
    """One operation: its name, and the shape, strides and dtype of its first tensor and of its output."""

    name: str
    first: Tensor | None
    out: Tensor | None


@dataclass
class Kernels:
    calls: list[Kernel] = field(default_factory=list)

    def named(self, *names: str) -> list[Kernel]:
        return [call for call in self.calls if call.name in names]

    def casts(self, batch: int) -> list[Kernel]:
        """Changes of dtype of whole states: tensors of three axes and more, with the batch as the first."""
        return [c for c in self.named("_to_copy") if c.first is not None and _is_state(c.first, batch)]

    def copies(self, batch: int) -> list[Kernel]:
        """Copies of whole states."""
        return [c for c in self.calls if c.name in COPIES and c.first is not None and _is_state(c.first, batch)]


def _is_state(x: Tensor, batch: int) -> bool:
    return x.ndim > 2 and x.shape[0] == batch


class _Recording(TorchDispatchMode):
    def __init__(self, kernels: Kernels):
        super().__init__()
        self.kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name not in VIEWS and not name.startswith("prim"):
            self.kernels.calls.append(Kernel(name, _tensor(args), _tensor((out,))))
        return out


def _tensor(values: Any) -> Tensor | None:
    flat = [each for value in values for each in (value if isinstance(value, list | tuple) else (value,))]
    x = next((each for each in flat if isinstance(each, Tensor)), None)
    # autograd copies a gradient that someone else holds, so the record has tensors without contents
    return None if x is None else torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


@contextmanager
def counted() -> Iterator[Kernels]:
    """Record all operations inside."""
    kernels = Kernels()
    with _Recording(kernels):
        yield kernels


class AutocastOfCuda(TorchFunctionMode):
    """Under autocast, compute norms and softmax in float32 on a CPU too, as torch does on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") and func in (nn.functional.layer_norm, Tensor.softmax, torch.softmax):
            args = tuple(each.float() if isinstance(each, Tensor) else each for each in args)
            kwargs = {name: each.float() if isinstance(each, Tensor) else each for name, each in kwargs.items()}
        if func is nn.functional.layer_norm and kwargs["weight"] is not None:
            # torch hands the weight to a mode by its name
            assert kwargs["weight"].dtype == args[0].dtype, "CUDA takes a norm and its weight in one dtype alone"
        return func(*args, **kwargs)


def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, networks on the CPU take the forms for accelerators."""
    for module in (attention, base, kernels):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)
