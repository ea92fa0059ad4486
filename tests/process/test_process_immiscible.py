"""Immiscible diffusion: the coupled law against its closed form, what stays valid, and what is refused."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from softmix import Cond
from softmix.cond import CondError
from softmix.data import Data, DataError, Report, load
from softmix.data.store import make
from softmix.denoiser import MapHead, NormalHead, PointHead, SoftHead
from softmix.info import where_to_start
from softmix.loss import Consistency, FeatureDrift, FeatureEnergy, Likelihood
from softmix.measure import gaussian_likelihood, guided_by_draws, guided_by_mean
from softmix.net import MLPSpec
from softmix.oracle import gaussian, ks
from softmix.posterior import Point, Posterior
from softmix.process import VP, Flow, Immiscible, InBasis, cosine, require_independent
from softmix.process.immiscible import assignment
from softmix.rng import Rng
from softmix.sampler import (
    GaussianFit,
    Sampler,
    SamplerError,
    adams,
    ancestral,
    contraction,
    ddim,
    renoise,
    sample,
    sde_dpm_solver_2m,
)
from softmix.train import Config, Denoise, Run, Trainer, facts_of

F64 = torch.float64


def many(process: Immiscible, x0: Tensor, batch: int, cond: Tensor | None = None) -> Tensor:
    """z of all items, in batches."""
    parts = []
    for low, high in pairwise(range(0, len(x0) + 1, batch)):
        rows = slice(low, high)
        given = None if cond is None else cond[rows]
        parts.append(process.coupled(x0[rows], 0.5, Rng(0, torch.arange(low, high)), given).z)
    return torch.cat(parts)


def two_points(n: int, p: float = 0.3) -> Tensor:
    return torch.where(Rng(7, n).uniform((n, 1), F64) < p, 1.0, -1.0).double()


# the law


def test_the_assignment_is_the_best_of_all_permutations() -> None:
    x0, z = Rng(0, 5, "x0").normal((5, 2, 2)), Rng(0, 5, "z").normal((5, 2, 2))
    away = torch.cdist(x0.flatten(1), z.flatten(1)) ** 2
    best = min(
        torch.cartesian_prod(*[torch.arange(5)] * 5).unbind(0),
        key=lambda order: float("inf") if len(set(order.tolist())) < 5 else float(away[torch.arange(5), order].sum()),
    )
    assert torch.equal(assignment(x0, z), best)


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_two_points_are_coupled_as_the_closed_form_says(batch: int) -> None:
    """P(x0 = 1 | z) = P(Bin(B - 1, 1 - Phi(z)) < Bin(B, p)): E[x0 z] and E[x0 z^3], in standard errors."""
    p, n = 0.3, 64_000
    x0 = two_points(n, p)
    z = many(Immiscible(), x0, batch)
    at = torch.linspace(-6, 6, 4001, dtype=F64)
    above = 1 - torch.special.ndtr(at)
    counts = torch.arange(batch + 1, dtype=F64)

    def binomial(size: int, share: Tensor) -> Tensor:
        k = counts[: size + 1]
        logs = torch.lgamma(torch.tensor(size + 1.0, dtype=F64)) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
        return (logs + torch.xlogy(k, share[:, None]) + torch.xlogy(size - k, 1 - share[:, None])).exp()

    better, ones = binomial(batch - 1, above), binomial(batch, torch.tensor([p], dtype=F64))[0]
    # sum over j of P(j better noises) P(more than j ones)
    more = 1 - ones.cumsum(0)
    h = (better * more[:batch]).sum(1)
    density = (-(at**2) / 2).exp() / math.sqrt(2 * math.pi) * (at[1] - at[0])
    for power in (1, 3):
        right = float((density * at**power * (2 * h - 1)).sum())
        each = (x0 * z**power)[:, 0]
        # items of one batch are not independent: the error of the mean is that of the batches
        means = each.reshape(-1, batch).mean(1)
        assert abs(float(means.mean()) - right) < 4 * float(means.std()) / math.sqrt(len(means))


def test_one_noise_is_still_normal() -> None:
    z = many(Immiscible(), two_points(32_000), 32)
    assert ks(z, gaussian((1,)).through(VP()).at(1.0)) < 2


def test_the_nearest_of_k_lies_towards_the_item() -> None:
    """In one dimension f(z | x0) = k phi(z) (1 - Phi(x0 + r) + Phi(x0 - r))^(k - 1), r = |z - x0|; here its mean."""
    n, k = 40_000, 4
    x0 = torch.ones(n, 1, dtype=F64)
    z = many(Immiscible("nearest", k), x0, n)
    at = torch.linspace(-8, 8, 16001, dtype=F64)
    r, phi = (at - 1).abs(), (-(at**2) / 2).exp() / math.sqrt(2 * math.pi)
    law = k * phi * (1 - torch.special.ndtr(1 + r) + torch.special.ndtr(1 - r)) ** (k - 1) * (at[1] - at[0])
    assert float(law.sum()) == pytest.approx(1, abs=1e-6)
    right = float((law * at).sum())
    assert abs(float(z.mean()) - right) < 4 * float(z.std()) / math.sqrt(n) and right > 0.3


def test_within_a_class_the_noise_is_normal() -> None:
    """Exchanged within the class alone. Over all classes it would have a mean above half a standard deviation."""
    n = 16_000
    label = (Rng(3, n).uniform((n,)) < 0.5).long()
    x0 = torch.where(label == 1, 1.0, -1.0)[:, None].double()
    apart, mixed = many(Immiscible(), x0, 32, label), many(Immiscible(), x0, 32)
    assert abs(float(apart[label == 1].mean())) < 4 / math.sqrt(n / 2)
    assert float(mixed[label == 1].mean()) > 0.5


@pytest.mark.parametrize(("batch", "nearer", "same"), [(32, 0.0217, 0.86), (128, 0.0267, 0.82)])
def test_the_figures_of_fashion_mnist(batch: int, nearer: float, same: float) -> None:
    """By how much the distance falls, the share of pairs that the distance itself gives too, and the correlation of
    data and noise on the first principal component, over 20 batches (measured spreads 0.0006 and 0.01)."""
    linear_sum_assignment = pytest.importorskip("scipy.optimize").linear_sum_assignment
    try:
        x0 = load("fashion-mnist").x0(torch.arange(20 * batch)).flatten(1).double()
    except DataError as error:
        pytest.skip(str(error))
    first = torch.linalg.eigh(torch.cov(x0.T)).eigenvectors[:, -1]
    falls, agree, along = [], [], []
    for rows in x0.split(batch):
        z = Rng(len(falls), batch).normal((batch, 784), F64)
        away, place = torch.cdist(rows, z), torch.arange(batch)
        chosen = assignment(rows, z)
        falls.append(float(1 - away[place, chosen].mean() / away.mean()))
        agree.append(float((chosen == torch.from_numpy(linear_sum_assignment(away.numpy())[1])).double().mean()))
        along.append(torch.stack([(rows - x0.mean(0)) @ first, z[chosen] @ first]))
    assert sum(falls) / 20 == pytest.approx(nearer, abs=0.001) and sum(agree) / 20 == pytest.approx(same, abs=0.04)
    assert float(torch.corrcoef(torch.cat(along, 1))[0, 1]) > 0.6


def test_the_state_has_the_noise_of_the_record() -> None:
    process = Immiscible(base=Flow())
    x0, t = Rng(0, 6, "x0").normal((6, 3), F64), torch.linspace(0.1, 0.9, 6, dtype=F64)
    noised = process.coupled(x0, t, Rng(1, 6))
    assert torch.allclose(noised.xt, (1 - t[:, None]) * x0 + t[:, None] * noised.z, atol=5e-5)
    assert noised.process is process and torch.allclose(noised.at(0.5).xt, 0.5 * (x0 + noised.z), atol=5e-5)
    own = Flow().noise(x0, t, Rng(1, 6)).z
    assert torch.equal(noised.z.sort(0).values, own.sort(0).values) and not torch.equal(noised.z, own)


# what is valid


class Coupled:
    """Draws of x0 = +-1 given x_t for a batch of B -> infinity, p = 1/2: x0 is the sign of z, and so of x_t."""

    process, shape = Immiscible(), (1,)

    def __call__(self, xt: Tensor, t: Tensor | float, cond: Cond | Tensor | None = None) -> Posterior:
        return Point(torch.where(xt > 0, 1.0, -1.0).to(xt))


@pytest.mark.parametrize("sampler", [ddim, adams, partial(ancestral, eta=0.0)], ids=["ddim", "adams", "ancestral"])
def test_steps_without_fresh_noise_transport_the_coupled_law(sampler: Sampler) -> None:
    x = sample(Coupled(), 4000, 8, sampler=sampler)
    assert bool((x.abs() - 1 < 1e-3).all()) and abs(float(x.mean())) < 4 / math.sqrt(4000)


# what is refused


@pytest.mark.parametrize("sampler", [ancestral, partial(ddim, eta=0.5), renoise, sde_dpm_solver_2m])
def test_samplers_with_fresh_noise_are_refused(sampler: Sampler) -> None:
    with pytest.raises(SamplerError, match="adds noise that is independent of x0, and a model of Immiscible"):
        sample(Coupled(), 4, 3, sampler=sampler)
    with pytest.raises(ValueError, match="eta = 1 adds independent noise"):
        Immiscible().bridge(torch.zeros(2, 1), torch.zeros(2, 1), 0.5, 0.3, Rng(0, 2))


def test_guidance_and_nats_are_refused() -> None:
    likelihood = gaussian_likelihood(torch.zeros(1, 1), 1.0)
    for wrap in (guided_by_mean(likelihood), guided_by_draws(likelihood, 4, Rng(0, 4))):
        with pytest.raises(TypeError, match="independent of x0, and Immiscible couples"):
            wrap(Coupled())(torch.zeros(4, 1), 0.5)
    with pytest.raises(ValueError, match="this part adds independent noise"):
        where_to_start(Coupled(), gaussian().denoiser(), torch.zeros(4, 1), Rng(0, 4), torch.tensor([0.0, 1.0]))


def test_losses_that_compare_all_draws_at_the_start_are_refused() -> None:
    for loss in (FeatureEnergy(), FeatureDrift()):
        with pytest.raises(TypeError, match="all draws at t = 1"):
            Denoise(process=Immiscible(), head=SoftHead(), loss=loss)


def test_parts_of_independent_noise_are_refused() -> None:
    fit = GaussianFit(torch.zeros(1), torch.eye(1))
    for call in (
        lambda: fit.flow(Immiscible(), torch.zeros(1, 1), 0.8, 0.4),
        lambda: fit.divergence(Immiscible(), 0.5),
        lambda: contraction(Immiscible(), 0.5, 0.3),
        lambda: require_independent(InBasis(Immiscible(), (cosine(2),)), "this"),
    ):
        with pytest.raises((TypeError, ValueError), match="independent"):
            call()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"by": "nearst"}, 'by "assignment" or "nearest"'),
        ({"k": 64}, "k = 64 was given"),
        ({"by": "nearest"}, "nearest of None"),
        ({"by": "nearest", "k": 1}, "nearest of 1"),
    ],
)
def test_settings_without_effect_are_refused(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Immiscible(**wrong)  # type: ignore[arg-type]


def test_a_task_of_coupled_noise_suits_steps_without_fresh_noise() -> None:
    plain = Denoise(process=Immiscible(), head=NormalHead(), loss=Likelihood())
    assert isinstance(plain.suited(), partial) and plain.suited().keywords == {"eta": 0.0}
    assert Denoise(process=Immiscible(), head=PointHead(), loss=Consistency()).suited() is ddim


def test_conditions_of_one_item_are_refused() -> None:
    x0 = torch.zeros(2, 1)
    with pytest.raises(CondError, match="value belongs to one item"):
        Immiscible().coupled(x0, 0.5, Rng(0, 2), Cond(value=torch.zeros(2, 1)))


# training


def points() -> Data:
    return make("points", Rng(0, 256).normal((256, 2)), None, (), Report(read=256))


@pytest.mark.parametrize("process", [Immiscible(), Immiscible("nearest", 3, Flow())], ids=str)
def test_a_network_trains_on_coupled_noise(process: Immiscible, tmp_path: object) -> None:
    config = Config(Denoise(process=process, net=MLPSpec(16, 2), head=PointHead()), steps=5, batch=32)
    data = points()
    trainer = Trainer(Run(config, facts_of(data, config)), data, tmp_path)  # type: ignore[arg-type]
    items = torch.arange(32)
    noised, _ = config.task.examples(data, trainer.batch(items), trainer.run.facts.cond_spec)  # type: ignore[attr-defined]
    plain = VP() if process.by == "assignment" else Flow()
    own = plain.noise(noised.x0, noised.t, Rng(0, 32)).z
    assert float((noised.x0 * noised.z).mean()) > float((noised.x0 * own).mean()) + 0.3
    assert config.task.whole and all(trainer.advance()[0] > 0 for _ in range(5))


def test_a_flow_map_may_have_coupled_noise() -> None:
    Denoise(process=Immiscible(), head=MapHead())
