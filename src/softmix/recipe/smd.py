"""The room of recipes: Soft Mixture Denoising on the 7x7 grid, where every posterior is known exactly.

One network size for all. The published loss against plain diffusion (it collapses), proper losses against
both, the controls that could explain them away, and the exact posterior and the best Gaussian beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from ..data import Report, toys
from ..data.store import make
from ..denoiser import Denoiser, ExactMixture, MixtureHead, PointHead, PublishedSMD, SoftHead
from ..denoiser.wrap import Wrapped
from ..evaluate.carried import carried
from ..evaluate.points import mode_statistics, sliced_wasserstein
from ..loss import Energy, Likelihood, PublishedSquare, Square
from ..loss.square import squared_error
from ..net import MLPSpec
from ..posterior import FullMixture, Implicit, Posterior
from ..process import VP, Noised
from ..rng import Rng
from ..sampler import sample
from ..train import Config, Optimiser, Run, Trainer, build, facts_of
from .paper import Paper, Role, Scale, Verdict, VerdictRow

PAPER = Paper(
    name="smd",
    title="Soft Mixture Denoising: Beyond the Expressive Bottleneck of Diffusion Models",
    authors="Li, Yangming and van Breugel, Boris and van der Schaar, Mihaela",
    venue="ICLR",
    year=2024,
    arxiv="2309.14068",
    claim="A denoising step that is one Gaussian is a bottleneck; a soft mixture over a latent removes it, "
    "most of all at few steps.",
)
FOUND = (
    "holds in part: few steps need a mixture, and proper losses learn it; "
    "the published loss does not, its latent is ignored"
)

STEPS = (1, 2, 4, 8)
NET = MLPSpec(width=96, depth=3)
SOFT = SoftHead(where="all", latent=4, local=0, mean="none")
PROCESS = VP()


@dataclass(frozen=True)
class Silent:
    """Squared error of the soft network with its latent fixed at 0: the same parameters, no mixture."""

    proper: bool = False

    def __call__(self, posterior: Posterior, noised: Noised, rng: Rng) -> Tensor:
        assert isinstance(posterior, Implicit)
        return squared_error(_silenced(posterior).mean, noised, "eps")


def _silenced(posterior: Implicit):  # type: ignore[no-untyped-def]
    return posterior.averaged(torch.zeros(1, *posterior.latent_shape))


def silent(denoiser: Denoiser) -> Denoiser:
    """The soft network with its latent fixed at 0, as a denoiser with a mean."""

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
        posterior = inner(xt, t, cond)
        assert isinstance(posterior, Implicit)
        found = _silenced(posterior)
        return FullMixture(
            xt.new_zeros(len(xt), 1),
            found.mean[:, None],
            xt.new_zeros(1, 1, xt.shape[1], xt.shape[1]),
            tuple(xt.shape[1:]),
        )

    return Wrapped(denoiser, call)


@dataclass(frozen=True)
class Variant:
    """A row that is trained: its name, its part in the argument, and what is changed. share: of the steps.

    A step of the energy score with m = 4 draws takes as long as two of the explicit mixture, and three or four
    of the others; the explicit mixture is given the longest time.
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
        net=NET,
        steps=steps,
        batch=256,
        seed=seed,
        precision="fp32",
        optimiser=Optimiser(rate=2e-3, warmup=100, decay=0.6),
    )
    return replace(base, **variant.change)  # type: ignore[arg-type]


def oracle() -> ExactMixture:
    """The exact posterior of the grid."""
    law = toys.grid()
    return ExactMixture(PROCESS, law.weights, law.means, law.covariances)


def best_gaussian(own: bool) -> Denoiser:
    """The exact mean with a Gaussian around it: one covariance E Cov[x0 | x_t] for each t, the best of all models
    whose step has one; or each x_t's own covariance, the best of all whose belief is any Gaussian."""
    exact = oracle()

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Tensor | None) -> Posterior:
        posterior = exact(xt, t)
        covariance = posterior.covariance if own else posterior.covariance.mean(0, keepdim=True)
        factor = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(covariance.shape[-1]).to(covariance))
        return FullMixture(xt.new_zeros(len(xt), 1), posterior.mean[:, None], factor[:, None], tuple(xt.shape[1:]))

    return Wrapped(exact, call)


def point(denoiser: Denoiser) -> Denoiser:
    """A denoiser that keeps the mean alone."""
    from ..posterior import HasMean, Point, need

    return Wrapped(denoiser, lambda inner, xt, t, cond: Point(need(inner(xt, t, cond), HasMean, "point").mean))


