"""A Gaussian with the moments of the data: the reference of likelihoods by errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cond import Cond
from ..posterior import Point
from ..process import Gaussian
from ..shape import column


@dataclass(frozen=True, eq=False)
class GaussianReference:
    """N(mean, U diag(l) U^T), flattened items, float64.

    mean : [D].
    variances : l, [D], above 0.
    vectors : U, [D, D], with the axes as columns.

    Its density and its errors at every noise level are known. Likelihoods by errors are differences from it, so that
    most of their variance cancels, and so do the ends of the integral.
    """

    mean: Tensor
    variances: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> GaussianReference:
        """Raises ValueError for a covariance with a variance of 0."""
        variances, vectors = torch.linalg.eigh(covariance.double())
        if not float(variances[0]) > 0:
            raise ValueError(
                f"the least variance of the data is {float(variances[0]):.2g}, and the density of such data is "
                "infinite: give `fit` a floor"
            )
        return cls(mean.double(), variances, vectors)

    @classmethod
    def fit(cls, x0: Tensor, floor: float = 0.0) -> GaussianReference:
        """The moments of items [N, ...]. floor : the least variance along an axis."""
        flat = x0.flatten(1).double()
        variances, vectors = torch.linalg.eigh(torch.cov(flat.T).reshape(flat.shape[1], -1))
        return cls.of(flat.mean(0), vectors @ (variances.clamp(min=floor)[:, None] * vectors.T))

    def to(self, device: torch.device | str) -> GaussianReference:
        return GaussianReference(*(part.to(device) for part in (self.mean, self.variances, self.vectors)))

    def _turned(self, x: Tensor) -> Tensor:
        """The coordinates of x - mean along the axes, float64 [B, D]."""
        return (x.flatten(1).double() - self.mean) @ self.vectors

    @property
    def entropy(self) -> float:
        """(D / 2) log(2 pi e) + (1 / 2) sum log l, in nats."""
        return len(self.mean) / 2 * math.log(2 * math.pi * math.e) + float(self.variances.log().sum()) / 2

    def nats(self, x0: Tensor) -> Tensor:
        """-log N(x0), float64 [B]."""
        distance = (self._turned(x0).square() / self.variances).sum(1)
        return (distance + self.variances.log().sum()) / 2 + len(self.mean) / 2 * math.log(2 * math.pi)

    def denoise(self, y: Tensor, logsnr: Tensor) -> Tensor:
        """E[x0 | y] for y = x0 + noise of variance e^-logsnr, in the shape of y, float64. logsnr : [B]."""
        gain = self.variances / (self.variances + (-logsnr.double())[:, None].exp())
        return (self.mean + (self._turned(y) * gain) @ self.vectors.T).reshape(y.shape)

    def denoiser(self, process: Gaussian) -> GaussianModel:
        """The model that knows this law alone, for a process with one alpha and one sigma."""
        return GaussianModel(self, process)

    def head_nats(self, x0: Tensor, snr: float) -> Tensor:
        """(1 / 2) int_0^snr E|x0 - denoised|^2 d gamma of each item, float64 [B].

            (1 / 2) sum_i [ log(1 + snr l_i) + (c_i^2 - l_i) snr / (1 + snr l_i) ],   c the coordinates of x0 - mean

        Its mean over data with these moments is (1 / 2) sum_i log(1 + snr l_i).
        """
        total = 1 + snr * self.variances
        off = self._turned(x0).square() - self.variances
        return (total.log() + off * snr / total).sum(1) / 2


@dataclass(frozen=True, eq=False)
class GaussianModel:
    """E[x0 | x_t] of a Gaussian law, in float64. It reads no condition: every condition leaves the law as it is."""

    reference: GaussianReference
    process: Gaussian

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Point:
        times = torch.as_tensor(t, dtype=torch.float64, device=xt.device).expand(len(xt))
        y = xt.double() / column(self.process.alpha(times), xt.double())
        return Point(self.reference.to(xt.device).denoise(y, self.process.logsnr(times).to(xt.device)))
