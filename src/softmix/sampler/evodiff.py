"""EVODiff, a solver of second order with two weights in each step that depend on the last means."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, few
from ..rng import Rng
from .contract import Ask, declare


@declare("evodiff", order=2, grid=few, cites=("evodiff",))
def evodiff(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """EVODiff of order 2: the step of DDIM with the mean m replaced by m + B / (2 zeta).

    With kappa = sigma / alpha, one step from x_i at t_i to t_{i+1} is

        r    = log(kappa_{i-1} / kappa_i) / log(kappa_i / kappa_{i+1})
        D1   = m_i - m_{i-1}
        u    = DDIM(x_i, m_i + D1 / (2 r))             # the probe
        m'   = D_theta(u, t_{i+1})
        D2   = m' - m_i
        eta  = sigmoid(|P| / 2) / 2                    # P projects D2 + D1/r on D2 - D1/r
        zeta = 1 - 2 eta
        B    = (1 - eta) D2 - (eta / r) D1
        x_{i+1} = DDIM(x_i, m_i + B / (2 zeta)),   m_{i+1} = m'

    DDIM(x, m) is (kappa' / kappa) x + (1 - kappa' / kappa) m in units of x / alpha. The first step, and a last step to
    t = 0, are those of DDIM. P = <a, b> / <b, b>, clipped to [-2, 2], is one number for each item and channel. In the
    paper eta lowers the conditional variance of the step.

    This is the consistent form, of second order. The form of the released code has further factors and is of first
    order, since (1 - 2 eta) / (2 zeta) tends to 0.25 and not to 1/2. It is in the recipe `evodiff`.
    When to choose: at about 10 evaluations on narrow modes. On images `adams` is better (docs/choose-a-sampler.md).
    Source: Li et al., "EVODiff", NeurIPS 2025.
    """
    return (yield from evodiff_steps(process, x, grid, rng, lambda kappa, i: Weights(kappa, i)))


def evodiff_steps(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, weights_of: Callable[[Sequence[float], int], Weights]
) -> Generator[Ask, Posterior, Tensor]:
    """The steps of EVODiff with other weights. weights_of : the weights of step i, from all kappa and i."""
    kappa = (process.sigma(grid) / process.alpha(grid)).tolist()
    before: Tensor | None = None
    mean: Tensor | None = None
    for i, (t, s) in enumerate(pairwise(grid)):
        if mean is None:
            mean = need((yield Ask(t, x)), HasMean, "evodiff").mean
        if before is None or kappa[i + 1] == 0:
            before, x = mean, process.bridge(x, mean, t, s, rng, eta=0)
            mean = None
            continue
        weights = weights_of(kappa, i)
        ending = weights.without_probe(process, x, before, mean, t, s, rng)
        if ending is not None:
            x, mean = ending, None
            continue
        probe = process.bridge(x, mean + weights.guess(before, mean), t, s, rng, eta=0)
        ahead = need((yield Ask(s, probe)), HasMean, "evodiff").mean
        x = process.bridge(x, mean + weights.change(before, mean, ahead), t, s, rng, eta=0)
        before, mean = mean, ahead
    return x


class Weights:
    """The weights of the step from kappa[i] to kappa[i + 1], kappa = sigma / alpha."""

    def __init__(self, kappa: Sequence[float], i: int):
        self.r = math.log(kappa[i - 1] / kappa[i]) / math.log(kappa[i] / kappa[i + 1])

    def guess(self, before: Tensor, mean: Tensor) -> Tensor:
        """The change of the mean for the probe: D1 / (2 r)."""
        return (mean - before) / (2 * self.r)

    def change(self, before: Tensor, mean: Tensor, ahead: Tensor) -> Tensor:
        """The change of the mean for the step: B / (2 zeta)."""
        first, second = (mean - before) / self.r, ahead - mean
        eta = self.eta(first, second)
        return self.mixed(first, second, eta) / (2 * (1 - 2 * eta))

    def eta(self, first: Tensor, second: Tensor) -> Tensor | float:
        """first : D1 / r. second : D2."""
        return torch.sigmoid(projection(second + first, second - first).abs() / 2) / 2

    def mixed(self, first: Tensor, second: Tensor, eta: Tensor | float) -> Tensor:
        """B."""
        return (1 - eta) * second - eta * first

    def without_probe(
        self, process: Gaussian, x: Tensor, before: Tensor, mean: Tensor, t: Tensor, s: Tensor, rng: Rng
    ) -> Tensor | None:
        """x at s for a step that needs no probe, or None. Here every step needs one."""
        return None


def projection(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> / <b, b> for each item and channel, clipped to [-2, 2]; 0 for b = 0."""
    over = tuple(range(2, a.ndim)) if a.ndim > 2 else (1,)
    size = (b * b).sum(over, keepdim=True)
    ratio = (a * b).sum(over, keepdim=True) / size
    return torch.where(size > 0, ratio, 0.0).clamp(-2, 2)
