"""The Gaussian code of a stochastic sampler as what is looked for."""

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
from .invert import Code, replay

if TYPE_CHECKING:
    from ..denoiser import Denoiser

Energy = Callable[[Tensor], Tensor]


def decoded(
    denoiser: Denoiser,
    z: Tensor,
    grid: Tensor,
    eta: float = 1.0,
    cond: Cond | Tensor | None = None,
    latents: Rng | None = None,
) -> Tensor:
    """G(z): the image that the sampler makes of x_T = sigma_T z_0 and the noises z_1, z_2, ... of its steps.

    z [B, n, *shape], white; the step to t = 0 has no noise. Differentiable in z, unless within `torch.no_grad()`.
    latents : for beliefs without a mean, the rng of the items; by default of items 0, 1, ...
    """
    process = unframed(denoiser.process, "a code")
    start = column(process.sigma(grid[0]), z[:, 0]) * z[:, 0]
    noise = [*z[:, 1:].unbind(1), torch.zeros_like(start)]
    # only where a replay begins is looked at, and it begins at the beginning
    code = Code(grid, start[None], torch.stack(noise), eta, latents or Rng(0, len(z), "latents", z.device))
    wanted = torch.is_grad_enabled()
    return finish(drive(denoiser, replay(code, rest=False), start, grid, Rng(0, len(z)), cond, gradients=wanted))


def steered(
    denoiser: Denoiser,
    energy: Energy,
    shape: tuple[int, ...],
    grid: Tensor,
    rng: Rng,
    steps: int = 200,
    size: float = 0.05,
    eta: float = 1.0,
    cond: Cond | Tensor | None = None,
    look: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Images from p(z) exp(-E(G(z))): guidance by any function of the image, without a word to the sampler.

    Langevin's walk in the code, z <- z - (h / 2) grad U + sqrt(h) n with U = |z|^2 / 2 + E(G(z)), for `steps` steps of
    size h. energy : images [B, *shape] -> one number each; with E = -log p(y | x) the images are from the posterior
    given y, and any weight on E tempers it. The walk needs h below 4 / the steepest curvature of U; with E = 0 each
    number has variance 1 / (1 - h / 4) and forgets in 2 / h steps. Every step runs the whole sampler forwards and
    back: take a grid of few steps. look : sees the number of the step and the images.
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
