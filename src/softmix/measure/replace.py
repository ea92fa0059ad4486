"""A sampler that replaces elements by measured ones."""

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
    """An ancestral step, after which the measured elements are replaced by the measurement, noised to the same level:

        x_s <- (1 - P) x_s + P (alpha_s y + sigma_s z),    P = 1 for a measured element, else 0.

    y    : the measurement in the shape of x, [B, *shape] or one item. Other elements of y are ignored.
    seen : True for the measured elements, booleans in the shape of an item.

    The projection does not expand distances, as the bound of CCDF requires. The other elements are not conditioned
    exactly: y pulls them less far than Bayes' rule says.

    Source: Song et al., "Score-based generative modeling through stochastic differential equations", ICLR 2021,
    appendix I.2; Chung et al., "Come-Closer-Diffuse-Faster", CVPR 2022, section 4.
    Choose it for a measurement of elements without noise.
    """

    def sampler(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
        for t, s in pairwise(grid):
            posterior = need((yield Ask(t, x)), HasMean, "replacing")
            x = process.bridge(x, posterior.mean, t, s, rng)
            known = process.noise(y, float(s), rng).xt if s > 0 else y
            x = torch.where(seen, known, x)
        return x

    return sampler
