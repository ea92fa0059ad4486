"""A variance-preserving process from the table of a discrete model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .gaussian import Gaussian
from .numbers import as_float64

# the smallest alpha^2 of the clock, so that logsnr stays finite for a schedule that ends at no signal
SMALLEST = 2.0**-24


class Table(Gaussian):
    """alpha^2 = alphas_cumprod[k], sigma^2 = 1 - alpha^2 at t = (k + 1) / T, clean at t = 0; T = len(alphas_cumprod).

    Between the integer times sigma / alpha is linear in t. The table is used as given, in float32 if the model was
    trained with that. It may end at 0, that is, at no signal (zero terminal SNR).

    alphas_cumprod : [T], falling, below 1 and not below 0. Raises ValueError otherwise.

    When to choose: for a model that was trained on integer times with a table of betas.
    """

    def __init__(self, alphas_cumprod: Tensor):
        table = alphas_cumprod.detach().cpu().double()
        if table.ndim != 1 or not len(table) or not (table[0] < 1 and table[-1] >= 0 and (table.diff() < 0).all()):
            raise ValueError(
                "a table holds alpha^2 by integer time, [T], falling, below 1 and not below 0; found shape "
                f"{list(table.shape)} with {[round(float(k), 4) for k in table.flatten()[:4]]} ..."
            )
        self.steps, self.alphas_cumprod = len(table), table
        # alpha^2 at t = 0, 1 / T, ..., 1
        self._squares = torch.cat([table.new_ones(1), table])
        self.ratio = ((1 - self._squares) / self._squares.clamp(min=SMALLEST)).sqrt()
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """alpha^2 and sigma / alpha at the integer times, copied once to each device: a solver asks at each step."""
        if device not in self._copies:
            real = torch.float32 if device.type == "mps" else torch.float64
            self._copies[device] = self._squares.to(device, real), self.ratio.to(device, real)
        return self._copies[device]

    @classmethod
    def of_betas(cls, betas: Tensor) -> Table:
        """From the variance that each step adds, [T]."""
        return cls((1 - betas).cumprod(0))

    def __repr__(self) -> str:
        return (
            f"Table({self.steps} steps, alpha^2 from {float(self._squares[1]):.5g} to {float(self._squares[-1]):.3g})"
        )

    def alpha(self, t: Tensor | float) -> Tensor:
        return self._share(as_float64(t)).sqrt()

    def sigma(self, t: Tensor | float) -> Tensor:
        return (1 - self._share(as_float64(t))).sqrt()

    def logsnr(self, t: Tensor | float) -> Tensor:
        share = self._share(as_float64(t))
        return share.clamp(min=SMALLEST).log() - (1 - share).log()

    def rates(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """From the polynomial through alpha^2 at the five integer times around t.

        The slope of `alpha` itself is that of one segment, which lies half a step to one side of an integer time. This
        would cost a solver its order.
        """
        place = (as_float64(t) * self.steps).clamp(0, self.steps)
        points = min(5, self.steps + 1)
        first = (place.round().long() - points // 2).clamp(0, self.steps + 1 - points)
        nodes = torch.arange(points, device=place.device)
        squares = self._on(place.device)[0][first[..., None] + nodes]
        slope = (squares * _slopes(place - first, points)).sum(-1) * self.steps
        return slope / (2 * self.alpha(t)), -slope / (2 * self.sigma(t))

    def time(self, logsnr: Tensor | float) -> Tensor:
        ratio = (-as_float64(logsnr) / 2).exp()
        ratios = self._on(ratio.device)[1]
        upper = torch.searchsorted(ratios, ratio.contiguous()).clamp(1, self.steps)
        share = (ratio - ratios[upper - 1]) / (ratios[upper] - ratios[upper - 1])
        return (upper - 1 + share.clamp(0, 1)) / self.steps

    def _share(self, t: Tensor) -> Tensor:
        """alpha^2. At the integer times it is exactly the number of the table, with the slope of the line."""
        place = (t * self.steps).clamp(0, self.steps)
        near = place.round()
        low = place.floor().clamp(max=self.steps - 1).long()
        squares, ratios = self._on(t.device)
        line = 1 / (1 + torch.lerp(ratios[low], ratios[low + 1], place - low) ** 2)
        return torch.where((place - near).abs() < 1e-9, squares[near.long()] + (line - line.detach()), line)


def _slopes(place: Tensor, points: int) -> Tensor:
    """Slopes [..., points] at `place` of the Lagrange polynomials of the nodes 0, 1, ..., points - 1."""
    slopes: list[Tensor] = []
    for k in range(points):
        others = [node for node in range(points) if node != k]
        terms = [math.prod([place - b for b in others if b != a], start=torch.ones_like(place)) for a in others]
        slopes.append(torch.stack(terms).sum(0) / math.prod(k - b for b in others))
    return torch.stack(slopes, -1)
