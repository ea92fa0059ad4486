"""Guidance by draws beside guidance by the mean, on mixtures of Gaussians with an exact posterior given y.

Problems 3 to 5 are images: a mixture fitted to digits of 8 x 8, measured as in `softmix.recipe.restoration`. Problems 6
to 8 are the same with networks that were trained on draws of the mixture, in the place of its exact posterior.

    python bench/guidance.py
    python bench/guidance.py --only 6 7 8 --n 100 --out runs/guidance

Each seed has its own y. The columns are the mean and the spread over seeds:

gradient  : |estimate - exact| / |exact| of grad log p(y | x_t), sums over the items, the mean over noise levels. For a
            network without guidance it is 1
adams     : the energy distance of samples after 20 steps of adams to exact draws of p(x0 | y), times 1000
ancestral : the same for 20 ancestral steps

The rows by the mean are at the best of 15 scales for each column. "norm" is the likelihood -|y - A(x0)|, the step of
DPS. Draws against draws is the floor. "through" has the gradient through 16 draws of each component.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmix import Cond, Rng, oracle, training
from softmix.denoiser import Denoiser, SoftHead, Wrap, within
from softmix.denoiser.wrap import Wrapped
from softmix.evaluate import energy_distance
from softmix.loss import Energy
from softmix.measure import (
    Likelihood,
    gaussian_likelihood,
    guided_by_draws,
    guided_by_mean,
    guided_through_draws,
)
from softmix.oracle.observed import regression
from softmix.posterior import Empirical, HasMean, Point, need
from softmix.process import VP, few
from softmix.recipe.images import DATA_SETS, base
from softmix.recipe.restoration import KNOWN, SHAPE, KnownLaw, Measurement, law_of_digits, measurements
from softmix.sampler import Sampler, adams, ancestral, drive
from softmix.sampler.drive import finish
from softmix.train import load as load_run

F64 = torch.float64
# a network with a mean, and a soft mixture with draws at all noise levels
LEARNED: dict[str, dict[str, Any]] = {"plain": {}, "soft": {"head": SoftHead(), "loss": Energy(m=4, weight="v")}}
LEVELS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)
SCALES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.5, 4.0)
DRAWS = (1, 4, 16, 64)
STEPS, SD = 20, 0.3
Operator = Callable[[Tensor], Tensor]
# the three columns of one row for one seed, and for all seeds
Values = tuple[float, float, float]
Columns = list[list[float]]


@dataclass(frozen=True)
class Task:
    """A mixture, one y, and the exact posterior.

    operator : A, from x0 [B, D] to [B, K].
    sd : of the noise of y.
    exact : the denoiser of q(x0 | x_t, y).
    draw : n exact draws of p(x0 | y), [n, D].
    prior : the denoiser of q(x0 | x_t) to be guided: the exact one, or a network.
    least : the least logsnr with guidance: at more noise sigma^2 / alpha would enlarge the errors of a network.
    """

    problem: oracle.MixtureProblem
    y: Tensor
    operator: Operator
    sd: float
    exact: Denoiser
    draw: Callable[[int, Rng], Tensor]
    prior: Denoiser
    least: float = -float("inf")

    def guided(self, wrap: Wrap) -> Denoiser:
        """The prior with guidance, from `least` on."""
        return within(self.least, float("inf"), wrap)(self.prior)

    @property
    def likelihood(self) -> Likelihood:
        return gaussian_likelihood(self.y, self.sd, self.operator)

    def norm(self, x0: Tensor) -> Tensor:
        """-|y - A(x0)|."""
        return -(self.y - self.operator(x0)).norm(dim=1)


def linear(problem: oracle.MixtureProblem, matrix: Tensor, seed: int, sd: float = SD) -> Task:
    """y = A x0 + sd z."""
    observed = oracle.ObservedProblem(problem, matrix, sd)
    y = observed.draw(1, Rng(seed, 1, "truth"))[1].value
    assert y is not None
    known = observed.denoiser()
    exact = Wrapped(problem.denoiser(), lambda inner, xt, t, cond: known(xt, t, Cond(value=y.expand(len(xt), -1))))

    def operator(x0: Tensor) -> Tensor:
        return x0.flatten(1) @ matrix.T.to(x0)

    def draw(n: int, rng: Rng) -> Tensor:
        return observed.given(y.expand(n, -1)).sample(rng).flatten(1)

    return Task(problem, y, operator, sd, exact, draw, problem.denoiser())


def squared_length(problem: oracle.MixtureProblem, seed: int) -> Task:
    """y = |x0|^2 + sd z in the plane. Truth is a sum over a grid with a distance of 0.06."""
    operator: Operator = lambda x0: x0.square().sum(1, keepdim=True)  # noqa: E731
    y = operator(problem.sample(1, Rng(seed, 1, "truth")))
    y = y + SD * Rng(seed, 1, "noise").normal(y.shape, F64)
    line = torch.linspace(-3.6, 3.6, 121, dtype=F64)
    points = torch.cartesian_prod(line, line)
    logs = problem.law.log_prob(points) + gaussian_likelihood(y, SD, operator)(points)
    # points that matter: the others have less than 1e-9 of the largest weight
    points, logs = (part[logs > logs.max() - 20] for part in (points, logs))

    def exact(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: object) -> Empirical:
        alpha, sigma = (float(part(t)) for part in (problem.process.alpha, problem.process.sigma))
        return Empirical(logs - torch.cdist(xt, alpha * points).square() / (2 * sigma**2), points)

    def draw(n: int, rng: Rng) -> Tensor:
        on_grid = Empirical(logs.expand(n, -1), points).sample(rng)
        return on_grid + (line[1] - line[0]) * (rng.uniform((n, 2), F64) - 0.5)

    return Task(problem, y, operator, SD, Wrapped(problem.denoiser(), exact), draw, problem.denoiser())


def of_digits(kind: Measurement, seed: int) -> Task:
    """A measurement of an image of 8 x 8 pixels, from the mixture of 20 Gaussians fitted to digits."""
    problem = oracle.MixtureProblem(KNOWN, law_of_digits(), VP(), SHAPE)
    return linear(problem, kind.matrix, seed, kind.sd)


def learned(name: str, seed: int, out: Path) -> Denoiser:
    """A network of `LEARNED`, trained on 20,000 draws of the mixture, three times each, or read from its folder.

    Both networks have seen the same images. A step of the soft one takes longer: it has four draws.
    """
    source, at = KnownLaw().train, out / f"{name}-{seed}"
    for step in training(source, base(SHAPE, DATA_SETS["digits"][2], 60_000, seed).but(**LEARNED[name]), at):
        if step.step % 250 == 0:
            print(f"{name}, seed {seed}: step {step.step} of {step.total}", file=sys.stderr, flush=True)
    # the tasks are in double precision, and networks are not
    network = load_run(at).denoiser
    return Wrapped(network, lambda inner, xt, t, cond: inner(xt.float(), t, cond))


def tasks() -> dict[str, Callable[[int], Task]]:
    """The problems, each as a function from the seed of its y."""
    plane, large = oracle.correlated(), oracle.correlated((16,))
    of_large = Rng(3, 4).normal((4, 16), F64) / 4
    return {
        "plane, y = x_1 + x_2": lambda seed: linear(plane, torch.ones(1, 2, dtype=F64), seed),
        "16 dimensions, 4 measured": lambda seed: linear(large, of_large, seed),
        "plane, y = \\|x0\\|^2": lambda seed: squared_length(plane, seed),
    } | {f"digits of 8 x 8, {kind.name}": partial(of_digits, kind) for kind in measurements(8)}


def tasks_of_networks() -> dict[str, Callable[[int], Task]]:
    """The problems of digits once more, for networks."""
    return {f"digits of 8 x 8, {kind.name}, learned": partial(of_digits, kind) for kind in measurements(8)}


def mean_of(denoiser: Denoiser, xt: Tensor, t: float) -> Tensor:
    return need(denoiser(xt, t), HasMean, "bench/guidance.py").mean.detach()


def gradient_error(task: Task, denoiser: Denoiser, n: int, seed: int) -> float:
    """The gradients are alpha / sigma^2 times the changes of the mean by y, so that the ratio is that of changes."""
    process, errors = task.problem.process, []
    exact_prior = task.problem.denoiser()
    for level in LEVELS:
        t = float(process.time(level))
        x0 = task.draw(n, Rng(seed, n, "x0")).unflatten(1, task.problem.shape)
        xt = process.noise(x0, t, Rng(seed, n, f"xt {level}")).xt
        right = mean_of(task.exact, xt, t) - mean_of(exact_prior, xt, t)
        off = mean_of(denoiser, xt, t) - mean_of(task.prior, xt, t) - right
        errors.append(float(off.flatten(1).norm(dim=1).mean() / right.flatten(1).norm(dim=1).mean()))
    return statistics.mean(errors)


def distance(task: Task, denoiser: Denoiser, sampler: Sampler, n: int, seed: int) -> float:
    process = task.problem.process
    noise = process.prior((n, *task.problem.shape), Rng(seed, n, "prior")).double()
    x = finish(drive(denoiser, sampler, noise, few(process, STEPS), Rng(seed, n, "sampler")))
    if not x.isfinite().all():
        return float("inf")
    return 1000 * energy_distance(x.flatten(1), task.draw(n, Rng(seed, n, "exact")))


def values(task: Task, denoiser: Denoiser, n: int, seed: int) -> Values:
    samples = (distance(task, denoiser, sampler, n, seed) for sampler in (adams, ancestral))
    return (gradient_error(task, denoiser, n // 4, seed), *samples)  # type: ignore[return-value]


def floor(task: Task, n: int, seed: int) -> float:
    return 1000 * energy_distance(task.draw(n, Rng(seed, n, "exact")), task.draw(n, Rng(seed, n, "other")))


def rows(make: Callable[[int], Task], n: int, seeds: Sequence[int]) -> Iterator[tuple[str, Columns]]:
    """The rows of one problem: a name, and for each column its values over seeds."""
    made = [make(seed) for seed in seeds]
    table = Table(made, seeds, n)
    yield from table.truth()
    yield from table.by_mean()
    for m in DRAWS:
        yield f"by draws, m = {m}", table.of(partial(by_draws, m))
    yield "through 16 draws of each component", table.of(partial(through_components, 16))


def rows_of_networks(
    make: Callable[[int], Task], n: int, seeds: Sequence[int], out: Path
) -> Iterator[tuple[str, Columns]]:
    """The same with networks in the place of the exact q(x0 | x_t)."""
    made = [make(seed) for seed in seeds]
    yield from Table(made, seeds, n).truth()
    for name in LEARNED:
        ready = [replace(task, prior=learned(name, s, out), least=-6.1) for task, s in zip(made, seeds, strict=True)]
        table = Table(ready, seeds, n)
        yield from ((f"{name}, {row}", columns) for row, columns in table.by_mean())
        if name == "soft":
            for m in DRAWS[1:]:
                yield f"soft, by draws, m = {m}", table.of(partial(by_draws, m))
            yield "soft, through 16 draws", table.of(partial(through_draws, 16))


@dataclass(frozen=True)
class Table:
    """The tasks of some seeds, measured with n samples."""

    tasks: Sequence[Task]
    seeds: Sequence[int]
    n: int

    def of(self, make: Callable[[Task, int], Denoiser]) -> Columns:
        """The columns of a denoiser for each task and seed."""
        each = [values(task, make(task, s), self.n, s) for task, s in zip(self.tasks, self.seeds, strict=True)]
        return [list(column) for column in zip(*each, strict=True)]

    def truth(self) -> Iterator[tuple[str, Columns]]:
        at_least = [floor(task, self.n, s) for task, s in zip(self.tasks, self.seeds, strict=True)]
        yield "exact draws (floor)", [[], at_least, at_least]
        yield "exact posterior given y", self.of(lambda task, _: task.exact)

    def by_mean(self) -> Iterator[tuple[str, Columns]]:
        """Without guidance, and by the mean."""
        yield "no guidance", self.of(lambda task, _: task.prior)
        yield "by the mean, scale 1", self.of(lambda task, _: task.guided(guided_by_mean(task.likelihood)))
        yield "by the mean, best scale", self.best(lambda task: task.likelihood, SCALES)
        yield "by the mean, norm, best scale", self.best(lambda task: task.norm, [5 * scale for scale in SCALES])

    def best(self, likelihood: Callable[[Task], Likelihood], scales: Sequence[float]) -> Columns:
        """The best scale for each column."""

        def guided(scale: float) -> Columns:
            return self.of(lambda task, _: task.guided(guided_by_mean(likelihood(task), scale)))

        return [min(each, key=statistics.mean) for each in zip(*map(guided, scales), strict=True)]


def by_draws(m: int, task: Task, seed: int) -> Denoiser:
    """Guidance by m weighted draws."""
    return task.guided(_each_batch(lambda n: guided_by_draws(task.likelihood, m, Rng(seed, n, "draws"))))


def through_draws(m: int, task: Task, seed: int) -> Denoiser:
    """The same by the gradient through draws."""
    return task.guided(_each_batch(lambda n: guided_through_draws(task.likelihood, m, Rng(seed, n, "draws"))))


def _each_batch(make: Callable[[int], Wrap]) -> Wrap:
    """A wrap for batches of the two sizes that the columns use."""

    def wrap(denoiser: Denoiser) -> Denoiser:
        return Wrapped(denoiser, lambda inner, xt, t, cond: make(len(xt))(inner)(xt, t, cond))

    return wrap


def through_components(m: int, task: Task, seed: int) -> Denoiser:
    """The gradient through draws: of log sum_k w_k (1/m) sum_j p(y | m_k + F_k z_j), with m draws of each component.

    The choice of a component is not differentiable, and its weight is.
    """
    process, law = task.problem.process, task.problem.law

    def call(inner: Denoiser, xt: Tensor, t: Tensor | float, cond: Any) -> Point:
        alpha, sigma = (float(part(t)) for part in (process.alpha, process.sigma))
        eye, noise = torch.eye(law.dim, dtype=F64)[None], torch.full((1, law.dim), sigma**2, dtype=F64)
        z = Rng(seed, len(xt), f"components {float(t)}").normal((len(xt), m, len(law.weights), law.dim), F64)
        with torch.enable_grad():
            x = xt.detach().flatten(1).requires_grad_()
            logs, means, factors = regression(law, alpha * eye, noise, x)
            draws = means[:, None] + torch.einsum("kde,bmke->bmkd", factors[0], z)
            each = task.likelihood(draws.flatten(0, 2)).reshape(draws.shape[:3]) + logs.log_softmax(1)[:, None]
            (slope,) = torch.autograd.grad(each.flatten(1).logsumexp(1).sum(), x)
        return Point(mean_of(inner, xt, float(t)) + sigma**2 / alpha * slope.reshape(xt.shape))

    return Wrapped(task.prior, call)


def cell(found: Sequence[float], digits: int) -> str:
    if not found:
        return ""
    mean = statistics.mean(found)
    if not mean < float("inf"):
        return "diverges"
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return f"{mean:.{digits}f}±{spread:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n", type=int, default=600)
    parser.add_argument(
        "--only", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5], help="the problems, by their numbers"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/guidance"), help="the folder of the networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.process_time()
    print("| problem | posterior given y | gradient | adams | ancestral |\n|---|---|---|---|---|")
    exact, networks = tasks(), tasks_of_networks()
    for name in [[*exact, *networks][k] for k in options.only]:
        if name in exact:
            found = rows(exact[name], options.n, options.seeds)
        else:
            found = rows_of_networks(networks[name], options.n, options.seeds, options.out)
        for row, (gradient, by_adams, by_ancestral) in found:
            cells = (cell(gradient, 2), cell(by_adams, 1), cell(by_ancestral, 1))
            print(f"| {name} | {row} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.process_time() - begun:.0f} s of one thread, {options.n} samples, seeds {options.seeds}")


if __name__ == "__main__":
    main()
