"""The contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from ..cond import Cond
from ..posterior import Posterior
from ..process import Process

# The sampler that suits a part, by its name, with settings. A head, a loss or a denoiser has it as `suits`; a denoiser
# speaks before its loss, and a loss before its head.
Suits = tuple[str, Mapping[str, Any]]


class Denoiser(Protocol):
    """What is believed of x0 when x_t is seen at time t (one for all, or [B]) and cond is known.

    cond is a `Cond`, or a tensor of labels [B]. A denoiser that was built for some conditions says which by `cond`, a
    `CondSpec`.

    A flow map is a denoiser of two times: it says so by `two_times`, takes `to` as a fourth argument, and
    answers with the x0 that takes DDIM's step from t to `to` along the ODE without error.
    """

    @property
    def process(self) -> Process: ...

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior: ...


Wrap = Callable[[Denoiser], Denoiser]
