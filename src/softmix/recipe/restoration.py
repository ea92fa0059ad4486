"""Restoration: the posterior of an image given a measurement of it, by several heads and losses on one trunk.

An image is measured in one of three ways: its lower half is not seen, it has a quarter of its resolution, or it is
blurred. Noise is added to each. The measurement is the image condition of the network. Draws for held-out measurements
are compared with the images that they were made of.

The data are images, or a mixture of Gaussians fitted to digits, for which the exact posterior given y is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from .. import training
from ..cond import Cond
from ..data import Data, Degraded, Report, load
from ..data.store import make
from ..data.toys import ToyMixture
from ..denoiser import Denoiser, MixtureHead
from ..evaluate import ReferenceSet, calibration, energy_distance, frechet
from ..evaluate.calibration import psnr
from ..loss import FeatureEnergy, FeatureExtractor, Likelihood, Stage
from ..oracle import MixtureProblem, ObservedProblem
from ..process import VP, Gaussian, Noised, few, one_clock
from ..rng import Rng
from ..sampler import adams, ancestral, ddim, sample, soft_adams, traits
from ..shape import cell_shares
from ..train import Times, find_device
from ..train import load as load_run
from ..train.make import suitable_precision
from ..train.preset import POSTERIOR_GIVEN_Y
from .contest import steps_for
from .frame import Arms, Results
from .images import DATA_SETS, base, by, logged, reference, training_folder, training_seconds
from .trainings import OWN, Sampling, Training, change, device_of

# with 19 draws the central intervals of 50 and 90 % lie between two of them
DRAWS = 19
COUNTS = (1, 2, 4, 8, 16, 64)
# Pixels of the background are exactly black, and a rank among nearly black draws says nothing. So truth and draws get
# noise of this standard deviation (half a grey level of digits has 0.06) before they are compared.
NOISE = 0.05
# the measurements are of images with one channel
GREY = ("digits", "fashion14", "fashion28")
# the name of the data with a known law, and the shape of its items
KNOWN = "digits, Gaussian mixture"
SHAPE = (1, 8, 8)


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x0 + sd n for square images [B, 1, S, S], with y shown on the grid of the image.

    matrix : A [K, S^2], float64, on the CPU; it is brought to the device of x0.
    sd     : of the noise.
    shown  : y [B, K] -> [B, 1, S, S]; 0 at places that are not seen.
    seen   : 1 at places that are seen and 0 at the others, [S, S].
    """

    name: str
    matrix: Tensor
    sd: float
    shown: Callable[[Tensor], Tensor]
    seen: Tensor

    def observe(self, x0: Tensor, rng: Rng) -> Tensor:
        """y [B, K] of x0 [B, 1, S, S]."""
        clean = x0.flatten(1) @ self.matrix.to(x0).T
        return clean + self.sd * rng.normal(clean.shape, clean.dtype)

    def image(self, y: Tensor) -> Tensor:
        """y as the image of a condition, [B, 2, S, S]: its values, and the places that are seen."""
        values = self.shown(y)
        return torch.cat([values, self.seen.to(values).expand_as(values)], 1)


def half(size: int) -> Measurement:
    """The upper half of the image."""
    rows = (size + 1) // 2
    matrix = torch.eye(size**2, dtype=torch.float64, device="cpu")[: rows * size]
    seen = (torch.arange(size, device="cpu")[:, None] < rows).double().expand(size, size)

    def shown(y: Tensor) -> Tensor:
        return torch.cat([y, y.new_zeros(len(y), size**2 - y.shape[1])], 1).reshape(-1, 1, size, size)

    return Measurement("half", matrix, 0.05, shown, seen)


def coarse(size: int) -> Measurement:
    """Means over cells of about 4 x 4 pixels."""
    cells = round(size / 4)
    shares = cell_shares(size, cells, torch.device("cpu"), torch.float64)
    nearest = torch.arange(size, device="cpu") * cells // size

    def shown(y: Tensor) -> Tensor:
        return y.reshape(-1, 1, cells, cells)[:, :, nearest[:, None], nearest]

    return Measurement("coarse", torch.kron(shares, shares), 0.05, shown, torch.ones(size, size, device="cpu"))


