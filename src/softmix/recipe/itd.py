"""Information-theoretic diffusion: likelihoods from denoising errors, beside those of an ODE and of a chain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..data import Data, load
from ..denoiser import Denoiser, Network
from ..info import (
    GaussianReference,
    Grid,
    Levels,
    area_above,
    compressed_nats,
    density,
    discrete,
    log_density,
    variational,
)
from ..oracle import MixtureProblem, correlated, gaussian
from ..process import VP
from ..rng import Rng
from ..train import preset
from .frame import Arms, Numbers, Results, Study, arm
from .images import DATA_SETS, base
from .in_memory import averaged_on_cpu, points_of
from .paper import Paper, Role

PAPER = Paper.of(
    "itd",
    "The log-likelihood of an item is exactly one integral of denoising errors over the noise levels, for densities "
    "and for whole numbers.",
)
RESULT = ""

F64 = torch.float64
QUADRATURE, POINTS, PICTURES = (
    "mixtures in two dimensions, by quadrature",
    "three Gaussians in two dimensions",
    ("Fashion-MNIST, 14 x 14, whole numbers"),
)
ERRORS, CHAIN, ODE, NORMAL, LAW = "by errors", "by a chain", "by the ODE", "a Gaussian", "the law"
SIZE, LESS = "compressed size", "by errors, less compressed size"
WIDE = Levels(4.0, 2.5)


def by_quadrature(problem: MixtureProblem, x: Tensor, levels: int, nodes: int) -> Tensor:
    """-log p of points [N, 2] by the integral of errors, without any random number: the trapezoid rule in logsnr, and
    Gauss and Hermite's in the noise."""
    place, weight = np.polynomial.hermite_e.hermegauss(nodes)
    line, share = torch.from_numpy(place), torch.from_numpy(weight / weight.sum())
    noise, shares = torch.cartesian_prod(line, line), torch.outer(share, share).flatten()
    own = GaussianReference.of(problem.law.mean, problem.law.covariance)
    denoiser, process = problem.denoiser(), problem.process
    gaps = []
    logsnr = torch.linspace(-10, 18, levels, dtype=F64)
    for level in logsnr.tolist():
        t = float(process.time(level))
        alpha, sigma = (float(part) for part in process.levels(t))
        xt = (alpha * x[:, None] + sigma * noise).flatten(0, 1)
        means = denoiser(xt, t).mean, own.denoiser(process)(xt, t).mean
        errors = [((mean.unflatten(0, (len(x), -1)) - x[:, None]) ** 2).sum(2) @ shares for mean in means]
        gaps.append(math.exp(level) * (errors[0] - errors[1]))
    return own.nats(x) + torch.trapezoid(torch.stack(gaps), logsnr, dim=0) / 2


def quadrature(seed: int, n: int, levels: int, nodes: int) -> Mapping[str, float]:
    """The largest error of n points of each law, in nats."""
    results: dict[str, float] = {}
    for problem in (gaussian(), correlated()):
        x = problem.sample(n, Rng(seed, n, "points"))
        off = by_quadrature(problem, x, levels, nodes) + problem.law.log_prob(x)
        results[f"error, {problem.name}"] = float(off.abs().max())
    return results


def learned(seed: int, steps: int, n: int, levels: int) -> Results:
    """-log p of points of a known law by a trained network, the mean over n points, in nats above the law."""
    problem = correlated()
    data = points_of(problem, "correlated", seed)
    config = preset("plain", (2,)).but(steps=steps, batch=256, seed=seed, precision="fp32")
    network = cast(Network, averaged_on_cpu(data, config)).eval()
    x = problem.sample(n, Rng(seed, n, "points"))
    own = GaussianReference.of(problem.law.mean, problem.law.covariance)
    entropy = -float(problem.law.log_prob(x).mean())
    double = network.double()
    by_errors = density(double, x, Rng(seed, n, "levels"), own, WIDE.inside(-math.inf, 12.9), levels, repeats=4)
    times = network.process.time(torch.linspace(12.5, -12, 160, dtype=F64))
    ode = -log_density(double, x, times)
    return {
        (ERRORS, "nats above"): by_errors.mean - entropy,
        (ODE, "nats above"): float(ode.mean()) - entropy,
        (NORMAL, "nats above"): float(own.nats(x).mean()) - entropy,
        (ERRORS, "error of an item"): float(by_errors.error.mean()),
        (LAW, "nats"): entropy,
    }


@lru_cache(maxsize=1)
def _images() -> tuple[Data, Data]:
    source, size, _ = DATA_SETS["fashion14"]
    return load(source, size=size), load(source, size=size, split="test")


def on_images(seed: int, images: int, n: int, levels: int) -> Results:
    """Bits per dimension of held-out images by one trained network, in four ways."""
    train, held_out = _images()
    network = cast(Network, averaged_on_cpu(train, base(train.shape, DATA_SETS["fashion14"][2], images, seed))).eval()
    other = load("digits", size=train.shape[1])
    return bits_of(network, train, held_out, other, seed, n, levels)


