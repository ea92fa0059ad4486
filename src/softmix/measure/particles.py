"""Particles with weights: AFDPS, and sequential Monte Carlo with any guidance as its proposal.

A run has one measurement y. Its particles are one batch: they are resampled together.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..denoiser.contract import device_of
from ..posterior import HasMean, Posterior, need
from ..process import Gaussian, one_clock, require_independent
from ..rng import Rng
from ..sampler import Ask, drive
from ..sampler.drive import finish
from ..sampler.weighted import WeightedSamples, log_mean
from .guide import Conditioned, Likelihood, WeightedDraws
from .instrument import Instrument
from .misfit import data_residual
from .moments import linear
from .operator import LinearOperator

Form = Literal["sde", "ode"]
Run = Callable[[Gaussian, Tensor, Tensor, Rng], Generator[Ask, Posterior, WeightedSamples]]


@dataclass
class Population:
    """The log-weights of particles that are resampled together.

    log_weight : float64 [N].
    least : resample below this share of effective particles, from 0 (never) to 1.
    rng : its first stream decides what is resampled.
    """

    log_weight: Tensor
    least: float
    rng: Rng
    resamplings: int = 0

    @classmethod
    def of(cls, x: Tensor, least: float, rng: Rng) -> Population:
        """Particles x [N, ...] of equal weight. Raises ValueError for a share outside [0, 1]."""
        if not 0 <= least <= 1:
            raise ValueError(f"a share of {least} of effective particles was asked for; it is from 0 (never) to 1")
        return cls(torch.zeros(len(x), dtype=torch.float64, device=x.device), least, rng)

    def weigh(self, log_factor: Tensor) -> None:
        """Multiply the weights. Raises ValueError if all of them are 0, or one is infinite or undefined."""
        self.log_weight = self.log_weight + log_factor.double()
        if not bool(self.log_weight.amax().isfinite()):
            raise ValueError(
                f"of {len(self.log_weight)} particles none has a finite log weight as its largest: give a likelihood "
                "that is above 0 for every x0, or take more particles or steps (a step of afdps needs "
                "Delta |A|^2 / sd^2 < 2)"
            )

    def resampled(self, *states: Tensor) -> tuple[Tensor, ...]:
        """The states [N, ...], resampled if too few particles are effective. The mean weight stays, and so log_z."""
        share = WeightedSamples(self.log_weight, self.log_weight, 0).effective_size / len(self.log_weight)
        if share >= self.least:
            return states
        index = systematic(self.log_weight.softmax(0), self.rng.child(f"resampling {self.resamplings}"))
        self.resamplings += 1
        self.log_weight = log_mean(self.log_weight).expand(len(self.log_weight))
        return tuple(state[index] for state in states)


def systematic(probability: Tensor, rng: Rng) -> Tensor:
    """Systematic resampling: indices [N] at the places (k + u) / N of the cumulative weights, with one uniform u.

    An item of weight w is taken floor(N w) or ceil(N w) times, N w on average.
    Source: Kitagawa 1996.
    """
    count = len(probability)
    u = rng.take(slice(0, 1)).uniform((1,), torch.float64).to(probability.device)
    places = (torch.arange(count, dtype=torch.float64, device=probability.device) + u) / count
    edges = probability.double().cumsum(0)
    return torch.searchsorted(edges / edges[-1], places, right=True).clamp(max=count - 1)


def afdps(
    denoiser: Denoiser,
    instrument: Instrument,
    y: Tensor,
    grid: Tensor,
    rng: Rng,
    form: Form = "sde",
    least: float = 0.5,
    dtype: torch.dtype | None = None,
) -> WeightedSamples:
    """Approximation-free diffusion posterior sampling: particles of p_t(x) p(y | x), with the likelihood at x itself.

    With x = x_t / alpha_t, the variance u = sigma_t^2 / alpha_t^2 as clock, score s = (E[x0 | x_t] - x) / u and
    m(x) = -log p(y | x), a step from u to u' = u - Delta is

        sde        x += (s - grad m) Delta + sqrt(Delta) z
                   log w += (-s . grad m + (|grad m|^2 - lap m) / 2) Delta
        ode        x += s Delta / 2
                   log w -= (s . grad m) Delta / 2

    with everything at the old x. The start is drawn from N(0, u I) times the likelihood, exactly.

    denoiser : of a process with one clock; only its mean is used.
    instrument : with a `LinearOperator` and Gaussian noise, else TypeError.
    y : one row, [1, *measured].
    grid : falling times, by `even_in_variance`.
    rng : one stream for each particle; their number is len(rng).
    form : "ode" has weights that telescope to p(y | x_end) / p(y | x_start): importance sampling along fixed paths.
    least : the share of the effective size below which the particles are resampled.

    The result is a weighted ensemble, not N samples: use `.mean`, `.var`, `.resampled(n, rng)`. Its `log_z` is
    log p(y) up to a constant.
    Raises ValueError if all weights vanish or one is undefined: a step of `sde` needs Delta |A|^2 / sd^2 < 2.
    When to choose: to compare with it. The weights of `sde` have heavy tails, the more so the more precise y and the
    larger the first u: with 2,000 particles a mean was off by 0.1 to 0.95 of a standard deviation, over six seeds.
    `twisted` needs fewer steps and particles.
    Source: Chen, Ren, Min, Ying & Izzo, "Solving inverse problems via diffusion-based priors: an approximation-free
    ensemble sampling approach", 2025, arXiv 2506.03979.
    """
    if form not in get_args(Form):
        raise ValueError(f"the form {form!r} was asked for; there are {', '.join(get_args(Form))}")
    operator, sd = linear(instrument, "afdps"), instrument.sd
    process = one_clock(denoiser.process, "afdps")
    _require_one_row(y)
    move = _sde if form == "sde" else _ode

    def sampler(_: Gaussian, x: Tensor, times: Tensor, noise: Rng) -> Generator[Ask, Posterior, WeightedSamples]:
        alphas, clocks = _clocks(process, times)
        people = Population.of(x, least, noise)
        x = _given_y(operator, sd, y, x / alphas[0], clocks[0], noise)
        for k, t in enumerate(times[:-1]):
            mean = need((yield Ask(t, alphas[k] * x)), HasMean, "afdps").mean
            score, steep = (mean - x) / clocks[k], -operator.adjoint(data_residual(operator, y, x)) / sd**2
            x, log_factor = move(x, score, steep, clocks[k] - clocks[k + 1], noise)
            # the last weights stay as they are
            people.weigh(log_factor)
            (x,) = people.resampled(x) if k < len(times) - 2 else (x,)
        return WeightedSamples(x, people.log_weight, len(times) - 1)

    return _run(denoiser, sampler, grid, rng, dtype)


def _sde(x: Tensor, score: Tensor, steep: Tensor, length: float, rng: Rng) -> tuple[Tensor, Tensor]:
    """steep : grad m. The Laplacian of m is the same for all particles."""
    rate = (steep.square() / 2 - score * steep).flatten(1).sum(1)
    z = rng.normal(x.shape, x.dtype).to(x.device)
    return x + length * (score - steep) + length**0.5 * z, length * rate


def _ode(x: Tensor, score: Tensor, steep: Tensor, length: float, rng: Rng) -> tuple[Tensor, Tensor]:
    return x + length / 2 * score, -length / 2 * (score * steep).flatten(1).sum(1)


def _given_y(operator: LinearOperator, sd: float, y: Tensor, x: Tensor, var: float, rng: Rng) -> Tensor:
    """x ~ N(a, var I) becomes a draw of N(a, var I) times the likelihood (Matheron's rule)."""
    off = data_residual(operator, y, x)
    z = rng.normal(off.shape, off.dtype).to(off.device)
    noise = sd * z if operator.seen is None else torch.where(operator.constant("seen", z) > 0, sd * z, 0)
    return x + operator.solve(operator.adjoint(off + noise), sd**2 / var)


def twisted(
    denoiser: Denoiser,
    likelihood: Likelihood,
    grid: Tensor,
    rng: Rng,
    least: float = 0.5,
    dtype: torch.dtype | None = None,
) -> WeightedSamples:
    """Sequential Monte Carlo with a guided denoiser as its proposal, and weights that correct it.

    A particle moves from x_t to x_s by the reverse step r(x_s | x_t, .) with the guided mean in the place of
    E[x0 | x_t]. Its weight changes by

        w <- w  p^(y | x_s) / p^(y | x_t)  r(x_s | x_t, E[x0 | x_t]) / r(x_s | x_t, E[x0 | x_t, y])

    with p^ the `log_evidence` of the guidance. The last step goes to E[x0 | x_t], where p(y | x0) itself counts. So the
    mean weight is right on average for any guidance, and a poor one costs effective size. Weights can have heavy tails:
    compare several seeds. What is left is the error of Gaussian reverse steps, which falls with their number.

    denoiser : guided, with posteriors of kind `Conditioned` or `WeightedDraws`: by `guided_by_mean`,
        `guided_by_pseudo_inverse`, `guided_through_draws` or `guided_by_draws`. A bare denoiser gives importance
        sampling from the prior: weights at the end alone.
    likelihood : log p(y | x0), for one y.
    grid : falling times to t = 0.
    rng : one stream for each particle; their number is len(rng).
    least : the share of the effective size below which the particles are resampled.

    The result is a weighted ensemble; its `log_z` estimates log p(y).
    Raises ValueError for a grid that does not end at t = 0.
    When to choose: to correct a guidance that is only approximate, if several particles for one y can be paid. Any
    likelihood.
    Source: Wu et al., "Practical and asymptotically exact conditional sampling in diffusion models", NeurIPS 2023,
    with any guidance.
    """
    process = one_clock(denoiser.process, "twisted")
    if float(grid[-1]) != 0:
        raise ValueError(f"twisted weighs by p(y | x0) at t = 0, and the grid ends at {float(grid[-1])}")

    def sampler(base: Gaussian, x: Tensor, times: Tensor, noise: Rng) -> Generator[Ask, Posterior, WeightedSamples]:
        people = Population.of(x, least, noise)
        # the part of the weight that waits for the evidence at x
        waiting = torch.zeros_like(people.log_weight)
        for t, s in pairwise(times):
            guided, prior, evidence = _twist((yield Ask(t, x)))
            people.weigh(waiting + evidence.double())
            guided, prior, evidence, x = people.resampled(guided, prior, evidence, x)
            away = process.kernel(x, prior, t, s)[0]
            if float(s) == 0:
                x, waiting = away, -evidence.double()
                continue
            to, sd = process.kernel(x, guided, t, s)
            z = noise.normal(x.shape, x.dtype).to(x.device)
            apart = ((to - away) / sd).double()
            # log r(x_s; away) - log r(x_s; to)
            waiting = -(apart.square() / 2 + apart * z.double()).flatten(1).sum(1) - evidence.double()
            x = to + sd * z
        people.weigh(waiting + likelihood(x).double())
        return WeightedSamples(x, people.log_weight, len(times) - 1)

    return _run(denoiser, sampler, grid, rng, dtype)


def _twist(posterior: Posterior) -> tuple[Tensor, Tensor, Tensor]:
    """E[x0 | x_t, y], E[x0 | x_t] and log p(y | x_t); without guidance the mean twice, and 0."""
    if isinstance(posterior, Conditioned | WeightedDraws):
        return posterior.mean, posterior.prior, posterior.log_evidence
    mean = need(posterior, HasMean, "twisted").mean
    return mean, mean, mean.new_zeros(len(mean))


def even_in_variance(process: Gaussian, steps: int, most: float) -> Tensor:
    """Times to 0 of which sigma^2 / alpha^2 falls evenly from `most`: explicit steps of `afdps` are equally stable.

    steps : at least most |A|^2 / (2 sd^2) of them for `sde`.
    most : the first sigma^2 / alpha^2, far above the variance of the data, [steps + 1] times.
    """
    if steps < 1 or not most > 0:
        raise ValueError(f"{steps} steps from sigma^2 / alpha^2 = {most} were asked for; both must be above 0")
    clock = torch.linspace(most, 0, steps + 1, dtype=torch.float64)[:-1]
    times = process.time(-clock.log())
    return torch.cat([times, times.new_zeros(1)])


def _clocks(process: Gaussian, times: Tensor) -> tuple[list[float], list[float]]:
    """alpha and sigma^2 / alpha^2 at each time. Raises ValueError for alpha = 0."""
    alpha, sigma = process.levels(times)
    if bool((alpha == 0).any()):
        raise ValueError(
            f"{type(process).__name__} has alpha = 0 at t = {float(times[0])}, and afdps works with x_t / alpha: begin "
            "below that time"
        )
    return alpha.tolist(), (sigma / alpha).square().tolist()


def _run(denoiser: Denoiser, sampler: Run, grid: Tensor, rng: Rng, dtype: torch.dtype | None) -> WeightedSamples:
    """From noise at grid[0], all particles in one batch."""
    process, device = one_clock(denoiser.process, "particles"), device_of(denoiser)
    require_independent(process, "particles")
    shape: tuple[int, ...] = denoiser.shape  # type: ignore[attr-defined]
    own = rng.to(device)
    noise = own.child("start").normal((len(rng), *shape), dtype)
    x = float(process.sigma(grid[0])) * noise
    return finish(drive(denoiser, sampler, x, grid, own))


def _require_one_row(y: Tensor) -> None:
    if len(y) != 1:
        raise ValueError(f"particles share one measurement, y [1, ...], and found {len(y)} rows: run them one by one")