def blurred(size: int) -> Measurement:
    """A Gaussian blur with a standard deviation of an eighth of the side, at least a pixel, and stronger noise."""
    place = torch.arange(size, dtype=torch.float64, device="cpu")
    weights = (-((place[:, None] - place) ** 2) / (2 * max(size / 8, 1.0) ** 2)).exp()
    weights = weights / weights.sum(1, keepdim=True)
    return Measurement(
        "blurred",
        torch.kron(weights, weights),
        0.1,
        lambda y: y.reshape(-1, 1, size, size),
        torch.ones(size, size, device="cpu"),
    )


@dataclass(frozen=True)
class OneOfThree:
    """x0 -> the image of one of the three measurements, chosen for each item with equal probability."""

    size: int

    @property
    def fingerprint(self) -> str:
        return ", ".join(f"{each.name} {each.sd:g}" for each in measurements(self.size)) + f" at {self.size}"

    def __call__(self, x0: Tensor, rng: Rng) -> Tensor:
        images = [each.image(each.observe(x0, rng.child(each.name))) for each in measurements(self.size)]
        # a uniform float32 can be rounded to 1
        kind = (rng.child("kind").uniform((len(x0),)) * len(images)).long().clamp(max=len(images) - 1)
        return torch.stack(images)[kind, torch.arange(len(x0), device=kind.device)].to(x0)


@lru_cache(maxsize=8)
def measurements(size: int) -> tuple[Measurement, ...]:
    """The three measurements of images of a size."""
    return half(size), coarse(size), blurred(size)


@dataclass(frozen=True)
class OwnNoise(FeatureEnergy):
    """The control in which the noise takes the place of the latent: each draw of an item has an x_t of its own.

    With eta = 0 the draws of one item then differ by x_t alone, at logsnr <= `until`. A step has m times as many x_t as
    that of `FeatureEnergy`. Items have a condition, and all of them teach the mean; else ValueError.
    """

    def ask(self, denoiser: Denoiser, noised: Noised, rng: Rng, stage: Stage) -> Tensor:
        if stage.frozen is None:
            return super().ask(denoiser, noised, rng, stage)
        if self.mean < 1 or self.compares(noised.cond):
            given = "no condition" if noised.cond is None else "a condition"
            raise ValueError(f"OwnNoise is for items with a condition and mean = 1; found {given} and {self.mean:g}")
        process, groups = one_clock(noised.process, "OwnNoise"), self._groups(noised)
        border = float(process.time(self.until))
        low = noised.at(border * noised.t)
        loss = self._squared(denoiser(low.xt, low.t, low.cond), low)
        high, streams = noised.take(groups.draw_items), rng.take(groups.draw_items)
        t = border + (1 - border) * high.t
        own = [process.noise(high.x0, t, streams.child(f"noise.{k}"), high.cond) for k in range(self.m)]
        drawn = [denoiser(each.xt, each.t, each.cond).draws(1, streams)[0] for each in own]
        scores = self._scores(torch.stack(drawn), noised, groups, cast(FeatureExtractor, stage.frozen))
        return loss + torch.cat([scores, scores.new_zeros(groups.count - groups.drawn)])


# from 8 steps on soft-adams is adams
FIRST = (Sampling("soft-adams", soft_adams, most=4, grid=few), Sampling("mean, adams", adams, most=8))
SILENT = replace(OWN, scale=0.0)
TRAININGS: dict[str, Training] = {
    # at t = 1 the best mean given x_1 and y is that given y
    "regression": Training("baseline", change(times=Times(low=0.999)), (Sampling("mean", ddim, most=1),)),
    "plain": Training(
        "baseline",
        change(),
        (Sampling("ddim", ddim, most=16), Sampling("adams", adams, most=16), Sampling("ancestral", ancestral)),
    ),
    "plain, twice the images": Training(
        "control", change(), (Sampling("ddim", ddim, most=4), Sampling("adams", adams, most=8)), longer=2.0
    ),
    "explicit mixture": Training(
        "ours", change(head=MixtureHead(8, "pixel"), loss=Likelihood(0.5)), (Sampling("draws", ancestral, most=16),)
    ),
    "soft mixture": Training("ours", change(head=OWN, loss=POSTERIOR_GIVEN_Y), FIRST),
    "soft mixture, eta = 0": Training("control", change(head=SILENT, loss=POSTERIOR_GIVEN_Y), FIRST),
    "own noise, eta = 0": Training("control", change(head=SILENT, loss=OwnNoise(**asdict(POSTERIOR_GIVEN_Y))), FIRST),
}


