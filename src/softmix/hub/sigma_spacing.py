"""Spacings of sigmas between a highest and a lowest one: Karras, exponential, beta, by diffusers' keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from scipy.stats import beta as beta_law
from torch import Tensor

from ..process.grid import even_in_root

# highest sigma, lowest sigma, n -> n falling sigmas
SigmaSpacing = Callable[[float, float, int], Tensor]


def karras(high: float, low: float, n: int) -> Tensor:
    """Equal steps of sigma^(1/7) (Karras et al. 2022, equation 5)."""
    return even_in_root(high, low, n)


def exponential(high: float, low: float, n: int) -> Tensor:
    """Equal steps of log sigma. For sigma / alpha these are equal steps of lambda, the grid of DPM-Solver."""
    return torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64).exp()


def beta(high: float, low: float, n: int) -> Tensor:
    """Quantiles of Beta(0.6, 0.6), dense at both ends (Lee et al., "Beta sampling is all you need", 2024)."""
    shares = torch.from_numpy(beta_law.ppf(torch.linspace(1, 0, n, dtype=torch.float64).numpy(), 0.6, 0.6))
    return low + shares * (high - low)


SIGMA_SPACINGS: Mapping[str, SigmaSpacing] = {
    "use_karras_sigmas": karras,
    "use_exponential_sigmas": exponential,
    "use_beta_sigmas": beta,
    "use_lu_lambdas": exponential,
}


def sigma_spacing_of(config: Mapping[str, Any]) -> SigmaSpacing | None:
    """The spacing that a configuration asks for, None for none. Raises ValueError for two at once."""
    named = [name for name in SIGMA_SPACINGS if config.get(name)]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} were asked for: a schedule has one spacing of sigmas, take one")
    return SIGMA_SPACINGS[named[0]] if named else None


def is_falling(values: Sequence[float]) -> bool:
    return all(a > b for a, b in pairwise(values))


def without_final_zero(sigmas: list[float]) -> list[float]:
    """The sigmas without a final 0, the end of the last step. Raises ValueError for sigmas that do not fall."""
    levels = sigmas[:-1] if len(sigmas) > 1 and sigmas[-1] == 0 else sigmas
    if not levels or not is_falling(levels) or levels[-1] <= 0:
        raise ValueError(f"sigmas must fall, and only the last may be 0; found {sigmas[:5]} ...")
    return levels
