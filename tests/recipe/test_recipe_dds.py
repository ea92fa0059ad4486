"""The recipe of denoising diffusion samplers: its measures, its baselines, and its checks."""

from __future__ import annotations

import math

import pytest
import torch

from softmix.oracle import funnel, phi4, ring_target
from softmix.recipe import dds as recipe
from softmix.recipe.frame import Numbers, row
from softmix.rng import Rng
from softmix.sampler import WeightedSamples, langevin_samples
from softmix.train import TargetSampler

F64 = torch.float64


def test_the_rarest_mode_is_one_for_the_law_and_zero_for_a_lost_mode() -> None:
    """4 standard errors of the smallest of eight counts of 1,000."""
    x = ring_target().exact(8000, Rng(0, 8000))
    assert recipe.rarest_mode(x) == pytest.approx(1, abs=4 / 1000**0.5)
    assert recipe.rarest_mode(x[x[:, 0] < 1.05]) == 0


def test_the_error_of_moments_is_in_standard_deviations() -> None:
    right = recipe.KnownAnswer(0.0, torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([4.0, 9.0], dtype=F64))
    assert recipe.moment_error(right.mean, right.var, right) == 0
    assert recipe.moment_error(right.mean + torch.tensor([2.0, 3.0]), right.var, right) == pytest.approx(1)
    wide = recipe.moment_error(right.mean, right.var * math.exp(2), right)
    assert wide == pytest.approx(1)


def test_the_numbers_of_samples_are_errors_against_the_answer() -> None:
    n = 3 * recipe.SAMPLES
    log_weight = 0.3 * Rng(1, n).normal((n,), F64)
    x = Rng(0, n).normal((n, 8), F64)
    right = recipe.KnownAnswer(0.2, torch.zeros(8, dtype=F64), torch.ones(8, dtype=F64))
    values = recipe.numbers_of(recipe.PHI4, WeightedSamples(x, log_weight, 9), right)
    parts = log_weight.reshape(3, -1).exp().mean(1).log()
    assert values["log Z bias"] == pytest.approx(float(parts.mean()) - 0.2)
    assert values["log Z error"] == pytest.approx(float((parts - 0.2).square().mean().sqrt()))
    assert values["log Z spread"] == pytest.approx(float(parts.std()))
    assert values["gap"] == pytest.approx(0.2 - float(log_weight.mean()))
    assert 0 < values["ess"] < 1 and values["calls"] == 9 and values["moments"] < 0.05
    assert "rarest mode" not in values


@pytest.mark.parametrize(("calls", "leaps"), [(17, 1), (17, 4), (65, 3)])
def test_annealing_uses_the_calls_that_it_has(calls: int, leaps: int) -> None:
    found = recipe.annealed(recipe.PHI4, 0, 4, calls, {"step": 0.1, "leaps": leaps, "power": 3.0, "scale": 1.0})
    assert calls - leaps < found.calls <= calls


def test_the_best_annealing_has_the_largest_bound_of_its_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, ...]] = []

    def annealed(case: str, seed: int, n: int, calls: int, tuned: dict[str, float]) -> WeightedSamples:
        asked.append(tuple(tuned.values()))
        # the best: step 0.2, 3 leaps, power 1, scale 2; not a number at a large step
        worst = abs(tuned["step"] - 0.2) + tuned["power"]
        bound = math.nan if tuned["step"] == 0.8 else tuned["leaps"] + tuned["scale"] - worst
        return WeightedSamples(torch.zeros(2, 1), torch.full((2,), bound, dtype=F64), calls)

    monkeypatch.setattr(recipe, "annealed", annealed)
    recipe.best_annealing.cache_clear()
    assert recipe.best_annealing(recipe.FUNNEL, 33) == {"step": 0.2, "leaps": 3, "power": 1.0, "scale": 2.0}
    recipe.best_annealing.cache_clear()
    assert len(set(asked)) == 48


def test_the_chain_has_the_step_of_the_smallest_error() -> None:
    """Against all steps of the grid, drawn here."""
    made = phi4()
    right = recipe.answer(recipe.PHI4, 10)
    x = recipe.chained(recipe.PHI4, 3, 500, 8, right)
    ends = {
        step: langevin_samples(made.log_density, (8,), 500, Rng(3, 500, "chain"), 8, step, 1.0).double()
        for step in (2e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.4)
    }
    (step,) = [step for step, each in ends.items() if torch.equal(each, x)]
    errors = {
        step: recipe.moment_error(each.mean(0), each.var(0), right)
        for step, each in ends.items()
        if each.isfinite().all()
    }
    assert errors[step] <= 1.5 * min(errors.values())