class Case(Protocol):
    """Data to train on, held-out images, and comparisons of draws with them."""

    @property
    def train(self) -> Data: ...

    def held_out(self, n: int) -> Tensor:
        """[n, 1, S, S]."""
        ...

    def compare(self, draws: Tensor, kind: Measurement, y: Tensor, seed: int) -> Mapping[str, float]:
        """Further measures of draws [m, n, 1, S, S] given y [n, K]."""
        ...


@dataclass(frozen=True)
class OfImages:
    """Images, of which only one x0 is known for each y."""

    data: str
    out: Path

    @cached_property
    def known(self) -> ReferenceSet:
        return reference(self.data, self.out)

    @property
    def train(self) -> Data:
        return self.known.train

    def held_out(self, n: int) -> Tensor:
        """The last n. The settings of the soft mixture were chosen on the first 100 of digits."""
        if n > len(self.known.real):
            raise ValueError(f"{n} held-out images were asked for, and {self.data} has {len(self.known.real)}")
        return self.known.real[-n:]

    def compare(self, draws: Tensor, kind: Measurement, y: Tensor, seed: int) -> Mapping[str, float]:
        found = self.known.features(draws.flatten(0, 1).clamp(-1, 1))
        return {"frechet": frechet(self.known.real_features, found)}


@dataclass(frozen=True)
class KnownLaw:
    """A mixture of 20 Gaussians fitted to digits of 8 x 8, with the exact posterior given y."""

    @property
    def train(self) -> Data:
        count = 20_000
        x0 = law_of_digits().sample(count, Rng(0, count, "train")).float().reshape(-1, *SHAPE)
        return make(KNOWN, x0, None, (), Report(read=count))

    def held_out(self, n: int) -> Tensor:
        return law_of_digits().sample(n, Rng(0, n, "held out")).float().reshape(-1, *SHAPE)

    def exact(self, m: int, kind: Measurement, y: Tensor, seed: int) -> Tensor:
        """m exact draws for each y, [m, n, 1, S, S]."""
        problem = MixtureProblem(KNOWN, law_of_digits(), VP(), SHAPE)
        posterior = ObservedProblem(problem, kind.matrix, kind.sd).given(y.double())
        return posterior.draws(m, Rng(seed, len(y), f"exact, {kind.name}")).float()

    def compare(self, draws: Tensor, kind: Measurement, y: Tensor, seed: int) -> Mapping[str, float]:
        exact = self.exact(len(draws), kind, y, seed)
        apart = [energy_distance(draws[:, k], exact[:, k]) for k in range(draws.shape[1])]
        return {"energy distance": sum(apart) / len(apart)}


