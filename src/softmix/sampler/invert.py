"""Inversion. The noise that a stochastic sampler would have made an image from, and replaying it.

A step of the sampler is x_s = mean(x_t) + fresh z, so that any path x_T, ..., x_0 that ends at the image is a code for
it: z = (x_s - mean(x_t)) / fresh. How the path is drawn is all that two papers differ in. Replayed with the model that
it was made with, a code gives the image back; with another model, condition or noise, an edit of it.
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
class Code:
    """x0 as noise. grid [n + 1], falling times; path [n, B, ...], x at each of them but the last; noise [n, B, ...],
    the z of each step, in units of the step's own fresh noise. A step to t = 0 has none: there it is what the model's
    mean misses of the image, in the image's units. latents : draws of beliefs without a mean."""

    grid: Tensor
    path: Tensor
    noise: Tensor
    eta: float
    latents: Rng

    def start(self, skip: int = 0) -> Tensor:
        """x where a replay that leaves out the first `skip` steps begins."""
        return self.path[skip]

    def shifted(self, *by: int, fill: Rng | None = None) -> Code:
        """The code of the image moved by so many places along its last axes, round the edge.

        fill : what came round the edge is made up anew, by noise as the sampler itself draws it. (The code's own is
        stronger, and bearable only for what it was made with: new noise of its strength is seen as noise.)
        """
        axes = tuple(range(-len(by), 0))
        path, noise = self.path.roll(by, axes), self.noise.roll(by, axes)
        if fill is not None:
            came = _came(self.path.shape[2:], by).to(path.device)
            new = torch.stack([fill.normal(path.shape[1:], path.dtype) for _ in range(len(path) + 1)]).to(path.device)
            # a step to t = 0 draws nothing
            drawn = torch.cat([new[1:-1], torch.zeros_like(new[-1:])]) if self.grid[-1] == 0 else new[1:]
            noise = torch.where(came, drawn, noise)
            # x is signal and noise: only at the beginning is it all noise
            path = torch.cat([torch.where(came, _strong(path[:1]) * new[:1], path[:1]), path[1:]])
        return replace(self, path=path, noise=noise)

    def mixed(self, rng: Rng) -> Code:
        """As much noise at each step, drawn anew: the control. Of the image x has what it has where a replay begins."""
        new = torch.stack([rng.normal(self.noise.shape[1:], self.noise.dtype) for _ in self.noise])
        return replace(self, noise=_strong(self.noise) * new)


def _strong(noise: Tensor) -> Tensor:
    """The size of each item's noise [n, B, ...] in each step."""
    return noise.square().mean(tuple(range(2, noise.ndim)), keepdim=True).sqrt()


def _came(shape: tuple[int, ...] | torch.Size, by: tuple[int, ...]) -> Tensor:
    """Where what is there after a roll came round the edge."""
    found = torch.zeros(shape, dtype=torch.bool)
    for axis, step in zip(range(-len(by), 0), by, strict=True):
        place = torch.arange(shape[axis])
        over = place < step if step >= 0 else place >= shape[axis] + step
        found |= over.reshape(-1, *[1] * (-axis - 1))
    return found


@declare("edit-friendly", order=None, needs=Posterior, per_element=True, codes=True, cites=("edit_friendly",))
def edit_friendly(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, Code]:
    """The code of images x, with every noisy copy drawn on its own: x_t = alpha_t x0 + sigma_t z_t for each time.

    Its noise is no sampler's: stronger, E z^2 = (snr_s + snr_t) (1 / (snr_s - snr_t) + C) where C is what the model
    does not know of x0, and correlated by -1/2 from one step to the next; it carries the image's shape, which is why
    it survives an edit. One evaluation a step.
    Source: Huberman-Spiegelglas, Kulikov & Michaeli, "An edit friendly DDPM noise space", CVPR 2024, algorithm 1.
    """
    path = [process.noise(x, float(t), rng).xt for t in grid[:-1]]
    return (yield from _encoded(process, x, grid, rng, eta, path))


