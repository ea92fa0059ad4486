"""The recipe of the curriculum: its measures against closed forms, and its controls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from softmix.data import toys
from softmix.data.toys import ToyMixture
from softmix.denoiser import PointHead
from softmix.net import UNetSpec
from softmix.oracle import eight
from softmix.recipe import curriculum, frame
from softmix.recipe.curriculum import HARD, MIXED, OURS, PLAIN, RANDOM, ROWS, TRAININGS
from softmix.recipe.images import base
from softmix.recipe.paper import Scale

F64 = torch.float64


def normal(mean: float, sd: float) -> ToyMixture:
    one = torch.ones(1, dtype=F64)
    return toys.ToyMixture("normal", one, mean * one[:, None], sd * one[:, None, None])


def test_the_divergence_of_two_normal_laws_is_that_of_the_closed_form() -> None:
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1) / 2 - log s. The standard error of 40,000 draws is at most 0.004."""
    m, s = 0.7, 0.5
    found = curriculum._divergence(normal(m, s), normal(0.0, 1.0), 40_000, 0)
    assert found == pytest.approx((s**2 + m**2 - 1) / 2 - torch.tensor(s).log().item(), abs=0.016)


def test_the_excess_error_of_the_exact_mean_is_zero_and_of_the_mean_of_all_items_is_large() -> None:
    problem = eight()
    exact = problem.denoiser()

    def mean(xt: torch.Tensor, t: torch.Tensor) -> object:
        return curriculum.Point(exact(xt.double(), t).mean)

    # the input is rounded to float32
    assert curriculum._excess(mean, 2, 0, 500) < 1e-6  # type: ignore[arg-type]

    def centre(xt: torch.Tensor, t: torch.Tensor) -> object:
        return curriculum.Point(problem.law.mean.expand(len(xt), -1))

    assert curriculum._excess(centre, 0, 0, 500) > 1000  # type: ignore[arg-type]


def test_the_controls_differ_from_the_claim_in_one_setting() -> None:
    ours = ROWS[OURS].curriculum
    assert ours is not None and ROWS[PLAIN].curriculum is None
    assert ROWS[HARD].curriculum == replace(ours, order="hard first")
    assert ROWS[RANDOM].curriculum == replace(ours, order="random")
    assert ROWS[MIXED].curriculum == replace(ours, pacing="mixed")


def test_a_run_of_each_row_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a few steps: all numbers are there, and the sentences with them."""
    monkeypatch.setattr(curriculum, "BATCH", 64)
    budgets = {"short": 128, "long": 256}
    for arms in curriculum.run.arms:
        settings = {"n": 300} if "divergences" in str(arms.measure) else {"n": 300, "budgets": budgets}
        monkeypatch.setitem(arms.__dict__, "quick", settings)
    verdict = curriculum.run(Scale.quick, lambda line: None)
    assert {"ours", "baseline", "control", "floor"} <= {row.role for row in verdict.rows}
    # the outcome of so short a training is chance
    assert len(verdict.why.split("; ")) >= len(curriculum.run.checks(frame.Numbers(verdict.rows)))


def test_the_trainings_reach_the_images() -> None:
    plain = base((1, 8, 8), UNetSpec(width=16, mults=(1,), depth=1, patch=1), 640, 0)
    for name, each in TRAININGS.items():
        config = each.change(plain, (1, 8, 8))
        assert isinstance(config.task.head, PointHead)  # type: ignore[union-attr]
        assert (config.task.curriculum is None) == (name == "trained, no curriculum")  # type: ignore[union-attr]


def test_the_law_of_a_divergence_is_drawn_from_the_first() -> None:
    """KL(p || p) is 0, and KL(p || q) above 0 in both directions."""
    a, b = eight().at(0.3), eight().at(0.6)
    assert curriculum._divergence(a, a, 100, 0) == 0
    assert curriculum._divergence(a, b, 4000, 0) > 0.1 and curriculum._divergence(b, a, 4000, 0) > 0.1
