"""Inversion: find the noise from which a sampler makes a given image, and replay it.

A step of a stochastic sampler is x_s = mean(x_t) + fresh z. So any path x_T, ..., x_0 that ends at the image gives a
code of the image: z = (x_s - mean(x_t)) / fresh. Two papers differ in the law of the path alone. Replayed with the same
model a code gives the image back. With another model, condition or noise it gives an edit of the image.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..posterior import HasMean, Posterior
from ..process import Gaussian
from ..rng import Rng
from ..shape import column
from .contract import Ask, Sampler, declare


@dataclass(frozen=True, eq=False)
class NoiseCode:
    """An image as the noise of a sampler.

    grid : falling times, [n + 1].
    path : x at each time but the last, [n, B, ...].
    noise : z of each step, [n, B, ...], in units of the fresh noise of the step. A step to t = 0 has none; its
        entry is the image minus the mean of the model, in units of the image.
    eta : the share of fresh noise in a step.
    latents : the rng of the draws, for posteriors without a mean.
    """

    grid: Tensor
    path: Tensor
    noise: Tensor
    eta: float
    latents: Rng

    def start(self, skip: int = 0) -> Tensor:
        """x at the beginning of a replay that leaves out the first `skip` steps."""
        return self.path[skip]

    def shifted(self, *by: int, fill: Rng | None = None) -> NoiseCode:
        """The code of the image shifted along its last axes, and round the edges.

        by : the number of places for each axis.
        fill : draw the noise of the entering region anew, as the sampler draws noise. The noise of a code is stronger
            than that. The image of its own region corrects for it, and a new image would not.
        """
        axes = tuple(range(-len(by), 0))
        path, noise = self.path.roll(by, axes), self.noise.roll(by, axes)
        if fill is not None:
            entered = _entered(self.path.shape[2:], by, path.device)
            new = torch.stack([fill.normal(path.shape[1:], path.dtype) for _ in range(len(path) + 1)]).to(path.device)
            # a step to t = 0 draws no noise
            drawn = torch.cat([new[1:-1], torch.zeros_like(new[-1:])]) if self.grid[-1] == 0 else new[1:]
            noise = torch.where(entered, drawn, noise)
            # x holds signal too, but for the first time
            path = torch.cat([torch.where(entered, _rms(path[:1]) * new[:1], path[:1]), path[1:]])
        return replace(self, path=path, noise=noise)

    def mixed(self, rng: Rng) -> NoiseCode:
        """New noise of the same strength in each step: the control. The first x of a replay stays."""
        new = torch.stack([rng.normal(self.noise.shape[1:], self.noise.dtype) for _ in self.noise])
        return replace(self, noise=_rms(self.noise) * new)


def _rms(noise: Tensor) -> Tensor:
    """The root mean square over the elements of each item and step. noise : [n, B, ...]."""
    return noise.square().mean(tuple(range(2, noise.ndim)), keepdim=True).sqrt()


def _entered(shape: tuple[int, ...] | torch.Size, by: tuple[int, ...], device: torch.device) -> Tensor:
    """The elements that a roll brought in over an edge, as booleans."""
    entered = torch.zeros(shape, dtype=torch.bool, device=device)
    for axis, step in zip(range(-len(by), 0), by, strict=True):
        place = torch.arange(shape[axis], device=device)
        over = place < step if step >= 0 else place >= shape[axis] + step
        entered |= over.reshape(-1, *[1] * (-axis - 1))
    return entered


@declare("edit-friendly", order=None, needs=Posterior, per_element=True, codes=True, cites=("edit_friendly",))
def edit_friendly(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, NoiseCode]:
    """The edit-friendly code of images x: every noisy copy is drawn independently.

        for t = 1 .. T:
            eps ~ N(0, I)
            x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
        for t = T .. 1:
            z_t = (x_{t-1} - mu_t(x_t)) / sigma_t
            x_{t-1} = mu_t(x_t) + sigma_t z_t               # against rounding errors
        return {x_T, z_T, ..., z_1}

    Its noise is not that of a sampler. It is stronger, E z^2 = (snr_s + snr_t) (1 / (snr_s - snr_t) + C) with C the
    variance of the posterior, and correlated by -1/2 from one step to the next. It carries the shape of the image, so
    that the shape survives an edit. One evaluation a step.
    When to choose: for edits that should keep the shape of the image.
    Source: Huberman-Spiegelglas, Kulikov & Michaeli, "An edit friendly DDPM noise space", CVPR 2024, algorithm 1.
    """
    path = [process.noise(x, float(t), rng).xt for t in grid[:-1]]
    return (yield from _encoded(process, x, grid, rng, eta, path))


@declare("dpm-encoder", order=None, needs=Posterior, per_element=True, codes=True, cites=("cycle_diffusion",))
def dpm_encoder(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, NoiseCode]:
    """The DPM-Encoder's code of images x: the noisy copies are drawn as a path, one after the other.

        x_T ~ q(x_T | x_0)
        for t = T .. 2:
            x_{t-1} ~ q(x_{t-1} | x_t, x_0)
        eps_t = (x_{t-1} - mu_T(x_t, t)) / sigma_t,   t = T .. 1
        z = x_T + eps_T + ... + eps_1                       # concatenated
        decode with another model D:  x_{t-1} = mu_D(x_t, t) + sigma_t eps_t     # CycleDiffusion, by `replay`

    For an exact model and eta = 1 the noise is white but for the variance C of the posterior: E z^2 = 1 + (snr_s -
    snr_t) C. With a small eta (CycleDiffusion takes 0.1) it is not white, and the law of the images of another model is
    wrong.
    When to choose: to translate an image from one model to another, with eta = 1.
    Source: Wu & De la Torre, "Unifying diffusion models' latent space", 2022, section 3.
    """
    path = [process.noise(x, float(grid[0]), rng).xt]
    for t, s in pairwise(grid[:-1]):
        path.append(process.bridge(path[-1], x, t, s, rng, eta=eta))
    return (yield from _encoded(process, x, grid, rng, eta, path))


def _encoded(
    process: Gaussian, x0: Tensor, grid: Tensor, rng: Rng, eta: float, path: list[Tensor]
) -> Generator[Ask, Posterior, NoiseCode]:
    if not 0 < eta <= 1:
        raise ValueError(f"eta = {eta} was asked for, and a step without fresh noise has no code: give 0 < eta <= 1")
    latents = rng.child("latents")
    noise = []
    path = [*path, x0]
    for i, (t, s) in enumerate(pairwise(grid)):
        posterior = yield Ask(t, path[i])
        mean, fresh = process.kernel(path[i], _clean(posterior, latents, i), t, s, eta)
        fresh = fresh if s > 0 else 1.0
        noise.append((path[i + 1] - mean) / fresh)
        # equal in exact arithmetic; in float32 the replay then has the very same numbers
        path[i + 1] = mean + fresh * noise[-1]
    return NoiseCode(grid, torch.stack(path[:-1]), torch.stack(noise), eta, latents)


def _clean(posterior: Posterior, latents: Rng, i: int) -> Tensor:
    """The mean; for a posterior without one, the draw that belongs to step i."""
    if isinstance(posterior, HasMean):
        return posterior.mean
    return posterior.sample(latents.child(str(i)))


@dataclass(frozen=True)
class ColourEdit:
    """Move the image towards a colour during a replay: z + strength mask (colour - m), m the mean on [0, 1].

    colour : in [0, 1], of a shape that multiplies with an image [C, H, W].
    mask : the region, of such a shape too.
    strength : in each step.
    low, high : the interval of logsnr in which it acts.

    Source: the authors' description of colour edits with edit-friendly codes.
    """

    colour: Tensor
    mask: Tensor
    strength: float = 0.1
    low: float = -6.0
    high: float = 4.0

    def __call__(self, noise: Tensor, mean: Tensor, logsnr: float) -> Tensor:
        if not self.low <= logsnr <= self.high:
            return noise
        return noise + self.strength * self.mask.to(mean) * (self.colour.to(mean) - (mean + 1) / 2)


def replay(code: NoiseCode, skip: int = 0, colour_edit: ColourEdit | None = None, rest: bool = True) -> Sampler:
    """A sampler that takes its noise from a code and draws none.

    Run it from `code.start(skip)` on `code.grid[skip:]`: with the model of the code for the image itself, with another
    model for an edit (for a code of `dpm_encoder` this is CycleDiffusion).

    skip : the number of the noisiest steps that are left out. With more of them the result is nearer to the image.
    colour_edit : changes the noise of each step.
    rest : add the last entry of the code in a step to t = 0: the image minus the mean of the first model.

    Raises ValueError, when it runs, for other times than those of the code.
    """

    return partial(_replay, code=code, skip=skip, colour_edit=colour_edit, rest=rest)


@declare("replay", order=None, needs=Posterior, per_element=True, codes=True)
def _replay(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    code: NoiseCode,
    skip: int,
    colour_edit: ColourEdit | None,
    rest: bool,
) -> Generator[Ask, Posterior, Tensor]:
    if not torch.equal(grid, code.grid[skip:]):
        raise ValueError(
            f"a code of {len(code.noise)} steps is replayed on its own times, from the {skip}th on, and "
            f"{len(grid) - 1} steps were given: take grid=code.grid[{skip}:]"
        )
    for i, (t, s) in enumerate(pairwise(grid), start=skip):
        x0 = _clean((yield Ask(t, x)), code.latents, i)
        mean, fresh = process.kernel(x, x0, t, s, code.eta)
        noise = code.noise[i]
        if colour_edit is not None and s > 0:
            noise = colour_edit(noise, x0, float(process.logsnr(t)))
        x = mean + fresh * noise if s > 0 else mean + noise if rest else mean
    return x


@declare("ddim-inversion", order=1, needs=Posterior, per_element=True, codes=True, cites=("ddim",))
def ddim_inversion(process: Gaussian, x: Tensor, grid: Tensor, rng: Rng) -> Generator[Ask, Posterior, Tensor]:
    """Run the steps of `ddim` backwards: x at grid[0] from which `ddim` leads near the images x.

        x_s = (sigma_s / sigma_t) x_t + (alpha_s - alpha_t sigma_s / sigma_t) mean(x_t),   t < s,

    each step with the mean at its beginning. grid falls, as for any sampler.

    It is of first order, and its error grows with guidance. Editing used it before there were codes.
    When to choose: as a baseline; a code gives the image back more exactly.
    Source: Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, section 4.3.
    """
    clean = x
    for t, s in pairwise(grid.flip(0).tolist()):
        if t == 0:
            # a denoiser says nothing of a clean image, so that the first step takes the mean at its end
            alpha = column(process.alpha(s), clean)
            x = alpha * clean
            mean = _clean((yield Ask(grid.new_tensor(s), x)), rng, 0)
            x = x + alpha * (clean - mean)
            continue
        x = process.transfer(x, _clean((yield Ask(grid.new_tensor(t), x)), rng, 0), t, s)
    return x
