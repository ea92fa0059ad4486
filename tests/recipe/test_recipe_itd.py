"""The recipe of information-theoretic diffusion: its quadrature, its bits, and its checks."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.data import Report, load
from softmix.data.store import make
from softmix.denoiser import Network, PointHead
from softmix.info import GaussianReference, Grid, Levels
from softmix.net import UNetSpec
from softmix.oracle import correlated, gaussian
from softmix.process import VP
from softmix.recipe import itd as recipe
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng

F64 = torch.float64


def test_the_quadrature_is_exact_for_a_gaussian_and_close_for_a_mixture() -> None:
    """0 for the Gaussian. For three narrow components 0.0006 with 24 nodes a side, and more with few."""
    for problem, most in ((gaussian(), 1e-9), (correlated(), 0.02)):
        x = problem.sample(4, Rng(3, 4))
        off = recipe.by_quadrature(problem, x, 401, 24) + problem.law.log_prob(x)
        assert float(off.abs().max()) < most
    x = correlated().sample(4, Rng(3, 4))
    coarse = recipe.by_quadrature(correlated(), x, 15, 3) + correlated().law.log_prob(x)
    assert float(coarse.abs().max()) > 0.05


def test_the_bits_of_images_are_measured_in_four_ways() -> None:
    """An untrained network, of which the chain and the ODE know nothing: all numbers are finite, and not equal."""
    torch.manual_seed(0)
    train, held_out = load("digits"), load("digits", split="test")
    network = Network(VP(), UNetSpec(width=8, depth=1, patch=1), PointHead(), train.shape)
    found = recipe.bits_of(network, train, held_out, train, 0, 4, 8)
    values = [found[name, "bits"] for name in (recipe.ERRORS, recipe.CHAIN, recipe.ODE, recipe.NORMAL)]
    assert all(math.isfinite(value) for value in values) and len(set(values)) == 4
    # uniform numbers of 8 bits have 8 bits, and a Gaussian with the moments of digits has fewer
    assert 3 < found[recipe.NORMAL, "bits"] < 8


def test_noise_is_told_from_digits_and_digits_are_not() -> None:
    """By a network that knows nothing of either. Compressed noise is longer."""
    torch.manual_seed(0)
    train, held_out = load("digits"), load("digits", split="test")
    network = Network(VP(), UNetSpec(width=8, depth=1, patch=1), PointHead(), train.shape)
    pixels = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = make("noise", pixels, None, (), Report(read=30))
    own = GaussianReference.fit(train.x0(), Grid().step ** 2 / 12)
    ends = Levels.of(own.variances).inside(-math.inf, 12.0)
    found = recipe.told_apart(network, own, ends, held_out, noise, 0, 12, 4)
    assert found[recipe.NORMAL, "AUROC"] == found[recipe.SIZE, "AUROC"] == 1
    assert found[recipe.LESS, "AUROC"] != found[recipe.ERRORS, "AUROC"]
    same = recipe.told_apart(network, own, ends, held_out, held_out, 0, 12, 4)
    assert set(same.values()) == {0.5}


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces a number."""
    numbers = {
        (recipe.ERRORS, "error, gaussian"): 1e-9,
        (recipe.ERRORS, "error, correlated"): 0.001,
        (recipe.ERRORS, "nats above"): 0.02,
        (recipe.ODE, "nats above"): 0.03,
        (recipe.NORMAL, "nats above"): 0.5,
        (recipe.ERRORS, "bits"): 3.0,
        (recipe.CHAIN, "bits"): 3.5,
        (recipe.ODE, "bits"): 3.2,
        (recipe.NORMAL, "bits"): 5.0,
        (recipe.ERRORS, "AUROC"): 0.95,
        (recipe.LESS, "AUROC"): 0.97,
        (recipe.NORMAL, "AUROC"): 0.9,
        (recipe.SIZE, "AUROC"): 0.5,
    }
    rows = {key: changed.get("/".join(key), value) for key, value in numbers.items()}
    return Numbers([row(name, "ours", metric, [value], "x") for (name, metric), value in rows.items()])


@pytest.mark.parametrize(
    ("change", "value", "failed"),
    [
        (f"{recipe.ERRORS}/error, correlated", 0.03, {0}),
        (f"{recipe.ERRORS}/nats above", 0.06, {1}),
        (f"{recipe.ERRORS}/nats above", -0.06, {1}),
        (f"{recipe.NORMAL}/nats above", 0.01, {2}),
        (f"{recipe.ERRORS}/bits", 5.1, {3, 4}),
        (f"{recipe.CHAIN}/bits", 2.9, {4}),
        (f"{recipe.ERRORS}/AUROC", 0.85, {5}),
        (f"{recipe.NORMAL}/AUROC", 0.96, {5}),
        (f"{recipe.SIZE}/AUROC", 0.96, {5}),
        (f"{recipe.LESS}/AUROC", 0.94, {6}),
    ],
)
def test_each_check_follows_its_number(change: str, value: float, failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**{change: value})).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed
