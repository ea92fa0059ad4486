"""Weights of a squared error of x0 at each noise level.

All the usual losses are squared errors of x0 times a function of logsnr, because their targets are affine in x0 for a
given x_t. With snr = exp(logsnr) and r = alpha / sigma = exp(logsnr / 2):

    x0    1
    eps   snr                                     (the simple loss of DDPM)
    v     1 + snr                                 (for alpha^2 + sigma^2 = 1)
    flow  (1 + r)^2                               (for alpha + sigma = 1)
    edm   1 / sd^2 + snr, sd = 0.5                (Karras et al. 2022)
    min-snr  min(snr, 5)                          (Hang et al. 2023, gamma = 5)
    snr-half  r                                   (between x0 and eps, keeps the scale of every level similar)
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..denoiser.parameterise import CITES as OUTPUT_CITES
from ..process import Noised, TwoClocks
from ..shape import column

Weight = Literal["x0", "eps", "v", "flow", "edm", "min-snr", "snr-half"]
WEIGHTS: tuple[Weight, ...] = get_args(Weight)
# the papers of each weight
CITES: dict[str, tuple[str, ...]] = {**OUTPUT_CITES, "min-snr": ("min_snr",), "snr-half": ()}


def weight(name: Weight, logsnr: Tensor) -> Tensor:
    """The weight of a squared error of x0 at this logsnr, in the shape of logsnr.

    Raises ValueError for an unknown name.
    """
    if name == "x0":
        return torch.ones_like(logsnr)
    if name == "eps":
        return logsnr.exp()
    if name == "v":
        return 1 + logsnr.exp()
    if name == "flow":
        return (1 + (logsnr / 2).exp()) ** 2
    if name == "edm":
        return 4 + logsnr.exp()
    if name == "min-snr":
        return logsnr.exp().clamp(max=5)
    if name == "snr-half":
        return (logsnr / 2).exp()
    raise ValueError(f"the weight {name!r} was asked for; there are {', '.join(WEIGHTS)}")


def scaled(name: Weight, noised: Noised, difference: Tensor) -> tuple[Tensor, Tensor]:
    """The weight of each item, [B], and a difference of two x0, [..., B, *shape], with all other weights in it.

    With two clocks each signal has the weight of its own noise level. The root of it is a factor of the difference, and
    the weight of an item is 1.
    """
    if not isinstance(noised.process, TwoClocks):
        return weight(name, noised.logsnr.to(difference)), difference
    root = weight(name, noised.process.element_logsnr(noised.t)).sqrt()
    return difference.new_ones(len(noised.x0)), column(root, noised.x0) * difference