def measure(denoiser: Denoiser, seed: int, n: int, rho: bool) -> dict[str, float]:
    """good, tv and sw at each number of steps, and rho against the exact spread."""
    law = toys.grid()
    found: dict[str, float] = {}
    real = law.sample(n, Rng(seed, n, "real"))
    for k in STEPS:
        x = sample(denoiser, n, k, shape=(2,), seed=seed, batch=n).double()
        modes = mode_statistics(x, law.means, 0.05)
        found |= {
            f"good@{k}": modes.good,
            f"tv@{k}": modes.total_variation,
            f"sw@{k}": sliced_wasserstein(real, x, projections=64, seed=0),
        }
    if rho:
        some = law.sample(1024, Rng(seed, 1024, "held out")).float()
        found["rho"] = carried(denoiser, some, oracle=oracle(), m=32, seed=seed).total
    return found


def trained(name: str, steps: int, seed: int, n: int) -> dict[str, float]:
    """Trains one variant and measures it; runs in a process of its own, on one thread."""
    torch.set_num_threads(1)
    variant = next(each for each in VARIANTS if each.name == name)
    law = toys.grid()
    points = law.sample(1 << 17, Rng(seed, 1 << 17, "train")).float()
    data = make("grid", points, None, (), Report(read=len(points)))
    chosen = config(variant, round(steps * variant.share), seed)
    trainer = Trainer(Run(chosen, facts_of(data, chosen)), data, Path())
    for _ in range(chosen.steps or 0):
        trainer.advance()
    network = build(trainer.run).eval()
    trainer.ema.copy_to(network, chosen.ema[0])
    denoiser: Denoiser = silent(network) if isinstance(chosen.loss, Silent) else network
    return measure(denoiser, seed, n, rho=not isinstance(chosen.head, PointHead))


def run(scale: Scale, say: Callable[[str], None]) -> Verdict:
    """Trains all variants (one seed at quick scale, three at full) and gives the verdict."""
    began = time.perf_counter()
    seeds, steps, n = ((0,), 1500, 5000) if scale is Scale.quick else ((0, 1, 2), 12000, 20000)
    jobs = [(variant, seed) for variant in sorted(VARIANTS, key=lambda each: each.role != "ours") for seed in seeds]
    with ProcessPoolExecutor(max_workers=max(1, torch.get_num_threads()), mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(trained, variant.name, steps, seed, n) for variant, seed in jobs]
        exact = {
            ("exact posterior", "oracle"): [measure(oracle(), seed, n, True) for seed in seeds],
            ("exact, mean only", "control"): [measure(point(oracle()), seed, n, False) for seed in seeds],
            ("exact, best Gaussian", "control"): [measure(best_gaussian(False), seed, n, False) for seed in seeds],
            ("exact, Gaussian of each x_t", "control"): [
                measure(best_gaussian(True), seed, n, False) for seed in seeds
            ],
        }
        found: dict[tuple[str, Role], list[dict[str, float]]] = dict(exact)  # type: ignore[arg-type]
        for (variant, seed), future in zip(jobs, futures, strict=True):
            found.setdefault((variant.name, variant.role), []).append(future.result())
            say(f"{variant.name}, seed {seed}: done after {time.perf_counter() - began:.0f} s")
    order = {"baseline": 0, "control": 1, "ours": 2, "oracle": 3, "floor": 4}
    rows = [row for key in sorted(found, key=lambda k: order[k[1]]) for row in _rows(key, found[key])]
    return _judged(rows, time.perf_counter() - began)


def _rows(key: tuple[str, Role], results: Sequence[dict[str, float]]) -> list[VerdictRow]:
    name, role = key
    metrics = ["rho"] * ("rho" in results[0]) + [f"{kind}@{k}" for kind in ("good", "tv", "sw") for k in STEPS]
    values = {metric: [result[metric] for result in results] for metric in metrics}
    return [VerdictRow(name, role, m, mean(v), stdev(v) if len(v) > 1 else 0.0, len(v)) for m, v in values.items()]


def _judged(rows: Sequence[VerdictRow], seconds: float) -> Verdict:
    """The verdict, from the rows alone."""
    value = {(row.name, row.metric): row.value for row in rows}
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
    found = {
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
    why = "; ".join(("" if true else "NOT: ") + text for text, true in found.items())
    if all(list(found.values())[2:]):
        return Verdict(PAPER.claim, "holds in part", why, tuple(rows), seconds)
    return Verdict(PAPER.claim, "does not hold here", why, tuple(rows), seconds)
