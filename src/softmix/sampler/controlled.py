"""The controlled chain of a denoising diffusion sampler, and the weight of its path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import density_slope
from ..process import StationaryOU, reference_step
from ..rng import Rng
from .weighted import LogDensity, log_normal

# (y, t, grad log gamma(y)) -> u, [B, *shape]
ControlFunction = Callable[[Tensor, float, Tensor], Tensor]
# (u, y, z) -> [B]
NoiseTerm = Callable[[Tensor, Tensor, Tensor], Tensor]


def controlled_path(
    control: ControlFunction,
    log_density: LogDensity,
    process: StationaryOU,
    shape: tuple[int, ...],
    grid: Sequence[float],
    rng: Rng,
    noise_term: NoiseTerm | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The end of each path, and the log of its weight.

        y_0 ~ N(0, s^2 I),   y_{k+1} = sqrt(1 - b_k^2) y_k + b_k^2 u(y_k, t_k) + s b_k z_k,   z_k ~ N(0, I)

        log w = log gamma(y_K) - log N(y_K; 0, s^2 I) - sum_k (b_k^2 |u|^2 / (2 s^2) + b_k u . z_k / s)

    w is the density of the path of the noised target, from its end y_K, over that of the controlled chain, times Z. So
    E[w] = Z for every control and every grid, and -E[log w] = KL - log Z is the loss of the sampler.

    control : u, from y, t and grad log gamma(y).
    log_density : log gamma, [B, *shape] -> [B].
    process : the reference chain, with b_k by `reference_step` and s its `scale`.
    shape : of one item.
    grid : K + 1 falling times. The first one is 1, and the last one is 0.
    rng : one stream for each path.
    noise_term : (u, y, z) -> u . z of each item, with the derivatives that it is to have. By default all of them;
        `with_fixed_parameters` has the same mean gradient, and less noise near the best control.

    Returns y_K [B, *shape] and log w [B]. Both have derivatives if the control has.
    Raises ValueError for another grid.
    Source: Vargas, Grathwohl & Doucet, "Denoising diffusion samplers", ICLR 2023, sections 3 and 4.
    """
    times = [float(t) for t in grid]
    if len(times) < 2 or times[0] != 1 or times[-1] != 0:
        raise ValueError(f"the times of a path fall from 1 to 0; found {times[:4]}")
    scale = process.scale
    y = scale * rng.normal((len(rng), *shape), dtype)
    cost = y.new_zeros(len(y))
    for t, s in pairwise(times):
        keep, fresh = reference_step(process, t, s)
        slope = density_slope(log_density, y)
        u, z = control(y, t, slope), rng.normal(y.shape, y.dtype)
        work = _inner(u, z) if noise_term is None else noise_term(u, y, z)
        cost = cost + (fresh / scale) ** 2 / 2 * _inner(u, u) + fresh / scale * work
        y = keep * y + fresh**2 * u + scale * fresh * z
    return y, log_density(y) - log_normal(y, scale) - cost


def with_fixed_parameters(u: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """u . z of each item, with the derivative by y alone: the parameters of the control count as fixed ("sticking the
    landing").

    u : the control at y, [B, ...], with a graph.

    z is independent of u and y, so that the derivatives that are left out have the mean 0. With the best control and
    small steps log w is the same for all paths, and the rest of its gradient then vanishes for each path alone.

    Source: Roeder, Wu & Duvenaud, "Sticking the landing", NeurIPS 2017.
    """
    value = _inner(u, z).detach()
    if not (u.requires_grad and y.requires_grad):
        return value
    # (du/dy)^T z, a constant: its product with y has the derivative that is wanted
    (along,) = torch.autograd.grad(u, y, z, retain_graph=True, allow_unused=True)
    return value if along is None else value + _inner(along, y - y.detach())


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def path_grid(process: StationaryOU, steps: int) -> tuple[float, ...]:
    """The times of a path of so many steps: uniform, from 1 to 0.

    With the cosine schedule they are dense around logsnr = 0, and b_k falls to 0 at the end, as in the paper.
    """
    return tuple(process.grid(steps).tolist())
