"""Measured elements put in the place of the sampler's own."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior, need
from ..process import Gaussian
from ..rng import Rng
from ..sampler import Ask, Sampler


def replacing(y: Tensor, seen: Tensor) -> Sampler:
    """Ancestral steps whose measured elements [D] are then replaced by the measurement, noised to the same level.

    x_s <- (1 - P) x_s + P (alpha_s y + sigma_s z): the projection is no expansion, which the paper's bound needs.
    y : [B, *shape] or one item; seen : booleans, in the shape of an item. Elements that are not seen keep the law that
    their own steps have: the replacement does not condition them exactly.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", appendix I.2;
    Chung et al., "Come-Closer-Diffuse-Faster", section 4. Choose it for a measurement of elements without noise.
    """

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        for t, s in pairwise(grid):
            posterior = need((yield Ask(t, x)), HasMean, "replacing")
            x = process.bridge(x, posterior.mean, t, s, rng)
            known = process.noise(y, float(s), rng).xt if s > 0 else y
            x = torch.where(seen, known, x)
        return x

    return sampler
