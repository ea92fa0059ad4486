"""The trainings of the table of few steps: each is a change of the plain configuration, with its ways to sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ..data import Data, Source
from ..data.store import choose
from ..denoiser import (
    Denoiser,
    MixtureHead,
    Network,
    PublishedSMD,
    SoftHead,
    adjusted,
    averaged,
    mean_only,
)
from ..loss import Energy, FeatureDrift, FeatureEnergy, Importance, Likelihood, MeanFlow, PublishedSquare
from ..net import UNetSpec
from ..posterior import Normal, Point, Posterior, need
from ..process import Gaussian, after_draw, few, uniform
from ..rng import Rng
from ..sampler import Sampler, adams, ancestral, ddim, dpm_solver_2m, heun, renoise, soft_adams
from ..train import Config, preset
from .paper import Role

COUNTS = (1, 2, 4, 8, 16, 32, 64)
Wrapping = Callable[[Denoiser, Data, torch.Tensor], Denoiser]
Change = Callable[[Config, tuple[int, ...]], Config]
# items with draws from t = 1, at most, in the rows of drift
DRAWN = 128


def device_of(denoiser: Denoiser) -> torch.device:
    """The device of the weights; the CPU for a denoiser without weights."""
    weights = denoiser.parameters() if isinstance(denoiser, nn.Module) else iter(())
    return next((weight.device for weight in weights), torch.device("cpu"))


def _same(data: Data) -> Source:
    return data


def unchanged(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    return denoiser


def best_variance(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean with one variance for each step: the mean squared error on 500 training items, the best single one."""
    device = device_of(denoiser)
    x0 = data.x0(choose(len(data), 500)).to(device)
    means, process = mean_only(denoiser), denoiser.process
    variances: dict[float, float] = {}
    for t in grid[:-1].tolist():
        noised = process.noise(x0, t, Rng(0, len(x0), "variance", device))
        with torch.no_grad():
            error = need(means(noised.xt, t), Point, "best_variance").mean - x0
        variances[t] = float((error**2).mean())

    def widened(posterior: Posterior, xt: torch.Tensor, t: torch.Tensor | float) -> Posterior:
        mean = need(posterior, Point, "best_variance").mean
        return Normal(mean, torch.full_like(mean[:, :1], variances[float(t)]))

    return adjusted(widened)(means)


def eight(denoiser: Denoiser, data: Data, grid: torch.Tensor) -> Denoiser:
    """The mean of eight draws."""
    return averaged(8)(denoiser)


@dataclass(frozen=True)
class Sampling:
    """A way to sample.

    wrap : a change of the denoiser.
    most : the largest number of evaluations to measure.
    grid : the times, if not those that the sampler takes by itself.
    """

    name: str
    sampler: Sampler
    wrap: Wrapping = unchanged
    most: int = 64
    grid: Callable[[Gaussian, int], torch.Tensor] | None = None

    @property
    def counts(self) -> list[int]:
        """The numbers of evaluations to measure."""
        return self.within(COUNTS)

    def within(self, counts: Sequence[int]) -> list[int]:
        """Those of some numbers of evaluations that are measured: up to `most`, which is one of them."""
        return [count for count in counts if count <= self.most]


@dataclass(frozen=True)
class Training:
    """A configuration to train.

    change : from the plain configuration to this one.
    ways   : to sample it.
    longer : the factor of its training images.
    source : the data to learn from, made of the training images.
    """

    role: Role
    change: Change
    ways: tuple[Sampling, ...]
    longer: float = 1.0
    source: Callable[[Data], Source] = _same


def change(**values: object) -> Change:
    return lambda config, shape: config.but(**values)


def wider(config: Config, shape: tuple[int, ...]) -> Config:
    """The plain configuration with a larger width, so that it has as many parameters as the soft mixture."""
    aim = _parameters(config.but(head=SoftHead()), shape)
    net = config.task.net
    assert isinstance(net, UNetSpec)
    width = min(range(net.width, 3 * net.width, 4), key=lambda w: abs(_parameters(_width(config, w), shape) - aim))
    return _width(config, width)


def _width(config: Config, width: int) -> Config:
    net = config.task.net
    assert isinstance(net, UNetSpec)
    return config.but(net=replace(net, width=width))


def _parameters(config: Config, shape: tuple[int, ...]) -> int:
    task = config.denoise
    network = Network(task.process, task.net, task.head, shape)
    return sum(p.numel() for p in network.parameters())


def as_preset(name: str) -> Change:
    """A preset with the network and the training images of the table."""

    def make(config: Config, shape: tuple[int, ...]) -> Config:
        same = {key: getattr(config, key) for key in ("steps", "batch", "seed", "show", "save", "precision", "compile")}
        return preset(name, shape).but(net=config.task.net, **same)  # type: ignore[arg-type]

    return make


def improved_meanflow(config: Config, shape: tuple[int, ...]) -> Config:
    """MeanFlow with the mean direction, and with two times for half of the items, as in the authors' code."""
    return as_preset("meanflow")(config, shape).but(loss=MeanFlow(direction="mean", pairs=0.5))


