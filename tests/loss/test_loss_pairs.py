"""The energy score over all pairs, against its sums written out, with its derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmix.loss.energy import energy
from softmix.loss.pairs import all_pairs
from softmix.rng import Rng

F64 = torch.float64


def written_out(draws: Tensor, truth: Tensor) -> Tensor:
    """`all_pairs` by automatic differentiation, from differences."""
    n = len(draws)
    near = (draws[:, None] - truth[None]).square().mean(2).sqrt().mean()
    pairs = [(draws[j] - draws[k]).square().mean(0).sqrt().mean() for j in range(n) for k in range(j)]
    return near - torch.stack(pairs).mean() / 2


@pytest.mark.parametrize("shape", [(2, 3, 1), (7, 4, 5), (40, 30, 2), (2, 1, 1), (9, 1, 4)])
def test_the_derivative_of_all_pairs(shape: tuple[int, int, int]) -> None:
    draws = Rng(0, shape[0]).normal(shape, F64).requires_grad_()
    truth = Rng(1, 6).normal((6, *shape[1:]), F64)
    found, right = all_pairs(draws, truth), written_out(draws, truth)
    assert float(found.detach()) == pytest.approx(float(right.detach()), rel=1e-9)
    slope, truth_slope = (torch.autograd.grad(3 * value, draws)[0] for value in (found, right))
    assert float((slope - truth_slope).norm()) <= 1e-6 * float(truth_slope.norm())
    assert float(truth_slope.norm()) > 0


def test_all_pairs_of_equal_draws_have_a_derivative() -> None:
    """The distance of two equal draws is 0, and so is its derivative."""
    draws = torch.ones(3, 2, 1, dtype=F64, requires_grad=True)
    all_pairs(draws, torch.ones(2, 2, 1, dtype=F64)).backward()
    assert draws.grad is not None and torch.equal(draws.grad, torch.zeros_like(draws))


def test_equal_numbers_have_no_derivative_in_each_other() -> None:
    """The slope of |a - b| is the sign of a - b, and 0 where they are equal. Numbers take a path of their own."""
    draws = torch.tensor([[0.0, 1], [2, 1], [0, 3], [2, 3]], dtype=F64)[:, None].requires_grad_()
    truth = torch.tensor([[0.0, 1], [1, 1], [2, 2]], dtype=F64)[:, None]
    value = all_pairs(draws, truth)
    (slope,) = torch.autograd.grad(value, draws)
    a, b = draws.detach(), truth
    near, apart = a[:, None] - b, a[:, None] - a
    assert float(value.detach()) == pytest.approx(float(near.abs().mean() - apart.abs().sum() / (2 * 4 * 3 * 2)))
    assert torch.allclose(slope, near.sign().mean(1) / (4 * 2) - apart.sign().sum(1) / (4 * 3 * 2), rtol=1e-12)


def test_numbers_far_from_zero_keep_their_digits() -> None:
    # eighths, so that float32 holds them exactly at this place
    draws, truth = ((8 * Rng(seed, n).normal((n, 1, 8))).round() / 8 for seed, n in ((0, 300), (1, 200)))
    near, far = (float(all_pairs(draws + shift, truth + shift)) for shift in (0, 2**17))
    assert far == pytest.approx(near, rel=1e-5)


def test_all_pairs_in_half_precision_are_computed_in_float32() -> None:
    draws, truth = Rng(0, 30).normal((30, 16, 3)).bfloat16(), Rng(1, 20).normal((20, 16, 3)).bfloat16()
    one, other = draws.clone().requires_grad_(), draws.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = all_pairs(one, truth)
    right = all_pairs(other, truth.float())
    assert found.dtype == torch.float32 and float(found.detach()) == pytest.approx(float(right.detach()), rel=1e-6)
    slopes = [torch.autograd.grad(value, x)[0].float() for value, x in ((found, one), (right, other))]
    assert float((slopes[0] - slopes[1]).norm()) < 3e-3 * float(slopes[1].norm())


@pytest.mark.parametrize("m", [2, 3, 5])
def test_the_energy_score_compares_each_pair_of_draws_once(m: int) -> None:
    draws, truth = Rng(0, m).normal((m, 4, 3), F64), Rng(1, 4).normal((4, 3), F64)
    length = lambda d: d.abs().sum(2)  # noqa: E731
    pairs = [length((draws[j] - draws[k])[None])[0] for j in range(m) for k in range(j)]
    right = length(draws - truth).mean(0) - 0.35 * torch.stack(pairs).mean(0)
    assert torch.allclose(energy(draws, truth, length, 0.7), right, rtol=1e-12)


def test_autocast_does_not_change_the_derivative() -> None:
    """The derivative is a difference of two large sums, far from the origin: half precision would lose it."""
    draws, truth = 20 + Rng(0, 30).normal((30, 16, 3)), 20 + Rng(1, 20).normal((20, 16, 3))
    slopes = []
    for half in (False, True):
        x = draws.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = all_pairs(x, truth)
        slopes.append(torch.autograd.grad(value, x)[0])
    assert torch.equal(*slopes)