@declare("dpm-encoder", order=None, needs=Posterior, per_element=True, codes=True, cites=("cycle_diffusion",))
def dpm_encoder(
    process: Gaussian, x: Tensor, grid: Tensor, rng: Rng, eta: float = 1.0
) -> Generator[Ask, Posterior, Code]:
    """The code of images x, with the noisy copies drawn as a path: x_s ~ q(x_s | x_t, x0), one after the other.

    For an exact model and eta = 1 its noise is white but for what the model does not know, E z^2 = 1 + (snr_s -
    snr_t) C. With a small eta (CycleDiffusion takes 0.1) it is not, and the law of what another model makes of it is
    wrong.
    Source: Wu & De la Torre, "Unifying diffusion models' latent space", 2022, section 3.
    """
    path = [process.noise(x, float(grid[0]), rng).xt]
    for t, s in pairwise(grid[:-1]):
        path.append(process.bridge(path[-1], x, t, s, rng, eta=eta))
    return (yield from _encoded(process, x, grid, rng, eta, path))


def _encoded(
    process: Gaussian, x0: Tensor, grid: Tensor, rng: Rng, eta: float, path: list[Tensor]
) -> Generator[Ask, Posterior, Code]:
    if not 0 < eta <= 1:
        raise ValueError(
            f"eta = {eta} was asked for; without fresh noise a step leaves nothing to code: give 0 < eta <= 1"
        )
    latents = rng.child("latents")
    noise = []
    path = [*path, x0]
    for i, (t, s) in enumerate(pairwise(grid)):
        posterior = yield Ask(t, path[i])
        mean, fresh = process.kernel(path[i], _clean(posterior, latents, i), t, s, eta)
        fresh = fresh if s > 0 else 1.0
        noise.append((path[i + 1] - mean) / fresh)
        # in exact arithmetic the same; in float32 the replay then goes through the very same numbers
        path[i + 1] = mean + fresh * noise[-1]
    return Code(grid, torch.stack(path[:-1]), torch.stack(noise), eta, latents)


def _clean(posterior: Posterior, latents: Rng, i: int) -> Tensor:
    """The mean; of a belief that is only drawn from, the draw that belongs to this step."""
    if isinstance(posterior, HasMean):
        return posterior.mean
    return posterior.sample(latents.child(str(i)))


@dataclass(frozen=True)
class ColourEdit:
    """Draws the picture towards a colour while it is replayed: z + strength mask (colour - m), m the mean on [0, 1].

    colour, mask : what multiplies with an image [C, H, W]; colour in [0, 1]. strength : of each step. low, high : the
    logsnr between which it acts.
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


def replay(code: Code, skip: int = 0, colour_edit: ColourEdit | None = None, rest: bool = True) -> Sampler:
    """A sampler that takes its noise from a code, and nothing from the rng that it is given.

    To be driven from `code.start(skip)` on `code.grid[skip:]`, with the model of the code for the image itself, or
    with another for an edit (CycleDiffusion where the code is dpm_encoder's). skip : how many of the noisiest steps
    are left out; the more, the nearer to the image. rest : the last step to t = 0 adds what the first model missed.
    """

    return partial(_replay, code=code, skip=skip, colour_edit=colour_edit, rest=rest)


@declare("replay", order=None, needs=Posterior, per_element=True, codes=True)
def _replay(
    process: Gaussian,
    x: Tensor,
    grid: Tensor,
    rng: Rng,
    code: Code,
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
    """x at grid[0] that `ddim` would lead near the images x from: its steps taken backwards, each with the mean
    before it.

    grid falls, as for any sampler. What editing was done with before codes; its error is of first order, and grows
    with guidance.
    Source: Song, Meng & Ermon, "Denoising diffusion implicit models", ICLR 2021, section 4.3.
    """
    clean = x
    for t, s in pairwise(grid.flip(0).tolist()):
        if t == 0:
            # nothing is said of a clean image: the first step stands at its end
            alpha = column(process.alpha(s), clean)
            x = alpha * clean
            mean = _clean((yield Ask(grid.new_tensor(s), x)), rng, 0)
            x = x + alpha * (clean - mean)
            continue
        x = process.transfer(x, _clean((yield Ask(grid.new_tensor(t), x)), rng, 0), t, s)
    return x