def test_the_answers_are_those_of_the_oracle() -> None:
    right = recipe.answer(recipe.FUNNEL, 10)
    assert right.log_z == funnel().log_z and right.mean.tolist() == [0.0] and right.var.tolist() == [9.0]
    assert right.long is None


TUNED = {"step": 0.1, "leaps": 1.0, "power": 1.0, "scale": 1.0}


def test_every_row_has_a_role_and_equal_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny, on two targets: the rows are those of the table, and AIS has as many calls as DDS, or those of the training
    too."""
    monkeypatch.setattr(recipe, "SAMPLES", 20)
    monkeypatch.setattr(recipe, "best_annealing", lambda case, calls: TUNED)
    for case in (recipe.MIXTURE, recipe.FUNNEL):
        found = recipe.measure(case, 0, steps=2, batch=20, path=3, drawn=6, repeats=2, long=10)
        assert {name for name, _ in found} == set(recipe._roles(case))
        assert all(math.isfinite(value) for value in found.values())
        calls = [found[recipe.named(arm, case), "calls"] for arm in (recipe.OURS, recipe.ANNEALED, recipe.PAID)]
        # 2 steps of 20 paths of 3 steps and an end, for 40 samples
        assert calls == [7, 7, 11]
        assert found[recipe.named(recipe.PLAIN, case), "calls"] == 1


def test_a_learned_sampler_is_that_of_its_case() -> None:
    found = recipe.learned(recipe.FUNNEL, 0, 1, 4, 5)
    assert isinstance(found, TargetSampler) and found.steps == 5 and found.target.name == "funnel"
    assert found.control.process.scale == recipe.CASES[recipe.FUNNEL].scale


def made_up(**changed: float) -> Numbers:
    """Rows of a claim that holds; `changed` replaces numbers, as {"DDS, funnel: gap": 3.0}."""
    values: dict[tuple[str, str], float] = {}
    for case in recipe.CASES:
        for arm, error, gap in ((recipe.OURS, 0.01, 0.2), (recipe.ANNEALED, 0.3, 1.0), (recipe.PAID, 0.02, 0.4)):
            values[recipe.named(arm, case), "log Z error"] = error
            values[recipe.named(arm, case), "log Z bias"] = -error
            values[recipe.named(arm, case), "gap"] = gap
            values[recipe.named(arm, case), "ess"] = 0.5
        values[recipe.named(recipe.PLAIN, case), "gap"] = 5.0
        values[recipe.named(recipe.OURS, case), "moments"] = 0.1
        values[recipe.named(recipe.CHAIN, case), "moments"] = 0.2
    for arm in (recipe.OURS, recipe.ANNEALED, recipe.CHAIN):
        values[recipe.named(arm, recipe.MIXTURE), "rarest mode"] = 0.9
    for key, value in changed.items():
        arm, metric = key.split(": ")
        assert (arm, metric) in values
        values[arm, metric] = value
    return Numbers([row(arm, "ours", metric, [value], "x") for (arm, metric), value in values.items()])


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({"DDS, funnel: log Z error": 0.06}, {1}),
        ({"DDS, mixture: log Z error": 0.051}, {1}),
        ({"DDS, phi4: log Z error": 0.31}, {0}),
        ({"DDS, phi4: gap": 0.39}, {2}),
        ({"DDS, logistic: gap": 0.41}, {2, 4}),
        ({"u = 0, phi4: gap": 0.5}, {3}),
        ({"AIS with the calls of the training too, mixture: gap": 0.1}, {4}),
        ({"DDS, funnel: ess": 0.09}, {5}),
        ({"ULA, logistic: moments": 0.05}, {6}),
        ({"DDS, mixture: rarest mode": 0.4}, {7}),
    ],
)
def test_each_check_follows_its_numbers(changed: dict[str, float], failed: set[int]) -> None:
    assert all(recipe.checks(made_up()).values())
    outcomes = list(recipe.checks(made_up(**changed)).values())
    assert {k for k, true in enumerate(outcomes) if not true} == failed
