"""The information plane of a diffusion: what each noise level knows of the data and of a label, in three ways."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..denoiser import ExactData
from ..info import EvenLevels, PlanePoint, at_levels, noisy_information
from ..oracle import SpherePatterns
from ..process import VP
from ..rng import Rng

F64 = torch.float64


@dataclass(frozen=True)
class ChannelPlane:
    """I(X_0; X_t) and I(Y; X_t) at each logsnr, in bits, [N]: by the integral of errors, and the direct values.

    exact : I(X_0; X_t) by quadrature, of as many independent signs as an item has elements.
    """

    logsnr: Tensor
    by_errors: tuple[Tensor, Tensor]
    direct: list[PlanePoint]
    exact: Tensor


def channel_plane(task: SpherePatterns, seed: int, items: int, levels: int, draws: int) -> ChannelPlane:
    """The plane at nine levels, by an integral over `levels` levels between two of them with `items` patterns at each:

        I(X_0; X_t) = (1 / 2) int_(-inf)^a snr E Var(x_0 | x_t) da
        I(Y; X_t) = (1 / 2) int_(-inf)^a snr E|m(x_t, y) - m(x_t)|^2 da

    The second is the difference of the errors without and with the label. Both are means of the exact posterior over
    the patterns, which vary less than squared errors.
    task : with all patterns of its bits.
    draws : of the noise of each pattern, for the direct values.
    """
    process, points = VP(), 2 * task.bits - 1
    denoiser = ExactData(process, points)
    rows = Rng(seed, items, "items").integers(len(points), (items, 1))[:, 0]
    # the integral begins at -10.5, where the noise level knows less than 0.0003 bits
    first, step, count = -10.5, 1.5, 11
    sums = torch.zeros(count * levels, 2, dtype=F64)
    wanted = EvenLevels(first, first + step * count)
    for at in at_levels(process, points[rows], Rng(seed, items, "noise"), wanted, count * levels):
        posterior = denoiser(at.noised.xt, at.noised.t)
        shares, mean = posterior.log_weights.exp(), posterior.mean
        of_y = shares @ task.given
        # a label that a pattern excludes adds 0
        told = [(shares * given) @ points / (shares @ given).clamp(min=1e-300)[:, None] for given in task.given.T]
        gain = torch.stack([(each - mean).square().sum(1) for each in told], 1)
        values = torch.stack([posterior.var.sum(1), (of_y * gain).sum(1)], 1)
        sums[int((at.logsnr - first) / step * levels)] += at.weight * at.snr * values.sum(0) / items
    running = (sums.cumsum(0)[levels - 1 :: levels] / (2 * math.log(2)))[2:]
    logsnr = first + step * torch.arange(3, count + 1, dtype=F64)
    direct = []
    for level in logsnr.tolist():
        alpha, sigma = (float(part) for part in process.levels(process.time(level)))
        each = Rng(seed, len(points), f"direct {level}")
        direct.append(noisy_information(alpha * points, task.given, sigma, each, draws))
    exact = torch.stack([points.shape[1] * of_a_sign(level) for level in logsnr.tolist()])
    return ChannelPlane(logsnr, (running[:, 0], running[:, 1]), direct, exact)


def of_a_sign(logsnr: float, nodes: int = 200) -> Tensor:
    """I(X_0; X_t) of one sign with even chances, in bits: 1 - E log2( 1 + exp(-2 snr - 2 sqrt(snr) e) ), by the
    quadrature of Gauss and Hermite."""
    place, weight = np.polynomial.hermite_e.hermegauss(nodes)
    snr = math.exp(logsnr)
    logs = torch.nn.functional.softplus(-2 * snr - 2 * math.sqrt(snr) * torch.from_numpy(place))
    return 1 - (logs * torch.from_numpy(weight / weight.sum())).sum() / math.log(2)
