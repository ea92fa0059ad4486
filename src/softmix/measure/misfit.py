"""How far A(x) is from y: the residual, and what is minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .guide import Likelihood, check_measurement
from .operator import Operator


def data_residual(operator: Operator, y: Tensor, x0: Tensor) -> Tensor:
    """y - A(x0), [B, *measured], and 0 for elements of y that do not exist. Raises ValueError for another y."""
    clean = operator(x0)
    check_measurement(y, clean)
    off = y.to(clean) - clean
    return off if operator.seen is None else torch.where(operator.constant("seen", off) > 0, off, 0)


@dataclass(frozen=True, eq=False)
class Misfit:
    """How far A(x) is from y. `mean_misfit` and `likelihood_misfit` make one.

    loss : from x [B, ...] to [B], differentiable.
    is_mean : the loss is a mean over the elements of y. The regulariser is then the mean over those of x, else the sum.
    """

    loss: Callable[[Tensor], Tensor]
    is_mean: bool


def mean_misfit(operator: Operator, y: Tensor) -> Misfit:
    """(1 / 2m) |y - A(x)|^2 over the m elements of y that exist, as in the authors' code.

    y : [B or 1, *measured].

    The noise of y is not in it. So the balance with the regulariser, a mean over the d elements of x, changes with the
    noise, with m and with d: the size of the weight must be found anew for each instrument.
    """

    def loss(x: Tensor) -> Tensor:
        off = data_residual(operator, y, x)
        there = torch.ones_like(off) if operator.seen is None else operator.constant("seen", off).expand_as(off)
        return off.square().flatten(1).sum(1) / (2 * there.flatten(1).sum(1))

    return Misfit(loss, True)


def likelihood_misfit(likelihood: Likelihood) -> Misfit:
    """-log p(y | x) in nats, as in the paper's theory, for any noise and operator: `instrument.likelihood(y)`."""
    return Misfit(lambda x: -likelihood(x), False)
