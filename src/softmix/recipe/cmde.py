"""The conditional multi-speed estimator on a joint Gaussian: its bias in closed form, and the law of its samples.

The arms serve the recipe of non-uniform diffusion models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..cond import Cond
from ..denoiser import Given
from ..oracle import JointProblem, joint
from ..posterior import HasMean, need
from ..process import VE, slower, uniform_logsnr
from ..rng import Rng
from ..sampler import ddim, multi_speed, on_grid
from .frame import Arms, Numbers, Results
from .paper import Role

# sigma_y / sigma_x of each arm: a clean condition, slower conditions, and one with the noise of x
RATIOS = {"CDE": 0.0, "CMDE 0.05": 0.05, "CMDE 0.2": 0.2, "CMDE 0.5": 0.5, "CDiffE": 1.0}
ROLES: dict[str, Role] = {
    "CDE": "baseline",
    "CMDE 0.05": "ours",
    "CMDE 0.2": "ours",
    "CMDE 0.5": "ours",
    "CDiffE": "control",
}
# the noise levels sigma_x of the bias
SIGMAS = (0.1, 1.0, 10.0)
DATA = "a joint Gaussian in 2 + 2 dimensions, VE, exact means"


@dataclass(frozen=True)
class Gains:
    """A linear estimate of x, for VE: m_x + of_state (x_t - m_x) + of_y (y - m_y), [D_x, D_x] and [D_x, D_y]."""

    of_state: Tensor
    of_y: Tensor

    @classmethod
    def of(cls, covariance: Tensor, size: int, sigma: float, sigma_y: float) -> Gains:
        """The regression of x on x + sigma z and y + sigma_y z', applied to (x_t, E[y + sigma_y z' | y] = y)."""
        noise = torch.full((len(covariance),), sigma_y**2, dtype=covariance.dtype)
        noise[:size] = sigma**2
        gain = torch.linalg.solve(covariance + noise.diag(), covariance[:, :size]).mT
        return cls(gain[:, :size], gain[:, size:])


def bias(covariance: Tensor, size: int, sigma: float, ratio: float) -> tuple[Gains, float]:
    """The bias of the estimated score, E[s(x_t, y_t) | y] - s(x_t | y) for s = (x_hat - x_t) / sigma^2, and its size.

        bias = ((K - K_0) (x_t - m_x) + (L - L_0) (y - m_y)) / sigma^2

    with the gains K, L for a condition of noise ratio * sigma and K_0, L_0 for a clean one. Its size is the root mean
    square over x_t and y, over that of s(x_t | y). For a small ratio it falls with the square of the ratio.

    covariance : of (x, y). size : the dimensions of x.
    """
    clean, noisy = (Gains.of(covariance, size, sigma, each) for each in (0.0, ratio * sigma))
    gap = Gains((noisy.of_state - clean.of_state) / sigma**2, (noisy.of_y - clean.of_y) / sigma**2)
    seen = covariance.clone()
    seen[:size, :size] += sigma**2 * torch.eye(size, dtype=seen.dtype)
    score = (torch.cat([clean.of_state - torch.eye(size, dtype=seen.dtype), clean.of_y], 1)) / sigma**2
    off = torch.cat([gap.of_state, gap.of_y], 1)
    power, whole = (float((each @ seen @ each.mT).trace()) for each in (off, score))
    return gap, (power / whole) ** 0.5


class _Mirrored:
    """Noise z, and -z at the next draw: the mean of two linear answers is then exact."""

    def __init__(self, z: Tensor):
        self.z = -z

    def normal(self, shape: object, dtype: object = None) -> Tensor:
        self.z = -self.z
        return self.z


def measured_bias(problem: JointProblem, sigma: float, ratio: float, n: int, seed: int) -> float:
    """The largest distance between the bias of `Given` and its closed form, over n items."""
    base, size = problem.process.base, problem.process.sizes[0]
    t = float(base.time(-2 * torch.tensor(sigma, dtype=torch.float64).log()))
    pair, _ = problem.draw(n, Rng(seed, n, "bias"))
    x, y = problem.process.part(pair, 0), problem.process.part(pair, 1)
    xt = base.noise(x, t, Rng(seed, n, "bias of x")).xt
    noise = _Mirrored(Rng(seed, n, "bias of y").normal(y.shape, torch.float64))
    diffused = Given(problem.denoiser(), 0, lambda at: slower(base, ratio, at), noise)  # type: ignore[arg-type]
    clean = Given(problem.denoiser(), 0, torch.zeros_like)
    answers = [need(each(xt, t, Cond(value=y)), HasMean, "cmde").mean for each in (diffused, diffused, clean)]
    found = ((answers[0] + answers[1]) / 2 - answers[2]) / sigma**2
    gap, _ = bias(problem.law.covariance, size, sigma, ratio)
    mean = problem.law.mean
    expected = (xt - mean[:size]) @ gap.of_state.mT + (y - mean[size:]) @ gap.of_y.mT
    return float((found - expected).abs().max())


def law_of_samples(problem: JointProblem, ratio: float, n: int, steps: int, seed: int) -> Mapping[str, float]:
    """The error of x given y by the reverse SDE, for a y of its own for each of n items.

    With r = x - E[x | y]: "mean" is the root mean square of E[r | y], and "covariance" the error of Cov r in the
    Frobenius norm, both in units of the true Cov[x | y].
    """
    size = problem.process.sizes[0]
    pair, _ = problem.draw(n, Rng(seed, n, "law"))
    y = problem.process.part(pair, 1)
    sampler = on_grid(partial(ddim, eta=1.0), uniform_logsnr)
    base = problem.process.base
    x = multi_speed(
        problem.denoiser(), lambda t: slower(base, ratio, t), n, steps, y=y, sampler=sampler, seed=seed, batch=n
    )
    return error_given(problem.law.mean, problem.law.covariance, torch.cat([x.double(), y], 1), size)


def error_given(mean: Tensor, covariance: Tensor, pair: Tensor, size: int) -> Mapping[str, float]:
    """The errors of `law_of_samples` for pairs (x, y) [n, D] of which each y was given, and the law of (x, y).

    size : the dimensions of x.
    """
    of_y = torch.linalg.solve(covariance[size:, size:], covariance[size:, :size]).mT
    left = covariance[:size, :size] - of_y @ covariance[size:, :size]
    off = pair[:, size:] - mean[size:]
    r = pair[:, :size] - mean[:size] - off @ of_y.mT
    # r = c + B (y - m_y) + noise, by least squares
    design = torch.cat([off, torch.ones_like(off[:, :1])], 1)
    fitted = design @ torch.linalg.lstsq(design, r).solution
    return {
        "mean": float((fitted.square().sum(1).mean() / left.trace()).sqrt()),
        "covariance": float((r.T.cov() - left).norm() / left.norm()),
    }


def problem_of() -> JointProblem:
    """The joint Gaussian of the arms, by VE from 0.01 to 20."""
    return joint((2, 2), VE(high=20.0), components=1)


def measure(seed: int, n: int, steps: int) -> Results:
    """The size of the bias at each noise level, the distance from its closed form, and the law of the samples."""
    problem, results = problem_of(), dict[tuple[str, str], float]()
    for name, ratio in RATIOS.items():
        for sigma in SIGMAS:
            results[name, f"bias@{sigma:g}"] = bias(problem.law.covariance, 2, sigma, ratio)[1]
        results[name, "from closed form"] = max(measured_bias(problem, each, ratio, 200, seed) for each in SIGMAS)
        for metric, value in law_of_samples(problem, ratio, n, steps, seed).items():
            results[name, metric] = value
    pair, _ = problem.draw(n, Rng(seed, n, "floor"))
    exact = error_given(problem.law.mean, problem.law.covariance, pair, 2)
    return results | {("exact samples", metric): value for metric, value in exact.items()}


def cmde_arms(seeds: int = 5) -> list[Arms]:
    """The arms of the conditional estimators, for a recipe: CDE, CMDE at three ratios, CDiffE, and exact samples."""
    roles: dict[str, Role] = {**ROLES, "exact samples": "floor"}
    quick, full = {"n": 10_000, "steps": 300}, {"n": 50_000, "steps": 1000}
    return [Arms(roles, measure, DATA, quick=quick, full=full, seeds=seeds)]


def cmde_checks(value: Numbers) -> Mapping[str, bool]:
    """The law is as good as with a clean condition; the bias is that of the closed form and falls with sigma_y.

    None without the arms.
    """
    if ("CDE", "mean") not in value:
        return {}
    names = list(RATIOS)
    apart = max(value[name, "from closed form"] for name in names)
    sizes = [max(value[name, f"bias@{sigma:g}"] for sigma in SIGMAS) for name in names]
    slow, clean, same = ((value[name, "mean"], value[name, "covariance"]) for name in ("CMDE 0.05", "CDE", "CDiffE"))
    return {
        f"a slow condition (0.05) serves as a clean one: mean off by {slow[0]:.3f} and {clean[0]:.3f}, covariance by "
        f"{slow[1]:.3f} and {clean[1]:.3f} (apart by 0.05 at most)": all(
            ours < theirs + 0.05 for ours, theirs in zip(slow, clean, strict=True)
        ),
        f"a condition with the noise of x does not ({same[0]:.3f} and {same[1]:.3f})": all(
            other > 5 * max(pair) for other, *pair in zip(same, slow, clean, strict=True)
        ),
        f"the bias of the score is that of the closed form (within {apart:.0e})": apart < 1e-6,
        f"and falls with sigma_y / sigma_x ({', '.join(f'{size:.3f}' for size in sizes)})": sizes == sorted(sizes),
    }