def bits_of(network: Denoiser, train: Data, held_out: Data, other: Data, seed: int, n: int, levels: int) -> Results:
    """Bits per dimension of n held-out images, and how well nats tell other images apart."""
    grid = Grid()
    own = GaussianReference.fit(train.x0(), grid.step**2 / 12)
    x = held_out.x0(torch.arange(n) * (len(held_out) // n))
    process, dims = VP(), x[0].numel()
    ends = Levels.of(own.variances).inside(-math.inf, float(process.logsnr(1e-3)))
    rng = Rng(seed, n, "bits")
    # a thousand steps at their best: none has a large share of the snr
    last = float(process.logsnr(1e-3))
    even = process.time(torch.linspace(-10, last, 1000, dtype=F64))
    even = torch.cat([torch.ones_like(even[:1]), even])
    found = {
        ERRORS: discrete(network, x, rng, own, levels=ends, n=levels),
        NORMAL: discrete(own.denoiser(process), x, rng, own, levels=ends, n=levels),
        CHAIN: variational(network, x, rng, even, draws=4 * levels),
    }
    results = {(name, "bits"): each.bits_per_dim for name, each in found.items()}
    # uniform noise in a step of the grid makes real numbers of whole ones
    noisy = x + grid.step * (rng.child("real").uniform(x.shape) - 0.5)
    times = process.time(torch.linspace(12.5, -12, levels + 1, dtype=F64))
    ode = -log_density(network, noisy, times, probes=(1, rng.child("probes")))
    results[ODE, "bits"] = (float(ode.mean()) / dims - math.log(grid.step)) / math.log(2)
    return {**results, **told_apart(network, own, ends, held_out, other, seed, n, levels)}


def told_apart(
    network: Denoiser,
    own: GaussianReference,
    ends: Levels,
    held_out: Data,
    other: Data,
    seed: int,
    n: int,
    levels: int,
) -> Results:
    """The area under the ROC curve of nats as a score of other data: of the model, of a Gaussian, of compressed items,
    and of the model less the compressed length."""
    nats: dict[str, list[Tensor]] = {ERRORS: [], NORMAL: [], SIZE: []}
    for data in (held_out, other):
        count = min(n, len(data))
        chosen = torch.arange(count) * (len(data) // count)
        x, rng = data.x0(chosen), Rng(seed, count, "apart")
        nats[ERRORS].append(discrete(network, x, rng, own, levels=ends, n=levels).each)
        nats[NORMAL].append(discrete(own.denoiser(VP()), x, rng, own, levels=ends, n=levels).each)
        nats[SIZE].append(compressed_nats(data.values[chosen]))
    nats[LESS] = [a - b for a, b in zip(nats[ERRORS], nats[SIZE], strict=True)]
    return {(name, "AUROC"): area_above(*each) for name, each in nats.items()}


def checks(value: Numbers) -> Mapping[str, bool]:
    """Quadrature, a learned density, and the bits of images."""
    errors = [number for (_, metric), number in value.items() if metric.startswith("error, ")]
    ours, ode, normal = (value[name, "nats above"] for name in (ERRORS, ODE, NORMAL))
    found = {
        f"with exact denoisers the integral is -log p at every point, to 0.02 nats ({max(errors):.4f})": max(errors)
        < 0.02,
        f"a learned network is within 0.05 nats of the law ({ours:.3f}; by the ODE {ode:.3f})": abs(ours) < 0.05,
        f"and below a Gaussian ({normal:.3f})": ours < normal,
    }
    if (CHAIN, "bits") in value:
        bits = {name: value[name, "bits"] for name in (ERRORS, NORMAL, CHAIN, ODE)}
        found |= {
            f"bits of images are below those of a Gaussian ({bits[ERRORS]:.3f}; {bits[NORMAL]:.3f})": bits[ERRORS]
            < bits[NORMAL],
            f"and below the bound of the chain of 1,000 steps on the same network ({bits[CHAIN]:.3f}; by the ODE "
            f"{bits[ODE]:.3f})": bits[ERRORS] < bits[CHAIN],
        }
        areas = {name: value[name, "AUROC"] for name in (ERRORS, LESS, NORMAL, SIZE)}
        found |= {
            f"their nats tell digits from garments in 90 % of pairs ({areas[ERRORS]:.3f}; a Gaussian "
            f"{areas[NORMAL]:.3f}, compressed size {areas[SIZE]:.3f})": areas[ERRORS]
            > max(0.9, areas[NORMAL], areas[SIZE]),
            f"and better less the compressed size ({areas[LESS]:.3f})": areas[LESS] > areas[ERRORS],
        }
    return found


_LEARNED: dict[str, Role] = {ERRORS: "ours", ODE: "baseline", NORMAL: "control", LAW: "oracle"}
_BITS: dict[str, Role] = {
    ERRORS: "ours",
    LESS: "ours",
    CHAIN: "baseline",
    ODE: "baseline",
    NORMAL: "control",
    SIZE: "control",
}
run = Study(
    PAPER,
    checks,
    [
        arm(
            ERRORS,
            "ours",
            quadrature,
            QUADRATURE,
            {"n": 20, "levels": 401, "nodes": 24},
            {"n": 100, "levels": 801, "nodes": 40},
            1,
        ),
        Arms(
            _LEARNED,
            learned,
            POINTS,
            {"steps": 1500, "n": 500, "levels": 32},
            {"steps": 10_000, "n": 2000, "levels": 64},
            seeds=3,
        ),
        Arms(
            _BITS,
            on_images,
            PICTURES,
            None,
            {"images": 60_000, "n": 200, "levels": 64},
            seeds=3,
            needs=partial(load, "fashion-mnist"),
        ),
    ],
)
