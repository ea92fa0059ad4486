"""How far A(x) is from y, for methods that minimise it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .guide import Likelihood
from .operator import Operator


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
        clean = operator(x)
        if y.shape[1:] != clean.shape[1:] or len(y) not in (1, len(clean)):
            raise ValueError(f"y has shape {list(y.shape)}, and A(x) has shape {list(clean.shape)}: give one row, or B")
        off, seen = (y.to(clean.device) - clean).abs().square(), operator.seen
        if seen is None:
            return off.flatten(1).mean(1) / 2
        there = seen.to(off).expand_as(off).flatten(1)
        return (off.flatten(1) * there).sum(1) / (2 * there.sum(1))

    return Misfit(loss, True)


def likelihood_misfit(likelihood: Likelihood) -> Misfit:
    """-log p(y | x) in nats, as in the paper's theory, for any noise and operator: `instrument.likelihood(y)`."""
    return Misfit(lambda x: -likelihood(x), False)
