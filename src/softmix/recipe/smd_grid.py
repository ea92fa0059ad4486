"""The grid of modes: 7 x 7 points in the plane, with the exact posterior of every noisy point.

All networks have one size. The published loss and proper losses run against plain diffusion, against controls that
could explain a gain, and beside the exact posterior and the best Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ..cond import Cond
from ..data import toys
from ..denoiser import (
    Denoiser,
    ExactMixture,
    MixtureHead,
    Network,
    PointHead,
    PublishedSMD,
    SoftHead,
    adjusted,
    mean_only,
)
from ..denoiser.wrap import Wrapped
from ..evaluate.points import mode_statistics, sliced_wasserstein
from ..evaluate.spread import latent_spread
from ..loss import Energy, Likelihood, PublishedSquare, Square
from ..loss.square import squared_error
from ..net import MLPSpec
from ..posterior import FullMixture, Implicit, ImplicitMean, Posterior
from ..process import VP, Noised
from ..rng import Rng
from ..sampler import sample
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, arm
from .in_memory import finished, points_of
from .paper import Role

STEPS = (1, 2, 4, 8)
NET = MLPSpec(width=96, depth=3)
SOFT = SoftHead(where="all", latent=4, local=0, mean="none")
PROCESS = VP()


@dataclass(frozen=True)
class Silent:
    """The squared error of the soft network with its latent fixed at 0: the same parameters, no mixture."""

    proper: bool = False

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        return squared_error(_silenced(posterior).mean, noised, "eps")


def _silenced(posterior: Posterior) -> ImplicitMean:
    assert isinstance(posterior, Implicit)
    return posterior.averaged(torch.zeros(1, *posterior.latent_shape, device="cpu"))


def silent(denoiser: Denoiser) -> Denoiser:
    """The soft network with its latent fixed at 0, as a denoiser with a mean only."""
    return mean_only(adjusted(lambda posterior, xt, t: _silenced(posterior))(denoiser))


@dataclass(frozen=True)
class Variant:
    """A training on the grid.

    change : of the plain configuration.
    share  : the factor of the training steps.

    A step of the energy score with m = 4 draws takes as long as two steps of the explicit mixture, and as three or four
    of the others. The explicit mixture has the longest training.
    """

    name: str
    role: Role
    change: dict[str, object]
    share: float = 1.0


_ENERGY = Energy(beta=0.5, m=4, weight="snr-half", mean=0.0)
VARIANTS = (
    Variant("plain", "baseline", {"head": PointHead(), "loss": Square()}),
    Variant(
        "plain, SMD's parameters", "control", {"head": PointHead(), "loss": Square(), "net": replace(NET, width=128)}
    ),
    Variant("SMD as published", "control", {"head": PublishedSMD(latent=32), "loss": PublishedSquare()}),
    Variant("SMD, eta = 0", "control", {"head": SOFT, "loss": Silent()}),
    Variant("SMD, energy score", "ours", {"head": SOFT, "loss": _ENERGY}),
    Variant("explicit mixture", "ours", {"head": MixtureHead(64, "item"), "loss": Likelihood(0.1)}, 3.0),
)


def config(variant: Variant, steps: int, seed: int) -> Config:
    """The configuration of one training."""
    base = Config(
        Denoise(net=NET),
        steps=steps,
        batch=256,
        seed=seed,
        precision="fp32",
        optimiser=Optimiser(rate=2e-3, warmup=100, decay=0.6),
    )
    return base.but(**variant.change)


def oracle() -> ExactMixture:
    """The exact posterior of the grid."""
    law = toys.mode_grid()
    return ExactMixture(PROCESS, law.weights, law.means, law.covariances)


def best_gaussian(own: bool) -> Denoiser:
    """The exact mean with a Gaussian around it.

    own : False for one covariance E Cov[x0 | x_t] for each t, the best model with one covariance for each step. True
        for Cov[x0 | x_t] of each x_t, the best model with any Gaussian.
    """
    exact = oracle()

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None) -> Posterior:
        posterior = exact(xt, t)
        covariance = posterior.covariance if own else posterior.covariance.mean(0, keepdim=True)
        factor = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(covariance.shape[-1]).to(covariance))
        return FullMixture(xt.new_zeros(len(xt), 1), posterior.mean[:, None], factor[:, None], tuple(xt.shape[1:]))

    return Wrapped(exact, call)


def measure(denoiser: Denoiser, seed: int, n: int, rho: bool) -> dict[str, float]:
    """Measure samples at each number of steps.

    good@k : the share of samples within 3 standard deviations of a mode.
    tv@k   : the total variation distance of the weights of the modes.
    sw@k   : the sliced Wasserstein distance.
    rho    : the share of the exact posterior's spread that the draws carry, if `rho`.
    """
    law = toys.mode_grid()
    carries: dict[str, float] = {}
    if rho:
        held_out = law.sample(1024, Rng(seed, 1024, "held out")).float()
        carries["rho"] = latent_spread(denoiser, held_out, oracle=oracle(), m=32, seed=seed).total
    real = law.sample(n, Rng(seed, n, "real"))
    drawn = {k: sample(denoiser, n, k, shape=(2,), seed=seed, batch=n).double() for k in STEPS}
    modes = {k: mode_statistics(x, law.means, 0.05) for k, x in drawn.items()}
    return (
        carries
        | {f"good@{k}": each.good for k, each in modes.items()}
        | {f"tv@{k}": each.total_variation for k, each in modes.items()}
        | {f"sw@{k}": sliced_wasserstein(real, x, projections=64, seed=0) for k, x in drawn.items()}
    )


def trained(variant: Variant, seed: int, steps: int, n: int) -> dict[str, float]:
    """Train one variant and measure it."""
    law = toys.mode_grid()
    data = points_of(law, "grid", seed, 1 << 17)
    chosen = config(variant, round(steps * variant.share), seed)
    network = cast(Network, finished(data, chosen).averaged())
    denoiser: Denoiser = silent(network) if isinstance(chosen.denoise.loss, Silent) else network
    return measure(denoiser, seed, n, rho=not isinstance(chosen.denoise.head, PointHead))


EXACT: dict[str, tuple[Role, Callable[[], Denoiser]]] = {
    "exact, mean only": ("control", lambda: mean_only(oracle())),
    "exact, best Gaussian": ("control", partial(best_gaussian, False)),
    "exact, Gaussian of each x_t": ("control", partial(best_gaussian, True)),
    "exact posterior": ("oracle", oracle),
}


def exact(name: str, seed: int, n: int) -> dict[str, float]:
    """Measure one of the denoisers that know the law."""
    role, make = EXACT[name]
    return measure(make(), seed, n, rho=role == "oracle")


def _arms() -> list[Arms]:
    quick, full = {"n": 5000}, {"n": 20_000}
    longer = quick | {"steps": 1500}, full | {"steps": 12_000}
    arms = [arm(each.name, each.role, partial(trained, each), "grid", *longer, seeds=3) for each in VARIANTS]
    truths = [arm(name, role, partial(exact, name), "grid", quick, full, 3) for name, (role, _) in EXACT.items()]
    order: list[Role] = ["baseline", "control", "ours", "oracle"]
    return sorted([*truths, *arms], key=lambda each: order.index(next(iter(each.roles.values()))))


GRID = _arms()


def on_the_grid(value: Numbers) -> dict[str, bool]:
    """The checks on the grid: two of the published loss, then those of mixtures."""
    published, plain, energy = "SMD as published", "plain", "SMD, energy score"
    apart = max(abs(value[published, f"sw@{k}"] - value[plain, f"sw@{k}"]) for k in STEPS)
    gaussian = max(
        v
        for (name, metric), v in value.items()
        if metric == "good@4"
        and ("Gaussian" in name or name in ("plain", "plain, SMD's parameters", "exact, mean only", "SMD, eta = 0"))
    )
    best = max(
        (name for name, _ in value if name in (energy, "explicit mixture")), key=lambda name: value[name, "good@4"]
    )
    return {
        f"the published loss collapses (rho {value[published, 'rho']:.3f}, below 0.02)": value[published, "rho"] < 0.02,
        f"and equals plain diffusion (sliced Wasserstein at most {apart:.3f} apart, below 0.05)": apart < 0.05,
        f"the energy score carries the spread (rho {value[energy, 'rho']:.2f}, in 0.85 to 1.15)": 0.85
        <= value[energy, "rho"]
        <= 1.15,
        f"at 4 steps {best} has {value[best, 'good@4']:.3f} of its samples at a mode (at least 0.95)": value[
            best, "good@4"
        ]
        >= 0.95,
        f"and a mode TV of {value[best, 'tv@4']:.3f} (at most 0.06)": value[best, "tv@4"] <= 0.06,
        f"where no single Gaussian passes 0.55 (best {gaussian:.3f})": gaussian <= 0.55,
    }
