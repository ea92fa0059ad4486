"""Contests of samplers, on a problem with a flow in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import pytest
import torch

from softmix.denoiser import Denoiser
from softmix.oracle import MixtureProblem, gaussian
from softmix.process import VP
from softmix.recipe import Paper, Scale
from softmix.recipe.contest import Field, Way, contest, end_of, errors, off, on_oracle, steps_for, wide
from softmix.recipe.frame import Numbers, rows_of
from softmix.sampler import SAMPLERS, ancestral, ddim, dpm_solver_2m, f_pndm, heun, traits

PAPER = Paper("made_up", "A title", "Somebody", "ICML", 2030, "3001.00001", "It is better.")


@cache
def line() -> MixtureProblem:
    return gaussian((2,), VP("linear"))


FIELD = Field(line)


def test_the_end_of_the_flow_is_that_of_the_closed_form() -> None:
    x = FIELD.start(0, 50)
    assert float(off(FIELD.end(0, 50, 1.0), line().flow(x, 1.0, 0.0)).max()) < 5e-6
    assert torch.equal(end_of(line(), x, 1.0), FIELD.end(0, 50, 1.0))


def test_errors_are_root_mean_squares_over_elements() -> None:
    x = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    assert off(x, torch.zeros(2, 1, 2)).tolist() == pytest.approx([12.5**0.5, 0])


def test_the_error_of_one_step_of_ddim_is_the_closed_form_and_that_of_300_is_small() -> None:
    """One step of DDIM from t = 1 ends at the posterior mean: the error is its distance from the end of the flow."""
    results = errors(FIELD, Way.of("ddim", "ours", ddim), 0, 200, (1, 300))
    x = FIELD.start(0, 200)
    right = off(line().denoiser()(x, 1.0).mean, line().flow(x, 1.0, 0.0))
    assert results["mean@1"] == pytest.approx(float(right.mean()), rel=1e-5)
    assert results["median@1"] == pytest.approx(float(right.median()), rel=1e-5)
    assert results["mean@300"] < 0.02 * results["mean@1"]


def test_a_stochastic_way_has_a_distance_and_no_error() -> None:
    assert set(errors(FIELD, Way.of("walk", "ours", ancestral), 0, 50, (2, 5))) == {"distance@2", "distance@5"}


def test_a_count_below_the_minimum_of_a_sampler_is_left_out() -> None:
    least = traits(f_pndm).evaluations(traits(f_pndm).least)
    assert set(errors(FIELD, Way.of("f-pndm", "ours", f_pndm), 0, 20, (least - 1, least))) == {
        f"{kind}@{least}" for kind in ("median", "mean", "distance")
    }


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda each: traits(each).name)
def test_steps_for_is_the_largest_number_within_the_count(sampler: object) -> None:
    evaluations = traits(sampler).evaluations  # type: ignore[arg-type]
    for count in (1, 2, 5, 16, 33):
        steps = steps_for(sampler, count)  # type: ignore[arg-type]
        if steps:
            assert evaluations(steps) <= count < evaluations(steps + 1)
        else:
            assert evaluations(traits(sampler).least) > count  # type: ignore[arg-type]


def test_steps_of_heun() -> None:
    assert [steps_for(heun, count) for count in (1, 2, 3, 4, 16)] == [1, 1, 2, 2, 8]


def guided(problem: MixtureProblem) -> Denoiser:
    return gaussian((2,), VP("cosine")).through(problem.process).denoiser()


def test_a_guide_replaces_the_denoiser_and_has_no_distance() -> None:
    arms = on_oracle([Way.of("ddim", "ours", ddim)], (3,), Field(line, guided))
    assert [list(each.roles) for each in arms] == [["ddim"]]
    rows = rows_of(arms[0].runs(Scale.quick), lambda text: None)
    assert [row.metric for row in rows] == ["median@3", "mean@3"]


def test_all_ways_start_from_the_same_noise_and_the_floor_is_that_of_exact_samples() -> None:
    ways = [Way.of("a", "ours", ddim), Way.of("b", "baseline", ddim), Way.of("c", "control", dpm_solver_2m)]
    arms = on_oracle(ways, (4, 8), FIELD)
    rows = rows_of([run for each in arms for run in each.runs(Scale.quick)], lambda text: None)
    value = {(row.name, row.metric): row.value for row in rows}
    assert all(value["a", metric] == value["b", metric] for name, metric in value if name == "a")
    assert value["c", "mean@8"] != value["a", "mean@8"]
    assert value["exact samples", "distance@4"] == value["exact samples", "distance@8"] > 0
    # two sets of 512 exact samples with sds of 0.3 to 0.9
    assert value["exact samples", "distance@4"] < 5 * 0.9 * math.sqrt(2 / 512)


def test_a_contest_is_a_study_of_its_ways_and_more() -> None:
    def checks(value: Numbers) -> Mapping[str, bool]:
        return {"nearer": value["2M", "mean@6"] < value["ddim", "mean@6"]}

    ways = [Way.of("2M", "ours", dpm_solver_2m), Way.of("ddim", "baseline", ddim)]
    more = on_oracle([Way.of("guided", "control", ddim)], (6,), Field(line, guided), "elsewhere")
    verdict = contest(PAPER, ways, (6,), checks, more)(Scale.quick, lambda text: None)
    assert verdict.verdict == "holds"
    assert [(row.name, row.data != "elsewhere") for row in verdict.rows if row.metric == "mean@6"] == [
        *(("2M", True), ("ddim", True)),
        ("guided", False),
    ]


def test_at_full_scale_images_are_measured_at_their_own_counts() -> None:
    ways = [Way.of("2M", "ours", dpm_solver_2m), Way("x", "baseline", lambda problem: ddim, images=False)]
    study = contest(PAPER, ways, (5, 7, 20), lambda value: {})
    images = [each for each in study.arms if each.data.startswith("Fashion")]
    assert [(list(each.roles), each.seeds, each.quick) for each in images] == [(["2M"], 3, None)]
    assert images[0].full == {"n": 1000, "counts": [5, 20]}


def test_the_grid_of_the_oracle_goes_to_a_logsnr_of_12() -> None:
    grid = wide(VP("linear"), 5)
    assert len(grid) == 6 and grid[0] == 1 and grid[-1] == 0
    assert float(VP("linear").logsnr(grid[-2])) == pytest.approx(12, abs=1e-6)
