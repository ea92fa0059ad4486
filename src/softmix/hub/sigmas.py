"""How noise levels lie between a highest and a lowest one, by the names of diffusers' keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from scipy.stats import beta as beta_law
from torch import Tensor

from ..process.grid import even_in_root

Spread = Callable[[float, float, int], Tensor]


def karras(high: float, low: float, n: int) -> Tensor:
    """Equal steps of the seventh root (Karras et al. 2022, equation 5)."""
    return even_in_root(high, low, n)


def exponential(high: float, low: float, n: int) -> Tensor:
    """Equal steps of the logarithm. Of sigma / alpha these are equal steps of lambda too, DPM-Solver's own grid."""
    return torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp()


def beta(high: float, low: float, n: int) -> Tensor:
    """Quantiles of Beta(0.6, 0.6): close together at both ends (Lee et al., "Beta sampling is all you need", 2024)."""
    shares = torch.from_numpy(beta_law.ppf(torch.linspace(1, 0, n, dtype=torch.float64).numpy(), 0.6, 0.6))
    return low + shares * (high - low)


SPREADS: Mapping[str, Spread] = {
    "use_karras_sigmas": karras,
    "use_exponential_sigmas": exponential,
    "use_beta_sigmas": beta,
    "use_lu_lambdas": exponential,
}


def chosen_spread(config: Mapping[str, Any]) -> Spread | None:
    """The one that a configuration asks for. Raises ValueError for two at once."""
    named = [name for name in SPREADS if config.get(name)]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} were asked for: the noise levels can lie in one way only, take one")
    return SPREADS[named[0]] if named else None
