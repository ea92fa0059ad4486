"""Where to measure next: the rules against closed forms, the choice on exact posteriors, and the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from softmix.data.toys import ToyMixture
from softmix.measure import (
    ActiveMeasurement,
    GaussianNoise,
    Instrument,
    Mask,
    best_places,
    gains,
    measured_actively,
)
from softmix.measure.active import Rule, Unit
from softmix.oracle import MixtureProblem, ObservedProblem
from softmix.process import VP, uniform
from softmix.rng import Rng

F64 = torch.float64


# the rules


def two(apart: float) -> Tensor:
    """Two predictions of one element, at this distance, [2, 1, 1]."""
    return torch.tensor([0.0, apart], dtype=F64)[:, None, None]


@pytest.mark.parametrize("apart", [0.1, 1.0, 5.0])
def test_the_rules_for_two_predictions(apart: float) -> None:
    sd = 0.7
    entropy = -math.log((1 + math.exp(-(apart**2) / (4 * sd**2))) / 2)
    released = 2 * math.log(1 + math.exp(apart**2 / (2 * sd**2)))
    assert float(gains(two(apart))) == pytest.approx(apart**2 / 4)
    assert float(gains(two(apart), "entropy", sd)) == pytest.approx(entropy)
    assert float(gains(two(apart), "released", sd)) == pytest.approx(released)


def test_at_a_large_sd_all_rules_are_the_variance() -> None:
    """Up to a factor and a constant: a correlation of 1 over places, and the same choice."""
    predicted = Rng(0, 16).normal((16, 1, 200), F64)
    variance = gains(predicted)[0]
    for rule in ("entropy", "released"):
        found = gains(predicted, rule, 10.0)[0]
        assert float(torch.corrcoef(torch.stack([variance, found]))[0, 1]) > 0.9999
        assert int(found.argmax()) == int(variance.argmax())


def test_the_entropy_is_bounded_and_the_released_rule_is_not() -> None:
    predicted = torch.zeros(16, 1, 1, dtype=F64)
    predicted[0] = 1e3
    assert float(gains(predicted, "entropy", 1.0)) < math.log(16)
    assert float(gains(predicted, "released", 1.0)) > 1e6


@pytest.mark.parametrize(("unit", "places"), [("element", 24), ("pixel", 12), ("column", 4)])
def test_a_unit_sums_over_its_elements(unit: Unit, places: int) -> None:
    predicted = Rng(0, 5).normal((5, 3, 2, 3, 4), F64)
    var = predicted.var(0, correction=0)
    found = gains(predicted, unit=unit)
    expected = {"element": var.flatten(1), "pixel": var.sum(1).flatten(1), "column": var.sum((1, 2))}[unit]
    assert found.shape == (3, places)
    assert torch.allclose(found, expected)
    by_pairs = gains(predicted, "entropy", 100.0, unit)
    assert torch.allclose(by_pairs, found / (2 * 100.0**2), rtol=1e-3)


def test_taken_places_are_never_chosen_again() -> None:
    """Also where every gain is below 0."""
    taken = torch.tensor([[True, False, False, False]])
    found = best_places(torch.tensor([[9.0, -3.0, -1.0, -2.0]]), taken, 2)
    assert found.tolist() == [[True, False, True, True]]
    with pytest.raises(ValueError, match="4 more places were asked for, and an item has 3 left"):
        best_places(torch.zeros(1, 4), taken, 4)


# the choice on exact posteriors


def problem(dim: int = 24, components: int = 10) -> MixtureProblem:
    means = Rng(1, components, "means").normal((components, dim), F64) * Rng(2, 1).uniform((1, dim), F64)
    roots = (0.1 * torch.eye(dim, dtype=F64)).expand(components, dim, dim)
    law = ToyMixture("modes", torch.full((components,), 1 / components, dtype=F64), means, roots)
    return MixtureProblem("modes", law, VP(), (dim,))


def error_after(rule: Rule, count: int, trials: int = 30, sd: float = 0.1) -> float:
    """The mean squared error of the exact posterior mean after a number of measurements that are chosen one by one."""
    of, total = problem(), 0.0
    for trial in range(trials):
        x0 = of.sample(1, Rng(trial, 1, "x0"))
        noisy = x0 + sd * Rng(trial, 1, "noise").normal((1, 24), F64)
        taken = torch.zeros(1, 24, dtype=torch.bool)
        given = None
        for k in range(count):
            draws = of.sample(16, Rng(trial, 16, "prior"))[:, None] if given is None else given.draws(16, Rng(k, 1))
            gain = Rng(trial, 1, f"r {k}").uniform((1, 24), F64) if rule == "random" else gains(draws, rule)
            taken = best_places(gain, taken, 1)
            given = ObservedProblem.elements(of, taken[0], sd).given(noisy[:, taken[0]])
        assert given is not None
        total += float((given.mean - x0).square().mean())
    return total / trials


def test_chosen_places_say_more_than_random_ones() -> None:
    """30 trials, 6 of 24 elements of a mixture of ten modes."""
    random = error_after("random", 6)
    assert error_after("variance", 6) < 0.6 * random


# the run


def run(rule: Rule = "variance", seed: int = 0, items: int = 3, count: int = 6, **more: object) -> ActiveMeasurement:
    of, sd = problem(), 0.1
    x0 = of.sample(8, Rng(9, 8))[:items]
    noisy = x0 + sd * Rng(8, 8).normal((8, 24), F64)[:items]
    return measured_actively(
        of.denoiser(),
        lambda mask: Mask(mask, (24,)),
        lambda mask: torch.where(mask, noisy, 0),
        sd,
        count,
        uniform(VP(), 30),
        Rng(seed, 8).take(slice(0, items)),
        unit="element",
        rule=rule,
        particles=8,
        **more,  # type: ignore[arg-type]
    )


def test_a_run_measures_so_many_places_and_particles_fit_them() -> None:
    found = run(items=8, window=(0.0, 0.3))
    assert not found.x.requires_grad
    assert found.mask.sum(1).tolist() == [6] * 8
    assert found.x.shape == (8, 8, 24) and found.mean.shape == (8, 24)
    masks = found.mask.repeat(8, 1)
    residual = Instrument(Mask(masks, (24,)), GaussianNoise(0.1)).residual(
        found.y.repeat(8, 1).float(), found.x.flatten(0, 1)
    )
    # a particle may have gone to another mode before the last places were chosen
    assert 0.5 < float(residual.median()) < 1.6


def test_places_of_a_run_are_better_than_random_ones() -> None:
    """8 items, three seeds: the squared error of the mean of the particles."""
    x0 = problem().sample(8, Rng(9, 8))
    error: Callable[[Rule], float] = lambda rule: sum(  # noqa: E731
        float((run(rule, seed, 8).mean - x0).square().mean()) for seed in range(3)
    )
    assert error("variance") < 0.8 * error("random")


def test_the_sd_of_a_rule_is_by_default_the_noise() -> None:
    assert torch.equal(run("entropy").mask, run("entropy", sd=0.1).mask)
    assert not torch.equal(run("entropy").mask, run("entropy", sd=1e-3).mask)


def test_an_item_does_not_depend_on_the_others() -> None:
    whole, alone = run(items=3), run(items=1)
    assert torch.equal(whole.mask[:1], alone.mask)
    assert float((whole.x[:, :1] - alone.x).abs().max()) < 1e-4


def test_first_places_are_kept() -> None:
    first = torch.zeros(2, 24, dtype=torch.bool)
    first[:, 5] = True
    found = run(items=2, count=3, first=first)
    assert bool(found.mask[:, 5].all()) and found.mask.sum(1).tolist() == [4, 4]


def test_places_are_chosen_in_the_window() -> None:
    """The mask is asked for anew only in steps of the window."""
    of, asked = problem(), []

    def observe(mask: Tensor) -> Tensor:
        asked.append(int(mask.sum()))
        return torch.zeros(1, 24)

    measured_actively(
        of.denoiser(),
        lambda mask: Mask(mask, (24,)),
        observe,
        0.1,
        5,
        uniform(VP(), 10),
        Rng(0, 1),
        unit="element",
        window=(0.0, 0.2),
    )
    assert asked == [0, 3, 5]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"window": (0.5, 0.5)}, "the window lies"),
        ({"particles": 1}, "at least 2 particles"),
        ({"rule": "best"}, "the rules are"),
        ({"sd": 0.5}, "the others have none"),
        ({"first": torch.zeros(3, 5)}, "first: a mask"),
    ],
)
def test_settings_out_of_range_are_refused(more: dict[str, object], words: str) -> None:
    of = problem()
    with pytest.raises(ValueError, match=words):
        measured_actively(
            of.denoiser(),
            lambda mask: Mask(mask, (24,)),
            lambda mask: torch.zeros(3, 24),
            0.1,
            2,
            uniform(VP(), 5),
            Rng(0, 3),
            **({"unit": "element"} | more),  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("rule", "sd"), [("random", None), ("best", None), ("entropy", 0.0), ("released", None), ("variance", 1.0)]
)
def test_other_gains_are_refused(rule: Rule, sd: float | None) -> None:
    with pytest.raises(ValueError, match=r"gains has variance|need an sd above 0"):
        gains(two(1.0), rule, sd)
