"""The numbers of `Rng` on CUDA: by Triton if it works on this machine, else by torch."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from . import plain

# for each card, whether the kernels gave the right numbers there
_works: dict[torch.device, bool] = {}


def computed(name: str, keys: Tensor, *arguments: object) -> Tensor:
    """The result of a function of plain.py, such as "normals", by a kernel if one works on this card."""
    if _usable(keys.device):
        try:
            return _call(_kernels(), name, keys, *arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _give_up(keys.device, error)
    return _call(plain, name, keys, *arguments)


def _call(file: ModuleType, name: str, keys: Tensor, *arguments: object) -> Tensor:
    return cast(Tensor, getattr(file, name)(keys, *arguments))


def _kernels() -> ModuleType:
    # triton is imported with the first number on a card, since its import takes a part of a second
    return importlib.import_module(".kernels", __package__)


def _usable(device: torch.device) -> bool:
    """Whether the kernels work on this card, by a trial at the first call.

    A trial reads its result, so that it cannot run while a CUDA graph is captured. Until there was a trial the answer
    is then no.
    """
    if device not in _works:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False
        _works[device] = importlib.util.find_spec("triton") is not None
        if _works[device]:
            try:
                _check(torch.arange(-2, 3, device=device))
            except Exception as error:
                _give_up(device, error)
    return _works[device]


def _check(numbers: Tensor) -> None:
    """Raise RuntimeError if the kernels do not give the numbers of torch."""
    fast, word = _kernels(), plain.MUL_1
    keys = plain.item_keys(numbers, word)
    whole = torch.equal(fast.item_keys(numbers, word), keys)
    whole = whole and torch.equal(fast.child_keys(keys, word), plain.child_keys(keys, word))
    whole = whole and torch.equal(fast.words(keys, word, 7), plain.words(keys, word, 7))
    normals, expected = (file.normals(keys, word, 7, torch.float32) for file in (fast, plain))
    if not whole or not torch.allclose(normals, expected, rtol=0, atol=1e-5):
        raise RuntimeError("its numbers are wrong")


def _give_up(device: torch.device, error: Exception) -> None:
    _works[device] = False
    reason = " ".join(str(error).split())[:200]
    warnings.warn(
        f"random numbers on {device} are made by torch operations, since a Triton kernel failed there "
        f"({type(error).__name__}: {reason}); they are the same up to rounding, and slower",
        stacklevel=2,
    )
