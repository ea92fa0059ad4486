"""The denoiser protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Posterior
from ..process import Process

# The name of the sampler that suits a part, with settings. A head, a loss or a denoiser has it as `suits`. That of the
# denoiser comes first, then that of the loss, then that of the head.
Suits = tuple[str, Mapping[str, Any]]


class Denoiser(Protocol):
    """A function from x_t, the time t (one for all, or [B]) and the condition to a posterior of x0.

    cond : a `Cond`, or a tensor of labels [B]. A denoiser with conditions lists them by its attribute `cond`, a
        `CondSpec`.

    A flow map is a denoiser of two times. It declares this by `two_times`, and takes a fourth argument `to`. It returns
    the x0 with which DDIM's step from t to `to` follows the ODE without error.
    """

    @property
    def process(self) -> Process: ...

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior: ...


Wrap = Callable[[Denoiser], Denoiser]


def device_of(denoiser: Denoiser) -> torch.device:
    """The device of the weights of a denoiser; the CPU for a denoiser without weights."""
    weights = getattr(denoiser, "parameters", lambda: iter(()))()
    return next((weight.device for weight in weights), torch.device("cpu"))
