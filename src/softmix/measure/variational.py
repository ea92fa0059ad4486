"""RED-diff: a point for x0 given y, by stochastic gradient descent on a misfit and a regulariser by denoising."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Denoiser
from ..denoiser.tuned import require_untuned
from ..posterior import HasMean, Point, need
from ..process import Gaussian, one_clock, require_independent
from ..rng import Rng
from ..shape import column, take
from .misfit import Misfit
from .streams import streams_of_parts

# the weight of the regulariser at a noise level, from r = sigma / alpha
NoiseWeight = Callable[[Tensor], Tensor]

WEIGHT_FORMS: Mapping[str, NoiseWeight] = MappingProxyType(
    {
        "linear": lambda r: r,
        "sqrt": torch.sqrt,
        "square": torch.square,
        "log": torch.log1p,
        "clipped": lambda r: r.clamp(max=1),
        "two thirds": lambda r: r ** (2 / 3),
        "const": torch.ones_like,
    }
)
Order = Literal["descending", "random"]


@dataclass(frozen=True)
class RedDiff:
    """The settings of `red_diff`. The defaults are those of the authors.

    steps : evaluations of the denoiser.
    weight : of the regulariser at r = sigma / alpha: a name of `WEIGHT_FORMS` or a function of r.
    size : a factor of the weight.
    order : "descending" walks the noise levels once, from much noise to little, as the paper does. "random" draws one
        for each item and step: only then is it gradient descent on one objective, with a fixed point.
    rate, betas : of Adam.
    sd : of the variational law N(mu, sd^2 I), chosen and not learned; 0 in the authors' code.
    logsnr : the range of noise levels, even in t between its ends. At logsnr -10 r is 148, as at the end of DDPM's
        schedule; the weight "linear" then has gradients of that size.
    average : the share of the last steps over which mu is averaged, 0 to 1; 0, as in the paper, takes the last mu. The
        noise of the gradients does not end, so that with the order "random" an average is nearer to the fixed point.
    repulsion : of `red_diff_particles`, at least 0.

    Raises ValueError for other numbers and names.
    """

    cites: ClassVar[tuple[str, ...]] = ("red_diff",)
    steps: int = 1000
    weight: str | NoiseWeight = "linear"
    size: float = 0.25
    order: Order = "descending"
    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    sd: float = 0.0
    logsnr: tuple[float, float] = (-10.0, 9.2)
    average: float = 0.0
    repulsion: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.weight, str) and self.weight not in WEIGHT_FORMS:
            raise ValueError(f"the weight {self.weight!r} was asked for; there are {', '.join(WEIGHT_FORMS)}")
        if self.order not in ("descending", "random"):
            raise ValueError(f"the order {self.order!r} was asked for; there are descending and random")
        if self.steps < 1 or not self.rate > 0 or not self.logsnr[0] < self.logsnr[1]:
            raise ValueError(
                f"steps = {self.steps}, rate = {self.rate} and logsnr = {self.logsnr} were given; at least one step, a "
                "rate above 0, and a lower and an upper end are needed"
            )
        if min(self.sd, self.size, self.repulsion) < 0 or not 0 <= self.average <= 1:
            raise ValueError(
                f"sd = {self.sd}, size = {self.size}, repulsion = {self.repulsion} and average = {self.average} were "
                "given; none may be below 0, and the average is a share, at most 1"
            )

    def ends(self, process: Gaussian) -> tuple[float, float]:
        """The first and the last time of the descending order."""
        low, high = (float(process.time(level)) for level in self.logsnr)
        return min(low, 1.0), high

    def weight_of(self, r: Tensor) -> Tensor:
        """The weight of the regulariser at r = sigma / alpha."""
        form = WEIGHT_FORMS[self.weight] if isinstance(self.weight, str) else self.weight
        return self.size * form(r)


@dataclass(frozen=True, eq=False)
class RedDiffStep:
    """The state after a step.

    number, total : of the step, from 1 on.
    mu : [B, ...].
    misfit : at the point where its gradient was taken, [B].
    regulariser : the root mean square of eps_hat - eps of each item, [B].
    """

    number: int
    total: int
    mu: Tensor
    misfit: Tensor
    regulariser: Tensor


def red_diff(
    denoiser: Denoiser,
    misfit: Misfit,
    start: Tensor,
    rng: Rng,
    settings: RedDiff | None = None,
    cond: Cond | Tensor | None = None,
    look: Callable[[RedDiffStep], None] | None = None,
) -> Point:
    """RED-diff: minimise over mu, for q = N(mu, sd^2 I),

        E_q[misfit(x)] + E_t[w_t |eps_hat(x_t, t) - eps|^2],   x_t = alpha x + sigma eps

    by Adam, with the gradient of the second term without the derivative of the network:

        w_t (eps_hat - eps) = w_t alpha (x - E[x0 | x_t]) / sigma

    The right side needs a mean alone, so that it holds for every parameterisation.

    misfit : `mean_misfit(operator, y)` or `likelihood_misfit(likelihood)`.
    start : the first mu, [B, *shape]; the paper takes A^+ y, `operator.pseudo_inverse(y)`. For a blur take
        `operator.solve(operator.adjoint(y), ridge)`, because A^+ y is noise there.
    rng : one stream for each item.
    cond : of the denoiser, [B].
    look : is called after each step.

    It returns a *point*. It is no sample of p(x0 | y), and says nothing about the uncertainty: q has a fixed, small
    variance, so that KL(q || p) seeks one mode. Even for a Gaussian prior the point is not the posterior mean in
    general; see docs/rooms/measure.md.

    Raises TypeError for a posterior without a mean and a process without one clock; ValueError for shapes that do not
    fit and a repulsion, which needs particles.
    When to choose: for a fast estimate with any differentiable instrument, if the size of its weight can be tuned. For
    samples choose `guided_by_draws`; for the least error, average several samples.
    Source: Mardani, Song, Kautz & Vahdat, "A variational perspective on solving inverse problems with diffusion
    models", ICLR 2024, section 4, and the authors' code for the defaults.
    """
    chosen = settings or RedDiff()
    if chosen.repulsion:
        raise ValueError("a repulsion was asked for, and red_diff has one point for each item: use red_diff_particles")
    steps = red_diff_steps(denoiser, misfit, start, rng, chosen, cond)
    return Point(_last(steps, look))


def red_diff_particles(
    denoiser: Denoiser,
    misfit: Misfit,
    start: Tensor,
    rng: Rng,
    particles: int,
    spread: float = 1.0,
    settings: RedDiff | None = None,
    cond: Cond | Tensor | None = None,
    look: Callable[[RedDiffStep], None] | None = None,
) -> Tensor:
    """m points for each item, [m, B, ...], that repel each other.

    The gradient of the regulariser of particle i is

        w_t (eps_hat - eps + repulsion sigma_t grad_i log sum_j k(x_i, x_j)),   k(a, b) = exp(-|a - b|^2 / h)

    over the other particles j. h is the squared median of the distances, divided by log m.

    particles : m, at least 2.
    spread : the particles begin at start + spread z.

    Other arguments are those of `red_diff`. Without repulsion the particles are independent runs. They are no samples:
    their spread is decided by the repulsion, and not by the posterior. Raises ValueError for m < 2 and as `red_diff`.
    When to choose: to see several solutions of one measurement.
    Source: Zilberstein, Mardani & Segarra, "Repulsive latent score distillation for solving inverse problems", ICLR
    2025, with the kernel on x and not on features of a network.
    """
    if particles < 2 or not spread >= 0:
        raise ValueError(f"{particles} particles with a spread of {spread} were asked for; take 2 or more, spread >= 0")
    streams = streams_of_parts(rng, particles, "particles", parts_first=True)
    whole = start.repeat(particles, *(1,) * (start.ndim - 1))
    whole = whole + spread * streams.child("start").normal(whole.shape, whole.dtype).to(whole.device)
    each = Misfit(lambda x: torch.cat([misfit.loss(part) for part in x.chunk(particles)]), misfit.is_mean)
    owner = torch.arange(len(start), device=start.device).repeat(particles)
    steps = red_diff_steps(denoiser, each, whole, streams, settings or RedDiff(), take(cond, owner), particles)
    return _last(steps, look).unflatten(0, (particles, len(start)))


def red_diff_steps(
    denoiser: Denoiser,
    misfit: Misfit,
    start: Tensor,
    rng: Rng,
    settings: RedDiff,
    cond: Cond | Tensor | None = None,
    particles: int = 1,
) -> Generator[RedDiffStep, None, Tensor]:
    """The steps of `red_diff`, one at a time; the value of the generator is the last mu, or the average.

    particles : the number of particles in `start`, [particles B, ...], in the order (particle, item).
    """
    process = one_clock(denoiser.process, "red_diff")
    require_independent(process, "red_diff")
    require_untuned(denoiser, "red_diff")
    if len(rng) != len(start):
        raise ValueError(f"red_diff was given an rng of {len(rng)} items for {len(start)} points: give one for each")
    mu = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([mu], lr=settings.rate, betas=settings.betas)
    first, last = settings.ends(process)
    share = 1 / mu[0].numel() if misfit.is_mean else 1.0
    total, begin = torch.zeros_like(start), settings.steps - max(round(settings.average * settings.steps), 1)
    for number in range(settings.steps):
        if settings.order == "random":
            t: Tensor | float = last + (first - last) * rng.uniform((len(rng),), torch.float64)
        else:
            t = first + (last - first) * number / max(settings.steps - 1, 1)
        x = mu.detach()
        if settings.sd:
            x = x + settings.sd * rng.normal(x.shape, x.dtype).to(x.device)
        alpha, sigma = process.levels(t)
        off = _noise_error(denoiser, x, t, (alpha, sigma), rng, cond)
        pull = off
        if settings.repulsion:
            apart = _repulsion(x.unflatten(0, (particles, -1))).flatten(0, 1)
            pull = off - settings.repulsion * column(sigma, x) * apart
        value, slope = _value_and_slope(misfit, x)
        mu.grad = slope + column(share * settings.weight_of(sigma / alpha), x) * pull
        optimiser.step()
        if number >= begin:
            total = total + mu.detach()
        size = off.flatten(1).square().mean(1).sqrt()
        yield RedDiffStep(number + 1, settings.steps, mu.detach().clone(), value, size)
    return total / (settings.steps - begin)


@torch.no_grad()
def _noise_error(
    denoiser: Denoiser,
    x: Tensor,
    t: Tensor | float,
    levels: tuple[Tensor, Tensor],
    rng: Rng,
    cond: Cond | Tensor | None,
) -> Tensor:
    """eps_hat - eps = alpha (x - E[x0 | x_t]) / sigma, with a fresh eps."""
    alpha, sigma = levels
    z = rng.normal(x.shape, x.dtype).to(x.device)
    # not process.state, which would compute the levels again
    xt = column(alpha, x) * x + column(sigma, x) * z
    return column(alpha / sigma, x) * (x - need(denoiser(xt, t, cond), HasMean, "red_diff").mean)


def _value_and_slope(misfit: Misfit, x: Tensor) -> tuple[Tensor, Tensor]:
    """The misfit [B] and its gradient [B, ...]."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = misfit.loss(leaf)
        if value.shape != x.shape[:1]:
            raise ValueError(f"the misfit gave shape {list(value.shape)} for {len(x)} items; it must give [{len(x)}]")
        if not value.requires_grad:
            raise ValueError("red_diff: the misfit has no gradient in x: give a differentiable operator and likelihood")
        (slope,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def _repulsion(x: Tensor) -> Tensor:
    """-grad_i log sum_j k(x_i, x_j) over the particles of each item, [m, B, ...]: it points away from the others."""
    m, items = x.shape[:2]
    flat = x.reshape(m, items, -1).movedim(1, 0)
    square = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square()
    others = ~torch.eye(m, dtype=torch.bool, device=x.device)
    wide = square[:, others].reshape(items, -1).median(1).values / math.log(m)
    wide = wide.clamp(min=torch.finfo(x.dtype).tiny)[:, None, None]
    kernel = (-square / wide).exp() * others
    total = kernel.sum(2, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    away = 2 * (kernel.sum(2, keepdim=True) * flat - kernel @ flat) / (wide * total)
    return away.movedim(0, 1).reshape(x.shape)


def _last(steps: Generator[RedDiffStep, None, Tensor], look: Callable[[RedDiffStep], None] | None) -> Tensor:
    """Run the steps to their end."""
    try:
        while True:
            step = next(steps)
            if look is not None:
                look(step)
    except StopIteration as end:
        return end.value
