"""Digits as signs, measured in part or coarsely: anchored sampling beside the loss alone, and particles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor

from ..cond import Cond
from ..data import Data, load
from ..data.store import make
from ..denoiser import CategoricalHead, Denoiser, Network
from ..loss import MaskedCrossEntropy
from ..measure import GaussianNoise, Instrument, anchored, crop, smaller, token_particles
from ..net import TokenSpec
from ..posterior import Categorical
from ..process import Masked
from ..rng import Rng
from ..sampler import sample, unmask
from ..train import Config, Denoise, Optimiser
from .frame import Arms, Numbers, Results
from .in_memory import averaged_on_cpu
from .paper import Role

DATA, SIDE, STEPS, SD = "digits, 8 x 8 signs, y with noise of 0.3", 8, 16, 0.3
SHAPE = (1, SIDE, SIDE)
INSTRUMENTS: dict[str, Callable[[], Instrument]] = {
    "half": lambda: Instrument(crop(0, 0, SIDE // 2, SIDE, SHAPE), GaussianNoise(SD)),
    "coarse": lambda: Instrument(smaller(2, SHAPE), GaussianNoise(SD)),
}
FREE, TRUTH = "digits, without y", "digits, the truth"
OURS, USUAL = "digits, quantised, anchored order", "digits, quantised, usual order"
SOFT = "digits, expected, anchored order"
ALONE = "digits, expected, the loss alone"
PARTICLES, BEST = "digits, 64 particles", "digits, best of 64"
# name: the role, whether the model is there, and the settings
FITTED: dict[str, tuple[Role, bool, dict[str, Any]]] = {
    OURS: ("ours", True, {}),
    USUAL: ("baseline", True, {"confidence": "prior"}),
    "digits, quantised, random order": ("control", True, {"confidence": "random"}),
    SOFT: ("ours", True, {"at": "expected"}),
    "digits, expected, usual order": ("baseline", True, {"at": "expected", "confidence": "prior"}),
    "digits, quantised, anchored order, without the KL": ("control", True, {"prior": 0.0}),
    "digits, quantised, the loss alone": ("baseline", False, {"prior": 0.0}),
    ALONE: ("baseline", False, {"at": "expected", "prior": 0.0}),
}


class NoModel:
    """Both signs equally likely, in the place of a model: what remains is the loss of y."""

    process, shape = Masked(2), (SIDE * SIDE,)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Categorical:
        return Categorical(torch.zeros(len(xt), 2, *xt.shape[1:], device=xt.device))


@cache
def signs() -> tuple[Data, Data]:
    """Training and held-out digits, with 1 for a pixel above the middle grey."""
    return _as_signs(load("digits")), _as_signs(load("digits", split="test"))


def _as_signs(data: Data) -> Data:
    values = (data.x0().flatten(1) > 0).int()
    return make("digits2", values, data.labels, data.classes, data.report, vocabulary=2)


@lru_cache(maxsize=4)
def trained(seed: int, steps: int) -> Network:
    """A network of three blocks after so many steps of 64 items."""
    task = Denoise(Masked(), TokenSpec(64, 3), CategoricalHead(), MaskedCrossEntropy(), output="x0")
    optimiser = Optimiser(rate=2e-3, warmup=100, decay=0.6)
    config = Config(task, steps=steps, batch=64, seed=seed, precision="fp32", optimiser=optimiser)
    return cast(Network, averaged_on_cpu(signs()[0], config)).eval()


def codes() -> Tensor:
    """The value of each sign, [2, 1]."""
    return torch.tensor([[-1.0], [1.0]])


def pictures(vectors: Tensor) -> Tensor:
    """Images of vectors of codes, [B, 64, 1]."""
    return vectors.reshape(-1, *SHAPE)


def images_of(tokens: Tensor) -> Tensor:
    """Images of tokens, [B, 64]."""
    return pictures(codes().to(tokens.device)[tokens.long()])


def of_particles(
    model: Denoiser, instrument: Instrument, y: Tensor, seed: int, threshold: float, particles: int
) -> Tensor:
    """One draw by its weight for each y, [B, 64]."""
    drawn = []
    for item, each in enumerate(y.split(1)):
        rng, likelihood = Rng(seed, particles, f"particles {item}"), partial(_log_lik, instrument, each)
        found = token_particles(model, likelihood, codes(), particles, STEPS, rng, threshold=threshold)
        drawn.append(found.resampled(1, Rng(seed, 1, f"choice {item}")))
    return torch.cat(drawn)


def _log_lik(instrument: Instrument, y: Tensor, vectors: Tensor) -> Tensor:
    return instrument.log_lik(y, pictures(vectors))


def on_digits(seed: int, steps: int, n: int, inner: int, particles: int) -> Results:
    """The share of wrong pixels and the misfit to y in units of the noise, for each instrument."""
    model, none, truth = trained(seed, steps), NoModel(), signs()[1].x0()[:n]
    results: dict[tuple[str, str], float] = {}
    for name, build in INSTRUMENTS.items():
        instrument = build()
        y = instrument.observe(images_of(truth), Rng(seed, n, name))
        likelihood = partial(_log_lik, instrument, y)

        def note(arm: str, x: Tensor, instrument: Instrument = instrument, y: Tensor = y, name: str = name) -> None:
            results[arm, f"wrong@{name}"] = float((x != truth).double().mean())
            results[arm, f"misfit@{name}"] = float(instrument.residual(y, images_of(x)).square().mean().sqrt())

        note(TRUTH, truth)
        note(FREE, sample(model, n, STEPS, sampler=partial(unmask, confidence="random"), seed=seed, batch=n))
        for arm, (_, given, changed) in FITTED.items():
            sampler = anchored(likelihood, codes(), **{"inner": inner, **changed})
            note(arm, sample(model if given else none, n, STEPS, sampler=sampler, seed=seed, batch=n))
        note(BEST, of_particles(model, instrument, y, seed, 0.0, particles))
        note(PARTICLES, of_particles(model, instrument, y, seed, 0.5, particles))
    return results


def checks(value: Numbers) -> Mapping[str, bool]:
    """The model, the order, and particles, for both instruments."""
    wrong = {name: [value[name, f"wrong@{each}"] for each in INSTRUMENTS] for name in ROLES}
    misfit = [value[OURS, f"misfit@{each}"] for each in INSTRUMENTS]

    def below(a: str, b: str) -> bool:
        return all(x < y for x, y in zip(wrong[a], wrong[b], strict=True))

    def text(name: str) -> str:
        return ", ".join(f"{each:.3f}" for each in wrong[name])

    return {
        f"on digits, half seen and coarse, fewer pixels are wrong than by the same loss without a model ({text(OURS)}; "
        f"{text(ALONE)})": below(OURS, ALONE),
        f"and than in the usual order ({text(USUAL)})": below(OURS, USUAL),
        f"and than with expected codes ({text(SOFT)})": below(OURS, SOFT),
        f"and than by 64 particles ({text(PARTICLES)})": below(OURS, PARTICLES),
        f"and y is fitted to within 1.5 sd ({misfit[0]:.2f}, {misfit[1]:.2f})": max(misfit) < 1.5,
    }


ROLES: dict[str, Role] = {
    **{name: role for name, (role, _, _) in FITTED.items()},
    FREE: "baseline",
    BEST: "rival",
    PARTICLES: "rival",
    TRUTH: "floor",
}
ARMS = Arms(ROLES, on_digits, DATA, None, {"steps": 1000, "n": 200, "inner": 100, "particles": 64}, seeds=3)