@lru_cache(maxsize=1)
def law_of_digits() -> ToyMixture:
    """A mixture of 20 Gaussians, fitted to the training digits by EM, with 0.06^2 added to all variances."""
    from sklearn.mixture import GaussianMixture

    x0 = load("digits").x0().flatten(1).double()
    # half of a grey level: the pixels at the border are constant
    fitted = GaussianMixture(20, reg_covar=0.06**2, random_state=0).fit(x0.numpy())
    weights, means, covariances = (
        torch.from_numpy(part) for part in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    return ToyMixture(KNOWN, weights / weights.sum(), means, torch.linalg.cholesky(covariances))


def case_of(data: str, out: Path) -> Case:
    return KnownLaw() if data == KNOWN else OfImages(data, out)


def arms(name: str, data: str, out: Path, images: int, n: int, seeds: int = 3) -> Arms:
    """A training as arms of the frame: one for each way to sample it, and one for the training itself.

    data   : one of `GREY`, or `KNOWN`.
    images : the number of training images (with repetition).
    n      : the number of held-out images.
    """
    trained = TRAININGS[name]
    roles = {name: trained.role} | {by(name, way.name): trained.role for way in trained.ways}
    measure = partial(train_and_measure, name, data, out)
    return Arms(roles, measure, f"{data}, {name}", full={"images": images, "n": n}, seeds=seeds)


def exact_arms(n: int, seeds: int = 3) -> Arms:
    """The exact posterior of the known law, at one evaluation."""
    return Arms({EXACT: "oracle"}, _exact, KNOWN, full={"n": n}, seeds=seeds)


EXACT = "exact posterior"


def _exact(seed: int, n: int) -> Results:
    case = KnownLaw()
    results: dict[tuple[str, str], float] = {}
    for kind, x0, y, rng in _held_out_pairs(case, seed, n):
        values = scores(case.exact(DRAWS, kind, y, seed + 1000), x0, rng)
        values |= case.compare(case.exact(DRAWS, kind, y, seed + 2000), kind, y, seed)
        results |= {(EXACT, f"{kind.name} {metric}@1"): value for metric, value in values.items()}
    return results


def train_and_measure(name: str, data: str, out: Path, seed: int, images: int, n: int) -> Results:
    """Train one configuration, or continue its training, and measure every way to sample it.

    Returns values by (arm, "measurement metric@evaluations"), and the seconds and parameters of the training. Lines of
    progress go to log.txt in its folder.
    """
    at, trained, case = training_folder(out, name, data, images, seed), TRAININGS[name], case_of(data, out)
    results: dict[tuple[str, str], float] = {}
    with logged(at):
        train, pairs = case.train, _held_out_pairs(case, seed, n)
        source = Degraded(train, OneOfThree(train.shape[-1]))
        net = DATA_SETS["digits" if data == KNOWN else data][2]
        # y is always given
        plain = base(train.shape, net, round(images * trained.longer), seed).but(drop=0.0)
        config = trained.change(plain, train.shape)
        for step in training(source, config, at / "run", parts=(OwnNoise,)):
            if step.step % 250 == 0:
                print(f"{name}: step {step.step} of {step.total}, loss {step.loss:.4f}", flush=True)
        denoiser = load_run(at / "run", parts=(OwnNoise,)).denoiser.to(find_device())
        for way in trained.ways:
            for count in way.within(COUNTS):
                for kind, x0, y, rng in pairs:
                    draws = _drawn(way, count, denoiser, kind, y, seed)
                    values = scores(draws, x0, rng) | dict(case.compare(draws, kind, y, seed))
                    found = {f"{kind.name} {metric}@{count}": value for metric, value in values.items()}
                    results |= {(by(name, way.name), metric): value for metric, value in found.items()}
                    print(f"{name}, {way.name}, {count}, {kind.name}: {values['crps']:.4f}", flush=True)
    results[name, "training seconds"] = training_seconds(at / "run", config.batch)
    results[name, "parameters"] = sum(p.numel() for p in denoiser.parameters())
    return results


def _held_out_pairs(case: Case, seed: int, n: int) -> list[tuple[Measurement, Tensor, Tensor, Rng]]:
    """Each measurement with held-out images x0, their y, and the random stream of their comparison."""
    x0 = case.held_out(n)
    return [
        (kind, x0, kind.observe(x0, Rng(seed, n, f"held out, {kind.name}")), Rng(seed, n, f"compared, {kind.name}"))
        for kind in measurements(x0.shape[-1])
    ]


def _drawn(way: Sampling, count: int, denoiser: Denoiser, kind: Measurement, y: Tensor, seed: int) -> Tensor:
    """Draws for each y, [m, n, 1, S, S]."""
    process, steps = denoiser.process, steps_for(way.sampler, count)
    assert isinstance(process, Gaussian)
    grid = (way.grid or traits(way.sampler).grid)(process, steps)
    cond = Cond(image=kind.image(y)).repeat(DRAWS)
    device = device_of(denoiser)
    x = sample(
        *(denoiser, len(cond), steps),
        sampler=way.sampler,
        seed=seed,
        cond=cond,
        grid=grid,
        device=device,
        # as in training; its rounding is a tenth of NOISE
        precision=suitable_precision(device),
    )
    return x.cpu().unflatten(0, (DRAWS, len(y)))


def scores(draws: Tensor, x0: Tensor, rng: Rng) -> dict[str, float]:
    """The calibration of draws [m, n, ...] with noise, and the PSNR of their mean without it."""
    noise = [NOISE * rng.child(f"noise.{k}").normal(x0.shape) for k in range(len(draws) + 1)]
    found = calibration(draws + torch.stack(noise[1:]), x0 + noise[0], rng)
    low, high = found.inside
    ranks = torch.tensor(found.ranks, dtype=torch.float64, device="cpu")
    return {
        "crps": found.crps,
        "energy": found.energy,
        "inside 50": low,
        "inside 90": high,
        "spread/error": found.spread_skill,
        # 0 for flat ranks, 1 if all are equal
        "unevenness": float((ranks / ranks.sum() - 1 / len(ranks)).abs().sum() / (2 - 2 / len(ranks))),
        "psnr": psnr(float((draws.mean(0) - x0).square().mean().sqrt())),
    }
