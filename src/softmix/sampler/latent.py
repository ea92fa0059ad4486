"""Images as a function of the Gaussian code of a stochastic sampler, and guidance by a walk in the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cond import Cond
from ..process import unframed
from ..rng import Rng
from ..shape import column
from .drive import drive, finish
from .invert import NoiseCode, replay

if TYPE_CHECKING:
    from ..denoiser import Denoiser

EnergyFunction = Callable[[Tensor], Tensor]


def decoded(
    denoiser: Denoiser,
    z: Tensor,
    grid: Tensor,
    eta: float = 1.0,
    cond: Cond | Tensor | None = None,
    latents: Rng | None = None,
) -> Tensor:
    """G(z): the image that the sampler makes of x_T = sigma_T z_0 and of the noises z_1, z_2, ... of its steps.

    denoiser : the model.
    z : white noise, [B, n, *shape]. The step to t = 0 has no noise.
    grid : falling times, [n + 1].
    eta : the share of fresh noise in a step, above 0 to 1.
    cond : the conditions, [B].
    latents : for posteriors without a mean, the rng of the items; by default of items 0, 1, ...

    Returns the images, [B, *shape]. They are differentiable in z, unless inside `torch.no_grad()`.
    """
    process = unframed(denoiser.process, "a code")
    start = column(process.sigma(grid[0]), z[:, 0]) * z[:, 0]
    noise = [*z[:, 1:].unbind(1), torch.zeros_like(start)]
    # a replay reads the first x of the path alone
    code = NoiseCode(grid, start[None], torch.stack(noise), eta, latents or Rng(0, len(z), "latents", z.device))
    wanted = torch.is_grad_enabled()
    return finish(drive(denoiser, replay(code, rest=False), start, grid, Rng(0, len(z)), cond, gradients=wanted))


def steered(
    denoiser: Denoiser,
    energy: EnergyFunction,
    shape: tuple[int, ...],
    grid: Tensor,
    rng: Rng,
    steps: int = 200,
    size: float = 0.05,
    eta: float = 1.0,
    cond: Cond | Tensor | None = None,
    look: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Draw images from p(z) exp(-E(G(z))): guidance by any function of the image.

    A Langevin walk in the code, with U = |z|^2 / 2 + E(G(z)):

        z^(0) ~ N(0, I)
        z^(k+1) = z^(k) - (h / 2) grad U(z^(k)) + sqrt(h) n^(k),   n^(k) ~ N(0, I)
        x = G(z^(steps))

    energy : E, from images [B, *shape] to [B]. With E = -log p(y | x) the images are from the posterior given y. A
        weight on E tempers it.
    shape : of one item.
    grid : the falling times of the sampler. Take few: every step of the walk runs the sampler forwards and back.
    steps : of the walk.
    size : h. It must be below 4 / the largest curvature of U. With E = 0 each number has variance 1 / (1 - h / 4), and
        the walk forgets its start in 2 / h steps.
    look : is called with the number of the step and the images.

    When to choose: if the guidance is a differentiable function of the image and no model was trained for it. It needs
    hundreds of runs of the sampler.
    Source: Wu & De la Torre, "Unifying diffusion models' latent space", 2022, section 3.4; the walk from their code.
    """
    n = len(grid) - 1
    z, latents = rng.normal((len(rng), n, *shape)), rng.child("latents")
    x = z[:, 0]
    for k in range(steps):
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            x = decoded(denoiser, z, grid, eta, cond, latents)
            (slope,) = torch.autograd.grad(energy(x).sum(), z)
        z = z.detach()
        z = z - (size / 2) * (z + slope) + size**0.5 * rng.normal(z.shape, z.dtype)
        if look is not None:
            look(k, x.detach())
    with torch.no_grad():
        return decoded(denoiser, z, grid, eta, cond, latents)