def drifting(scale: float = 1.0) -> Change:
    """A soft mixture by drift. Of a large batch only `DRAWN` items are drawn from t = 1: a comparison needs a number
    of draws, and not a share of the batch.

    scale : of the latent; 0 for the control.
    """

    def make(config: Config, shape: tuple[int, ...]) -> Config:
        loss = FeatureDrift(blank=min(FeatureDrift.blank, DRAWN / config.batch))
        return config.but(head=replace(OWN, scale=scale), loss=loss)

    return make


def near(process: Gaussian, n: int) -> torch.Tensor:
    """A second grid for plain models, so that they are not judged by a single one: t = 1, then even steps of logsnr
    from -5, which stands for t = 1, to 4, then t = 0."""
    inner = process.time(torch.linspace(-5, 4, n, dtype=torch.float64, device="cpu"))
    return torch.cat([inner.new_ones(1), inner[1:], inner.new_zeros(1)])


DRAW = Sampling("draws, eta 0", partial(ancestral, eta=0.0), most=16)
FEW = (Sampling("ddim", ddim), Sampling("dpm-solver-2m", dpm_solver_2m, most=16), Sampling("adams", adams, most=16))
SOLVERS = (
    *FEW,
    Sampling("dpm-solver-2m, uniform t", dpm_solver_2m, most=16, grid=uniform),
    Sampling("dpm-solver-2m, logsnr -5 to 4", dpm_solver_2m, most=16, grid=near),
    Sampling("adams, uniform t", adams, most=16, grid=uniform),
    Sampling("adams, logsnr -5 to 4", adams, most=16, grid=near),
    Sampling("heun", heun, most=16),
    Sampling("ancestral", ancestral),
)
OWN = SoftHead(mean="own")
SOFT = (
    Sampling("soft-adams", soft_adams, most=16, grid=few),
    # at 1, 2, and 8 and more the two grids are one
    Sampling("soft-adams, after a draw", soft_adams, most=4, grid=after_draw),
    Sampling("mean, adams", adams, most=16),
)
TRAININGS: dict[str, Training] = {
    "plain": Training("baseline", change(), (*SOLVERS, Sampling("best variance", ancestral, best_variance, 16))),
    "plain, twice the images": Training("baseline", change(), FEW, longer=2.0),
    "plain, wider": Training("control", wider, FEW),
    "SMD as published": Training(
        "control",
        change(head=PublishedSMD(latent=32), loss=PublishedSquare()),
        (DRAW, Sampling("mean of 8, ddim", ddim, eight, 16)),
    ),
    "energy score": Training("ours", change(head=SoftHead(mean="none"), loss=Energy(m=2, weight="v")), (DRAW,)),
    "energy score, eta = 0": Training(
        "control", change(head=SoftHead(mean="none", scale=0.0), loss=Energy(m=2, weight="v")), (DRAW,)
    ),
    "importance-weighted": Training(
        "ours", change(head=SoftHead(mean="none"), loss=Importance(k=4, temper=8.0)), (DRAW,)
    ),
    "explicit mixture": Training(
        "ours",
        change(head=MixtureHead(8, "pixel"), loss=Likelihood(0.5)),
        (
            Sampling("draws", ancestral, most=16),
            Sampling("mean, dpm-solver-2m", dpm_solver_2m, most=16),
            Sampling("mean, adams", adams, most=16),
        ),
    ),
    "feature score": Training("ours", change(head=OWN, loss=FeatureEnergy()), SOFT),
    "feature score, twice the images": Training("ours", change(head=OWN, loss=FeatureEnergy()), SOFT, longer=2.0),
    "feature score, eta = 0": Training("control", change(head=replace(OWN, scale=0.0), loss=FeatureEnergy()), SOFT),
    "feature score, pixels only": Training("control", change(head=OWN, loss=FeatureEnergy(features=0.0)), SOFT),
    "feature drift": Training("ours", drifting(), SOFT),
    "feature drift, eta = 0": Training("control", drifting(0.0), SOFT),
    "consistency": Training(
        "rival", as_preset("consistency"), (Sampling("renoise", renoise), Sampling("ddim", ddim, most=8))
    ),
    "meanflow": Training("rival", as_preset("meanflow"), (Sampling("ddim", ddim),)),
    "improved meanflow": Training("rival", improved_meanflow, (Sampling("ddim", ddim),)),
    # as many operations as feature drift
    "consistency, half more images": Training(
        "rival", as_preset("consistency"), (Sampling("renoise", renoise), Sampling("ddim", ddim, most=8)), longer=1.5
    ),
    "consistency, twice the images": Training(
        "rival", as_preset("consistency"), (Sampling("renoise", renoise), Sampling("ddim", ddim, most=8)), longer=2.0
    ),
    "moment matching": Training("rival", as_preset("imm"), (Sampling("ddim", ddim),)),
}
