"""The recipe of non-uniform diffusion: its exact laws against draws, its work, and its networks at a tiny size."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from softmix.data.toys import ToyMixture
from softmix.denoiser import CallCounter, Network, PointHead, in_frame, mean_only
from softmix.net import UNetSpec
from softmix.oracle import FramedProblem, gaussian, standardised
from softmix.process import VP, NonUniform, few, pyramid, uniform
from softmix.recipe import VerdictRow, non_uniform, non_uniform_images
from softmix.recipe.frame import Numbers
from softmix.recipe.images import DATA_SETS
from softmix.recipe.non_uniform import (
    MULTI,
    SAMPLINGS,
    Law,
    checks,
    coarse_problem,
    cost,
    denoisers,
    grid_for,
    in_bands,
    multi_scale,
    true_law,
)
from softmix.recipe.non_uniform_images import LEVELS, ROLES, Made, configurations, narrower, operations, stages
from softmix.rng import Rng
from softmix.sampler import adams, ancestral, sample

F64 = torch.float64


# exact laws


@pytest.mark.parametrize("kind", ["adams", "ancestral"])
def test_the_law_of_samples_is_that_of_drawn_samples(kind: str) -> None:
    """Mean and covariance of 4,000 samples of a few steps, in standard errors."""
    problem = gaussian((1, 4, 4))
    model = in_frame(multi_scale(FramedProblem(problem, NonUniform((4, 4), 2))))
    grid = grid_for(model, uniform, 6, work=False)
    law = SAMPLINGS[kind](model, grid)
    drawn = sample(
        mean_only(model), 4000, sampler=adams if kind == "adams" else ancestral, grid=grid, shape=(1, 4, 4), batch=4000
    )
    found = ToyMixture("found", torch.ones(1, dtype=F64), law.mean[None], torch.linalg.cholesky(law.covariance)[None])
    assert standardised(drawn, found) < 4.7
    # with another law the test fails
    assert standardised(drawn, problem.law) > 8


def test_many_steps_reach_the_law_of_the_data() -> None:
    """Every arm by 200 steps of adams; 0.007 of the distance is that of the start, whose signal is neglected."""
    problem = gaussian((1, 4, 4))
    right = true_law(problem)
    for arm, each in denoisers(problem).items():
        grid = grid_for(each[0], few, 200, work=False)
        law = SAMPLINGS["adams"](each[0], grid)
        assert law.off(right) < 0.02, arm
        assert law.nats(right) < 0.01, arm


def test_distances_of_laws_are_those_of_one_dimension() -> None:
    narrow, wide = (Law(torch.zeros(2, dtype=F64) + m, torch.eye(2, dtype=F64) * s**2) for m, s in ((0, 1), (1, 3)))
    assert narrow.off(wide) == pytest.approx((2 * (1 + 4)) ** 0.5)
    assert narrow.off(wide, torch.tensor([True, False])) == pytest.approx(5**0.5)
    assert wide.nats(narrow) == pytest.approx(9 + 1 - 1 - torch.log(torch.tensor(9.0, dtype=F64)).item())
    assert narrow.nats(narrow) == pytest.approx(0, abs=1e-12)


def test_the_coarse_law_is_that_of_means_of_pixels() -> None:
    whole = FramedProblem(gaussian((1, 4, 4)), NonUniform((4, 4), 2))
    x0, _ = whole.draw(4000, Rng(0, 4000))
    small = x0.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    assert standardised(small, coarse_problem(whole, 1).problem.law) < 4.2


def test_the_law_in_bands_has_the_coefficients_of_the_pyramid() -> None:
    problem = gaussian((1, 4, 4))
    x0 = problem.sample(4000, Rng(0, 4000))
    assert standardised(pyramid(x0, 2), in_bands(problem).law) < 4.7


# work


def test_the_work_is_that_of_the_places_asked_for() -> None:
    whole = FramedProblem(gaussian((1, 4, 4)), NonUniform((4, 4), 2))
    model = in_frame(multi_scale(whole))
    grid = torch.tensor([1.0, 0.8, 2 / 3, 0.5, 1 / 3, 0.2, 0.0], dtype=F64)
    # 2 at 1/16, 2 at 1/4, 2 at the full size
    assert cost(model, grid) == pytest.approx(2 / 16 + 2 / 4 + 2)
    assert cost(CallCounter(whole.denoiser()), grid) == 6
    longest = grid_for(model, uniform, 8, work=True)
    assert cost(model, longest) <= 8 < cost(model, grid_for(model, uniform, len(longest), work=False))
    assert len(grid_for(model, uniform, 8, work=False)) == 9


def test_operations_are_those_of_a_convolution() -> None:
    """A network with one layer more has its operations more."""
    small, large = (
        operations(
            Network(VP(), UNetSpec(width=8, mults=(1,), depth=depth, patch=1, attention=False), PointHead(), (1, 4, 4))
        )
        for depth in (1, 2)
    )
    # a block and direction has two 3 x 3 convolutions of 8 channels at 16 places
    assert large - small >= 2 * 2 * 9 * 64 * 16


def test_the_networks_of_all_stages_have_the_parameters_of_one() -> None:
    net, shape = DATA_SETS["fashion28"][2], (1, 28, 28)
    assert isinstance(net, UNetSpec)
    aim = sum(weight.numel() for weight in net.build(1, 1).parameters())
    found = sum(weight.numel() for each in narrower(net, shape) for weight in each.build(1, 1).parameters())
    assert found == pytest.approx(aim, rel=0.1)
    assert [each.patch for each in stages(net, shape)] == [2, 2, 1]


def test_the_stages_share_the_images_and_the_times() -> None:
    net, shape = DATA_SETS["fashion28"][2], (1, 28, 28)
    assert isinstance(net, UNetSpec)
    for name in ROLES:
        made = configurations(name, shape, net)
        assert sum(share for _, share in made) == pytest.approx(1)
        edges = [(config.task.times.low, config.task.times.high) for config, _ in made]
        assert edges[0][0] == 1e-3 and edges[-1][1] == 1
        assert all(before[1] == after[0] for before, after in pairwise(edges))
        assert len(made) in (1, LEVELS + 1)
        if len(made) > 1:
            assert [config.task.process for config, _ in made] == [NonUniform((28, 28), 2).coarse(k) for k in range(3)]


# checks


def test_the_claim_fails_with_the_numbers_of_a_model_that_is_behind() -> None:
    def outcome(ours: float) -> list[bool]:
        rows = []
        for arm, role in non_uniform.ROLES.items():
            kinds = [f"{kind} distance" for kind in SAMPLINGS] + ["nats", "equal evaluations", "share of the work"]
            value = ours if role == "ours" else 1.0
            rows += [VerdictRow(arm, role, f"{kind}@{count}", value, 0.0, 1) for kind in kinds for count in (4, 8, 16)]
        for place, last in enumerate(non_uniform.LASTS):
            for kind in ("lost nats", "distance beyond"):
                rows.append(VerdictRow(MULTI, "ours", f"{kind}@{last:g}", 0.1**place, 0.0, 1))
        return list(checks(Numbers(rows)).values())

    assert all(outcome(0.5)) and not any(outcome(2.0)[:6])


def test_the_checks_of_images_ask_for_two_standard_deviations() -> None:
    def found(ours: float, spread: float) -> list[bool]:
        rows = []
        for arm, role in ROLES.items():
            value = ours if role == "ours" else 10.0
            for kind in ("frechet", "frechet at work"):
                rows += [
                    VerdictRow(arm, role, f"{kind}@{count}", value, spread, 3) for count in non_uniform_images.COUNTS
                ]
        return list(non_uniform_images.image_checks(Numbers(rows)).values())

    assert all(found(8.0, 0.1)) and not any(found(8.0, 1.0)) and not any(found(11.0, 0.1))
    assert non_uniform_images.image_checks(Numbers([])) == {}


# networks


@pytest.mark.slow
@pytest.mark.parametrize("name", [non_uniform_images.SAME_SIZE, non_uniform_images.REVERSED])
def test_an_arm_trains_and_is_measured(name: str, tmp_path: Path) -> None:
    results = non_uniform_images.train_and_measure(name, tmp_path, 0, "digits", 96, 64, (4, 8), 8)
    metrics = {metric for _, metric in results}
    assert {"frechet@4", "frechet@8", "frechet at work@4", "parameters", "work of an evaluation"} <= metrics
    assert all(value > 0 for value in results.values())
    several = name == non_uniform_images.SAME_SIZE
    assert (results[name, "work of an evaluation"] < 0.6) == several
    # a second call reads the finished networks
    again = non_uniform_images.train_and_measure(name, tmp_path, 0, "digits", 96, 64, (4, 8), 8)
    assert again == results


def test_at_equal_work_a_smaller_network_takes_more_steps() -> None:
    net, shape = UNetSpec(width=8, mults=(1,), depth=1, patch=1, attention=False), (1, 8, 8)
    process = NonUniform((8, 8), 2)
    models = [Network(process.coarse(k), net, PointHead(), (1, 8 >> k, 8 >> k), output="x0") for k in range(3)]
    several, single = Made.of(models, net, torch.zeros(shape)), Made.of(models[:1], net, torch.zeros(shape))
    assert single.costs == (1.0,) and several.costs[0] == 1.0 > several.costs[1] > several.costs[2]
    for made in (several, single):
        for equal, longer in zip(made.grids(6, False), made.grids(6, True), strict=True):
            assert len(equal) == 7 and made.work(longer) <= 6
    assert min(len(grid) for grid in several.grids(6, True)) > 7 and all(len(g) == 7 for g in single.grids(6, True))
