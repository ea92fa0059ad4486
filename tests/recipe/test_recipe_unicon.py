"""The recipe of UniCon and the arms of CMDE: exact laws, closed forms, edges, and one small training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from softmix.net import DiTSpec, TwoStreamsSpec
from softmix.process import VE, VP
from softmix.recipe import cmde, unicon, unicon_nets
from softmix.recipe.frame import Numbers, rows_of
from softmix.recipe.paper import Scale, VerdictRow
from softmix.rng import Rng

F64 = torch.float64


# the bias of CMDE


def numeric_bias(covariance: Tensor, sigma: float, ratio: float) -> float:
    """The same for one x and one y, from the formulas of two normal numbers."""
    (a, b), (_, c) = covariance.tolist()

    def gains(noise: float) -> tuple[float, float]:
        n, m = a + sigma**2, c + noise
        det = n * m - b * b
        return (a * m - b * b) / det, b * sigma**2 / det

    (k, m), (k0, m0) = gains((ratio * sigma) ** 2), gains(0.0)
    dk, dm, s = (k - k0) / sigma**2, (m - m0) / sigma**2, (k0 - 1) / sigma**2
    own, other = a + sigma**2, m0 / sigma**2
    power = dk**2 * own + 2 * dk * dm * b + dm**2 * c
    whole = s**2 * own + 2 * s * other * b + other**2 * c
    return math.sqrt(power / whole)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("ratio", [0.1, 0.6, 1.0])
def test_the_bias_of_two_numbers(sigma: float, ratio: float) -> None:
    covariance = torch.tensor([[0.7, 0.4], [0.4, 0.5]], dtype=F64)
    assert cmde.bias(covariance, 1, sigma, ratio)[1] == pytest.approx(numeric_bias(covariance, sigma, ratio), rel=1e-9)


def test_the_bias_falls_with_the_square_of_the_ratio_and_independent_signals_have_none() -> None:
    covariance = cmde.problem_of().law.covariance
    sizes = [cmde.bias(covariance, 2, 1.0, ratio)[1] for ratio in (0.0, 0.01, 0.02)]
    assert sizes[0] == 0 and sizes[2] / sizes[1] == pytest.approx(4, rel=0.02)
    apart = torch.block_diag(covariance[:2, :2], covariance[2:, 2:])
    assert cmde.bias(apart, 2, 1.0, 1.0)[1] < 1e-12


@pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0])
def test_the_estimator_has_the_bias_of_its_closed_form(ratio: float) -> None:
    problem = cmde.problem_of()
    for sigma in cmde.SIGMAS:
        assert cmde.measured_bias(problem, sigma, ratio, 50, seed=0) < 1e-10
    assert problem.process.base == VE(high=20.0)


def test_a_wrong_ratio_is_far_from_the_closed_form() -> None:
    """The measure of the distance can fail: with the closed form of another ratio it is large."""
    problem, right = cmde.problem_of(), cmde.bias

    def other(covariance: Tensor, size: int, sigma: float, ratio: float) -> object:
        return right(covariance, size, sigma, ratio * 1.1)

    with pytest.MonkeyPatch.context() as here:
        here.setattr(cmde, "bias", other)
        assert cmde.measured_bias(problem, 1.0, 0.5, 50, seed=0) > 1e-3


def test_the_errors_given_y_are_those_that_were_made() -> None:
    """x moved by 0.3 sd of its residual along the first axis, and a residual twice as wide."""
    problem, n = cmde.problem_of(), 50_000
    mean, cov = problem.law.mean, problem.law.covariance
    z, _ = problem.draw(n, Rng(0, n))
    of_y = torch.linalg.solve(cov[2:, 2:], cov[2:, :2]).mT
    left = cov[:2, :2] - of_y @ cov[2:, :2]
    moved = z.clone()
    moved[:, 0] += 0.3 * float(left.trace().sqrt())
    assert cmde.error_given(mean, cov, moved, 2)["mean"] == pytest.approx(0.3, abs=0.02)
    known = mean[:2] + (z[:, 2:] - mean[2:]) @ of_y.mT
    wide = torch.cat([known + 2 * (z[:, :2] - known), z[:, 2:]], 1)
    assert cmde.error_given(mean, cov, wide, 2)["covariance"] == pytest.approx(3, rel=0.05)
    free = torch.cat([z[:, :2], z[:, 2:].roll(1, 0)], 1)
    assert cmde.error_given(mean, cov, free, 2)["mean"] > 0.5, "x that knows nothing of its y"


@pytest.mark.slow
def test_the_arms_of_cmde_pass_their_checks_at_quick_scale() -> None:
    rows = rows_of([run for arms in cmde.cmde_arms() for run in arms.runs(Scale.quick)], lambda line: None)
    checks = cmde.cmde_checks(Numbers(rows))
    assert all(checks.values()), checks
    other = {"CMDE 0.05": "CDiffE", "CDiffE": "CMDE 0.05"}
    swapped = [replace(row, name=other.get(row.name, row.name)) for row in rows]
    assert not any(list(cmde.cmde_checks(Numbers(swapped)).values())[k] for k in (0, 1, 3))


# UniCon


def test_the_tasks_have_their_laws_on_a_joint_gaussian() -> None:
    """6,000 items and 40 steps: all errors are below 7 %, those of exact samples 2 %; the tied model is far off."""
    found = unicon.on_gauss(0, 6000, 40)
    for name in unicon.GAUSS_ROLES:
        error = max(found[name, "mean"], found[name, "covariance"])
        assert (error > 0.3) if name == unicon.TIED else (error < 0.07), name


def test_draws_of_the_pair_are_exact_and_independent_ones_are_not() -> None:
    found = unicon.on_mixture(0, 4000)
    for count in unicon.COUNTS:
        metric = f"ks@{count}"
        assert found[unicon.DRAWS, metric] < 2.2 and found[unicon.TURNS, metric] < 2.2
        assert found[unicon.PRODUCT, metric] > 3 and found[unicon.MEANS, metric] > 5


def rows(worse: str = "") -> list[VerdictRow]:
    """The numbers of a recipe that holds, or with one row that does not."""
    values = {(name, metric): 0.01 for name in unicon.GAUSS_ROLES for metric in ("mean", "covariance")}
    values |= {(name, f"ks@{k}"): 1.0 for name in unicon.MIXTURE_ROLES for k in unicon.COUNTS}
    values |= {(name, "ks@1"): 20.0 for name in (unicon.PRODUCT, unicon.MEANS)}
    values[unicon.TIED, "covariance"] = 0.9
    for name in unicon_nets.TRAININGS:
        tied = 3.0 if name == unicon_nets.TIED else 1.0
        values |= {(name, task): tied for task in ("estimation", "control", "replaced estimation", "replaced control")}
        values[name, "disagreement@1"] = 0.1 if name == unicon_nets.SOFT else 0.4
    for key in values:
        if key[0] == worse:
            values[key] = {unicon.TIED: 0.01, unicon_nets.TIED: 1.0}.get(worse, 5.0)
    return [VerdictRow(name, "ours", metric, value, 0.0, 1) for (name, metric), value in values.items()]


def test_every_check_can_fail() -> None:
    assert all(unicon.checks(Numbers(rows())).values())
    for worse in ("control", "in turns", "coarse control", unicon.TIED, unicon.DRAWS, unicon.TURNS):
        assert not all(unicon.checks(Numbers(rows(worse))).values()), worse
    for worse in (unicon_nets.OURS, unicon_nets.TIED, unicon_nets.SOFT):
        assert not all(unicon.checks(Numbers(rows(worse))).values()), worse
    exact = [row for row in rows() if row.name not in unicon_nets.TRAININGS]
    assert len(unicon.checks(Numbers(exact))) == 7, "without nets the checks are those of the exact laws"


# nets


def test_edges_are_the_lengths_of_gradients() -> None:
    flat = torch.full((1, 1, 6, 6), 0.3, dtype=F64)
    assert torch.equal(unicon_nets.edges(flat, Rng(0, 1)), torch.full_like(flat, -1.0))
    step = torch.ones(1, 1, 6, 6, dtype=F64)
    step[..., :3] = -1
    found = unicon_nets.edges(step, Rng(0, 1))[0, 0]
    assert torch.allclose(found[:, 2:4], torch.ones(6, 2, dtype=F64)) and torch.allclose(
        found[:, :2], -torch.ones(6, 2).double()
    )
    turned = unicon_nets.edges(step.mT.contiguous(), Rng(0, 1))[0, 0]
    assert torch.allclose(turned, found.T)
    slope = torch.linspace(-0.5, 0.5, 6, dtype=F64).expand(1, 1, 6, 6)
    assert torch.allclose(unicon_nets.edges(slope, Rng(0, 1))[..., 1:-1], torch.tensor(2 * 0.2 - 1).double())


def test_a_tiny_training_of_each_kind_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps on digits: every row has its numbers, all finite, and a second call reads the finished run."""
    monkeypatch.setattr(unicon_nets, "NET", TwoStreamsSpec(DiTSpec(width=16, depth=1, patch=4)))
    monkeypatch.setattr(unicon_nets, "STEPS", 3)
    monkeypatch.setattr(unicon_nets, "RUNS", 2)
    for name in unicon_nets.TRAININGS:
        found = unicon_nets.train_and_measure(name, "digits", tmp_path, 0, 128, 4)
        assert all(math.isfinite(value) for value in found.values()) and {key[0] for key in found} == {name}
        metrics = {metric for _, metric in found}
        assert ("estimation" in metrics) == (name != unicon_nets.FOR_CONTROL)
        assert ("control" in metrics) == (name != unicon_nets.FOR_ESTIMATION)
        assert ("replaced control" in metrics) == (name == unicon_nets.TIED)
        assert ("disagreement@1" in metrics) == (name not in (unicon_nets.FOR_CONTROL, unicon_nets.FOR_ESTIMATION))


def test_the_error_of_nets_is_that_of_the_mean_given_the_other() -> None:
    """For the exact posterior of images of 2 x 1 pixels: the trace of Cov[x | y] over the pixels."""
    from softmix.oracle import JointProblem, joint
    from softmix.process import TwoClocks

    law = joint((2, 2), components=1).law
    problem = JointProblem("images", law, TwoClocks(VP(), (1, 1), 3), (2, 2, 1))
    z, _ = problem.draw(4000, Rng(0, 4000))
    x, y = z[:, :1], z[:, 1:]
    for stream, other, truth in ((0, y, x), (1, x, y)):
        right = float(problem.given(stream, other[:1]).covariance.trace()) / 2
        assert unicon_nets._error(problem.denoiser(), stream, other, truth, 0) == pytest.approx(right, rel=0.1)
    replaced = unicon_nets._replaced_error(problem.denoiser(), 0, y, x, 0)
    assert replaced > 1.2 * unicon_nets._error(problem.denoiser(), 0, y, x, 0), "replacement is biased"
